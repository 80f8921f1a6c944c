"""The OpenVLA network: vision backbone, projector, language model; and how it is loaded.

Runs in the policy's thread. Knows nothing of prompts, actions or ROS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vla_ros.openvla.checkpoint import Checkpoint, release_freed, release_pages
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.language import Llama
from vla_ros.openvla.placement import has_bfloat16
from vla_ros.openvla.quantization import replace_linears
from vla_ros.openvla.vision import Projector, VisionBackbone
from vla_ros.types import Cancel, InferenceCancelled, Progress, ProgressCallback

# Of one kind of layer, in one process: for each prompt length, batch size, dtype and model that was
# ever loaded. torch's own limits, 8 and 256, are meant for shapes that vary without end.
_MOST_GRAPHS = 4096

# A pass of six tokens over one of a single token, as measured (docs/benchmarks.md): on a CPU
# reading the weights is not all that a product costs.
_CPU_BLOCK_COSTS = {torch.float32: 4.0, torch.bfloat16: 4.0, 'int4': 4.0}
_ONEDNN_BFLOAT16_BLOCK_COST = 1.1  # oneDNN takes nearly as long for a single row


class OpenVLAModel(nn.Module):
    """Its parameters carry the checkpoint's names, but for LayerScale (see stored_key)."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.vision_backbone = VisionBackbone(config.towers)
        self.projector = Projector(
            self.vision_backbone.embed_dim,
            config.llama.hidden_size,
            fused=len(config.towers) == 2,
        )
        self.language_model = Llama(config.llama)
        self._cancel: Cancel | None = None
        self._is_compiled = False

    @property
    def device(self) -> torch.device:
        return self.language_model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.lm_head.weight.dtype

    def embed(self, input_ids: Tensor, image_embeds: Tensor) -> Tensor:
        """Put the patches right behind the first token (BOS); nothing separates them.

        :param input_ids: int64 [B, T].
        :param image_embeds: [B, N, hidden].
        :returns: [B, T + N, hidden].
        """
        text = self.language_model.model.embed_tokens(input_ids)  # [B, T, hidden]
        return torch.cat([text[:, :1], image_embeds, text[:, 1:]], dim=1)

    def cancel_with(self, cancel: Cancel | None) -> None:
        """From now on, stop before the next layer once ``cancel`` is set."""
        self._cancel = cancel

    def check_cancelled(self, *_: object) -> None:
        """:raises InferenceCancelled: if told to stop."""
        if self._cancel is not None and self._cancel.is_set():
            raise InferenceCancelled

    def watch_layers(self) -> None:
        """Look at the cancellation before every layer."""
        for layer in self._layers():
            layer.register_forward_pre_hook(self.check_cancelled)

    def compile_layers(self) -> None:
        """Compile each layer when it first meets a shape; all alike share one graph.

        Hooks run outside the graphs, so a compiled layer is watched as well as any.
        """
        for layer in self._layers():
            layer.forward = torch.compile(layer.forward, fullgraph=True, dynamic=False)
        self._is_compiled = True

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Allow a compiled model all its graphs inside; to be entered by the thread that infers.

        torch's limits are a setting of each thread: the process's other models keep theirs.
        """
        if not self._is_compiled:
            yield
            return
        with torch._dynamo.config.patch(
            recompile_limit=_MOST_GRAPHS, accumulated_recompile_limit=_MOST_GRAPHS
        ):
            yield

    def _layers(self) -> Iterator[nn.Module]:
        yield from self.vision_backbone.blocks()
        yield from self.language_model.model.layers


def build_model(checkpoint: Checkpoint, config: OpenVLAConfig) -> OpenVLAModel:
    """On the meta device, without weights; the checkpoint is held against its names and shapes.

    :raises CheckpointError: if the checkpoint is not exactly this model's.
    """
    try:
        with torch.device('meta'):
            model = OpenVLAModel(config)
    except CheckpointError:
        raise
    except Exception as error:  # timm raises what it likes
        reason = ' '.join(str(error).split())
        raise CheckpointError(
            f'{checkpoint.directory / "config.json"} does not make a model: {reason}'
        ) from error
    checkpoint.check_shapes(
        {stored_key(key): tuple(value.shape) for key, value in model.state_dict().items()}
    )
    return model


def load_model(
    checkpoint: Checkpoint,
    config: OpenVLAConfig,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str = 'none',
    progress: ProgressCallback | None = None,
) -> OpenVLAModel:
    """Build the model, then fill it tensor by tensor.

    What is quantised is so at once: beside the finished model there is never more than one weight.

    :param quantization: ``none``, ``int8`` or ``int4``.
    :raises CheckpointError: if the checkpoint is not exactly this model's.
    """
    model = build_model(checkpoint, config)
    model.vision_backbone.prune()
    needed = {stored_key(key): key for key in model.state_dict()}
    quantized = {} if quantization == 'none' else replace_linears(model, quantization, device)
    state_dict = {}
    for done, (name, stored) in enumerate(checkpoint.tensors(set(needed)), start=1):
        key = needed[name]
        module, _, parameter = key.rpartition('.')
        if parameter == 'weight' and module in quantized:
            quantized[module].quantize(stored, device, dtype)
        else:
            state_dict[key] = stored.to(device=device, dtype=dtype)
        if state_dict.get(key) is not stored:
            release_pages(stored)
        if done % 16 and done != len(needed):
            continue
        if quantized:
            release_freed()
        if progress is not None:
            progress(Progress('reading tensors', done, len(needed)))
    model.load_state_dict(state_dict, assign=True, strict=True)
    model.watch_layers()
    if device.type == 'cpu':
        model.language_model.block_cost = _cpu_block_cost(dtype, quantization)
    return model.eval().requires_grad_(False)


def _cpu_block_cost(dtype: torch.dtype, quantization: str) -> float:
    if quantization == 'none' and dtype == torch.bfloat16 and has_bfloat16(torch.device('cpu')):
        return _ONEDNN_BFLOAT16_BLOCK_COST
    return _CPU_BLOCK_COSTS.get(dtype if quantization == 'none' else quantization, 1.0)


def stored_key(key: str) -> str:
    """The checkpoint's name of a parameter: LayerScale's ``gamma`` is stored renamed, since old
    transformers rewrote that word in keys."""
    for branch in ('ls1', 'ls2'):
        if key.endswith(f'.{branch}.gamma'):
            return key.removesuffix('gamma') + 'scale_factor'
    return key
