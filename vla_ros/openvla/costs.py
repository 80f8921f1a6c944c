# SPDX-License-Identifier: Apache-2.0
"""The costs of an inference: operations and bytes of the model's shapes; blocks, as measured.

Loads and computes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vla_ros.openvla.action_head import BridgeHead
from vla_ros.openvla.chunks import bridge_inputs, mean_embedding, parallel_hidden
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.language import KVCache
from vla_ros.openvla.layout import Layout
from vla_ros.openvla.model import ACTION_QUERIES, OpenVLAModel
from vla_ros.openvla.processor import PROMPT_LENGTHS
from vla_ros.openvla.quantization import QuantizedLinear, replace_linears

# What a batch of eight took on an H200 beyond eight rows of keys and values, for each row.
_ROW_BYTES = 40_000_000


class BlockCosts:
    """The cost of a pass of a block of tokens, in passes of one token, by batch size.

    A GPU waits for the weights in either; on a CPU the products themselves take time. The warm-up
    measures it. It decides which passes are run, and so how soon an action comes.

    :param measured: whether what is added counts; otherwise a block costs as much as a token.
    """

    def __init__(self, measured: bool = True) -> None:
        self._measured = measured
        self._ratios: dict[int, list[float]] = {}

    def add(self, batch_size: int, passes: Sequence[tuple[int, float]]) -> None:
        """Add the passes of one inference.

        :param passes: of each its number of tokens of a row, and its duration [s]. The first one
            of each number is not used: it may compile, or read weights from the disk.
        """
        if not self._measured:
            return
        seconds: dict[int, list[float]] = {}
        for width, duration in passes:
            seconds.setdefault(width, []).append(duration)
        block = max(seconds, default=1)
        if block > 1 and all(len(seconds.get(width, ())) > 1 for width in (1, block)):
            # Other load only ever makes a pass slower, so the fastest one is the least disturbed.
            ratio = min(seconds[block][1:]) / min(seconds[1][1:])
            # A block reads what a token reads, and as many tokens replace it.
            self._ratios.setdefault(batch_size, []).append(min(max(ratio, 1.0), float(block)))

    def of(self, batch_size: int) -> float:
        """Return the median of the inferences of a batch size; 1 if there was none."""
        return statistics.median(self._ratios.get(batch_size, [1.0]))


@dataclass(frozen=True)
class Costs:
    """The costs of one inference.

    :param positions: of the prefill: patches, the prompt with its pads, and the places of the draft
        or of the chunk.
    :param flops: floating-point operations of the products of matrices in ``vision``,
        ``projector``, ``prefill``, and one ``decode_step`` or the ``head``; a multiply-add counts
        as two, and attention as if it were not causal.
    :param weight_bytes: of the weights that each of these reads, for any batch size. A prompt and
        a token read few rows of the embedding; these are not counted.
    :param model_bytes: of all weights that are loaded.
    """

    positions: int
    flops: dict[str, int]
    weight_bytes: dict[str, int]
    model_bytes: int

    @property
    def decode_step_bytes(self) -> int:
        """Bytes of the weights that one decode step reads; 0 if nothing is decoded."""
        return self.weight_bytes.get('decode_step', 0)


@torch.inference_mode()
def count_costs(
    config: OpenVLAConfig,
    dtype: torch.dtype,
    prompt_tokens: int,
    batch_size: int = 1,
    quantization: str = 'none',
    device: str = 'cpu',
    rows: int = 1,
) -> Costs:
    """Return the costs, counted while the model runs on the meta device, which computes shapes.

    :param prompt_tokens: of one prompt, with its pads and the draft's places.
    :param device: where the model would run; it decides how layers are quantised.
    :param rows: number of logits that the prefill makes; only where tokens are decoded.
    """
    model = _shapes_of(config, dtype)
    with torch.device('meta'):
        input_ids = torch.empty(batch_size, prompt_tokens, dtype=torch.int64)
        lengths = torch.empty(batch_size, dtype=torch.int64)
        pixel_values = _pixel_values(config, batch_size, dtype)
        if config.layout is not None and not config.decodes:
            positions, flops = _chunk_costs(model, config.layout, input_ids, lengths, pixel_values)
            replace_linears(model, quantization, torch.device(device))
            return Costs(positions, flops, _stage_bytes(model, flops), _weight_bytes(model))
        vision, features = _counted(lambda: model.vision_backbone(pixel_values))
        projector, embeds = _counted(lambda: model.projector(features))
        image_embeds = embeds.reshape(batch_size, -1, embeds.shape[2])
        inputs_embeds = model.embed(input_ids, image_embeds)  # [B, positions, hidden]
        positions = inputs_embeds.shape[1]
        language_model = model.language_model
        cache = KVCache.empty(config.llama, inputs_embeds, positions + 1)
        prefill, logits = _counted(
            lambda: language_model.prefill(inputs_embeds, lengths, cache, rows)
        )
        token_ids = logits.argmax(dim=2)[:, :1]
        decode_step, _ = _counted(lambda: language_model.decode(token_ids, lengths[:, None], cache))
    replace_linears(model, quantization, torch.device(device))
    flops = {
        'vision': vision,
        'projector': projector,
        'prefill': prefill,
        'decode_step': decode_step,
    }
    return Costs(positions, flops, _stage_bytes(model, flops), _weight_bytes(model))


def _stage_bytes(model: OpenVLAModel, stages: Iterable[str]) -> dict[str, int]:
    """Return ``Costs.weight_bytes`` of these stages."""
    language, head = model.language_model, model.action_head
    reads_embedding = head is None and language.lm_head is None  # it makes the logits, too
    language_bytes = _weight_bytes(language)
    if not reads_embedding:
        language_bytes -= _weight_bytes(language.model.embed_tokens)
    logits_bytes = 0 if language.lm_head is None else _weight_bytes(language.lm_head)
    found = {
        'vision': _weight_bytes(model.vision_backbone),
        'projector': _weight_bytes(model.projector),
        'prefill': language_bytes,
        'decode_step': language_bytes,
        'head': logits_bytes if head is None else _weight_bytes(head),
    }
    return {stage: found[stage] for stage in stages}


def _pixel_values(config: OpenVLAConfig, batch_size: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the pixel values of a batch: [B * cameras, 3 * towers, H, W]."""
    images = batch_size * len(config.cameras)
    size = config.towers[0].image_size
    return torch.empty(images, 3 * len(config.towers), size, size, dtype=dtype)


