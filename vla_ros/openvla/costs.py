"""What an inference asks of the machine, from the model's shapes: nothing is loaded or computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.language import KVCache
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.quantization import QuantizedLinear, replace_linears


@dataclass(frozen=True)
class Costs:
    """
    :param positions: of the prefill: patches, the prompt with its pads, and the draft's places.
    :param flops: floating-point operations of the products of matrices in ``vision``,
        ``projector``, ``prefill`` and one ``decode_step``; a multiply-add counts as two, and
        attention as if it were not causal.
    :param decode_step_bytes: of weights that one decode step reads, whatever the batch size.
    :param model_bytes: of all weights that are loaded.
    """

    positions: int
    flops: dict[str, int]
    decode_step_bytes: int
    model_bytes: int


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
    """Run the plain model on the meta device, which knows shapes only.

    :param prompt_tokens: with the pads and the draft's places.
    :param device: where it is to run, which decides how it is quantised.
    :param rows: logits that the prefill makes.
    """
    model = _shapes_of(config, dtype)
    with torch.device('meta'):
        size = config.towers[0].image_size
        pixel_values = torch.empty(batch_size, 3 * len(config.towers), size, size, dtype=dtype)
        input_ids = torch.empty(batch_size, prompt_tokens, dtype=torch.int64)
        lengths = torch.empty(batch_size, dtype=torch.int64)
        vision, features = _counted(lambda: model.vision_backbone(pixel_values))
        projector, image_embeds = _counted(lambda: model.projector(features))
        inputs_embeds = model.embed(input_ids, image_embeds)  # [B, positions, hidden]
        positions = inputs_embeds.shape[1]
        language_model = model.language_model
        cache = KVCache.empty(config.llama, inputs_embeds, positions + 1)
        prefill, logits = _counted(
            lambda: language_model.prefill(inputs_embeds, lengths, cache, rows)
        )
        token_ids = logits.argmax(dim=2)[:, :1]
        decode_step, _ = _counted(lambda: language_model.decode(token_ids, lengths[:, None], cache))
    _quantize(model, quantization, device)
    return Costs(
        positions,
        {'vision': vision, 'projector': projector, 'prefill': prefill, 'decode_step': decode_step},
        # Of the embedding a step reads a row only.
        _weight_bytes(language_model) - _weight_bytes(language_model.model.embed_tokens),
        _weight_bytes(model),
    )


def model_bytes(
    config: OpenVLAConfig, dtype: torch.dtype, quantization: str = 'none', device: str = 'cpu'
) -> int:
    """Of all weights that are loaded; the same as in :func:`count_costs`, and nothing else."""
    model = _shapes_of(config, dtype)
    _quantize(model, quantization, device)
    return _weight_bytes(model)


def _shapes_of(config: OpenVLAConfig, dtype: torch.dtype) -> OpenVLAModel:
    """The model on the meta device, without what never runs."""
    with torch.device('meta'):
        model = OpenVLAModel(config).to(dtype)
        model.vision_backbone.prune()
    return model


def _quantize(model: OpenVLAModel, quantization: str, device: str) -> None:
    """What a layer takes depends on where it is to run."""
    if quantization != 'none':
        replace_linears(model, quantization, torch.device(device))


def _weight_bytes(module: nn.Module) -> int:
    quantized = (one for one in module.modules() if isinstance(one, QuantizedLinear))
    return sum(parameter.nbytes for parameter in module.parameters()) + sum(
        one.weight_bytes for one in quantized
    )


def _counted(run: Callable[[], torch.Tensor]) -> tuple[int, torch.Tensor]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result