def _chunk_costs(
    model: OpenVLAModel,
    layout: Layout,
    input_ids: torch.Tensor,
    lengths: torch.Tensor,
    pixel_values: torch.Tensor,
) -> tuple[int, dict[str, int]]:
    """Return the positions and the operations of a pass that gives chunks; see :class:`Costs`.

    :param input_ids: int64 [B, T].
    :param lengths: int64 [B].
    """
    batch_size, head = len(input_ids), model.action_head
    words = None
    if layout.film:
        words = mean_embedding(model, input_ids, lengths).repeat(len(layout.cameras), 1)
    vision, features = _counted(lambda: model.vision_backbone(pixel_values, words))
    projector, embeds = _counted(lambda: model.projector(features))
    image_embeds = embeds.reshape(batch_size, -1, embeds.shape[2])
    state = None
    if layout.state_dim:
        state = torch.empty(batch_size, layout.state_dim, dtype=embeds.dtype)
    inputs = model, input_ids, lengths, image_embeds, state
    if isinstance(head, BridgeHead):
        task: list[torch.Tensor] = []
        adapter: list[torch.Tensor] = []

        def run() -> torch.Tensor:
            task[:], adapter[:] = bridge_inputs(*inputs)
            return task[-1]

        prefill, _ = _counted(run)
        slots = ACTION_QUERIES - 1
        cost, _ = _counted(lambda: head(task, adapter))
    else:
        prefill, hidden = _counted(lambda: parallel_hidden(*inputs))
        slots = hidden.shape[1] + 1 + (state is not None)
        cost, _ = _counted(lambda: head(hidden) if head else model.language_model.logits(hidden))
    positions = input_ids.shape[1] + image_embeds.shape[1] + slots
    return positions, {'vision': vision, 'projector': projector, 'prefill': prefill, 'head': cost}


def model_bytes(
    config: OpenVLAConfig, dtype: torch.dtype, quantization: str = 'none', device: str = 'cpu'
) -> int:
    """Return ``Costs.model_bytes`` alone, which takes less time."""
    model = _shapes_of(config, dtype)
    replace_linears(model, quantization, torch.device(device))
    return _weight_bytes(model)


def robot_bytes(config: OpenVLAConfig, dtype: torch.dtype, keeps_patches: bool) -> tuple[int, int]:
    """Return the memory for one robot: while it infers with others, and between its inferences.

    The first is its row of the keys and values, for the longest prompt, and of everything else.
    Graphs keep it, too. The second is its kept patches.

    :param keeps_patches: whether ``recomputed_patches`` is below 1.
    """
    llama = config.llama
    heads = 2 * llama.num_hidden_layers * llama.num_key_value_heads
    position = heads * llama.head_dim * dtype.itemsize  # keys and values of all layers
    if not config.decodes:
        return _ROW_BYTES, 0
    patches = len(config.cameras) * _shapes_of(config, dtype).vision_backbone.patches
    most = config.decoded_tokens(config.norm_stats[config.longest_key].action_dim)
    row = (patches + PROMPT_LENGTHS[-1] + 2 * most) * position
    embeds = patches * llama.hidden_size * dtype.itemsize
    return row + _ROW_BYTES, ((1 + patches) * position + embeds if keeps_patches else 0)


def _shapes_of(config: OpenVLAConfig, dtype: torch.dtype) -> OpenVLAModel:
    """Return the pruned model on the meta device."""
    with torch.device('meta'):
        model = OpenVLAModel(config).to(dtype)
        model.vision_backbone.prune()
    return model


def _weight_bytes(module: nn.Module) -> int:
    quantized = (one for one in module.modules() if isinstance(one, QuantizedLinear))
    return sum(parameter.nbytes for parameter in module.parameters()) + sum(
        one.weight_bytes for one in quantized
    )


def _counted(run: Callable[[], torch.Tensor]) -> tuple[int, torch.Tensor]:
    """Return the floating-point operations of ``run``, and its result."""
    # Imported here because loading a policy needs this module, but not this slow import.
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result
