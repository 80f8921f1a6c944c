# SPDX-License-Identifier: Apache-2.0
"""The one recipe from a checkpoint to a model that can run.

Build on the meta device, prune, quantise, fill tensor by tensor, watch for cancellation, compile.
Runs in the thread that builds the policy. Independent of prompts and actions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.pages import keep_freed, release_freed, release_pages
from vla_ros.openvla.placement import Placement
from vla_ros.openvla.quantization import QuantizedLinear, replace_linears
from vla_ros.types import Progress, ProgressCallback

_TENSORS_PER_REPORT = 16
# Beside quantised layers, smaller tensors are copied out of the mapped file: the system may map two
# megabytes at the touch of a page, and norms and biases lie everywhere among the weights.
_COPIED_BYTES = 64 << 20


class Weights(Protocol):
    """A source of a model's tensors: a :class:`.Checkpoint`, or one that makes them up.

    ``directory`` has the config.json; ``is_mapped`` says whether tensors are views of files.
    """

    directory: Path
    is_mapped: bool

    def check_shapes(
        self, expected: Mapping[str, tuple[int, ...]], unused: Collection[str] = ()
    ) -> None:
        """Compare the tensors with those of a model; see :meth:`.Checkpoint.check_shapes`."""

    def tensors(self, names: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, each once."""


def load(
    checkpoint: Weights,
    config: OpenVLAConfig,
    placement: Placement,
    progress: ProgressCallback | None = None,
) -> OpenVLAModel:
    """Return the checkpoint's model, ready to run.

    :raises CheckpointError: if tensors and config.json do not fit, or a value is not finite.
    """
    model = build_model(checkpoint, config)
    model.vision_backbone.prune()
    names = model.stored_names()
    quantized = replace_linears(model, placement.quantization, placement.device)
    exact = model.exact_names()
    state_dict = _read(checkpoint, names, exact, quantized, placement, progress)
    model.load_state_dict(state_dict, assign=True, strict=True)
    model.eval().requires_grad_(False)
    model.watch_layers()
    if placement.device.type == 'cpu':
        keep_freed()
    if placement.compile:
        model.compile_layers()
    return model


def build_model(checkpoint: Weights, config: OpenVLAConfig) -> OpenVLAModel:
    """Return the model on the meta device, without weights, not pruned.

    :raises CheckpointError: if names or shapes of the checkpoint's tensors are not the model's.
    """
    try:
        with torch.device('meta'):
            model = OpenVLAModel(config)
    except CheckpointError:
        raise
    except Exception as error:  # timm raises errors of many types
        reason = ' '.join(str(error).split())
        raise CheckpointError(
            f'{checkpoint.directory / "config.json"} does not make a model: {reason}'
        ) from error
    state_dict = model.state_dict()
    checkpoint.check_shapes(
        {name: tuple(state_dict[key].shape) for name, key in model.stored_names().items()},
        model.unused_names(),
    )
    return model


def _read(
    checkpoint: Weights,
    names: Mapping[str, str],
    exact: Collection[str],
    quantized: Mapping[str, QuantizedLinear],
    placement: Placement,
    progress: ProgressCallback | None,
) -> dict[str, Tensor]:
    """Fill the quantised layers, and return all other tensors by their name in the model.

    Each weight is quantised as soon as it is read: memory holds the finished part of the model and
    one weight. Of a large tensor that stays mapped it holds what inferences read: of an embedding,
    the rows of the words.

    :param names: name in the checkpoint -> name in the model.
    :param exact: names in the model of what stays on the CPU in float32.
    """
    state_dict = {}
    for done, (name, stored) in enumerate(checkpoint.tensors(set(names)), start=1):
        key = names[name]
        module, _, parameter = key.rpartition('.')
        if parameter == 'weight' and module in quantized:
            quantized[module].quantize(stored.cpu(), placement.device, placement.dtype)
        elif key in exact:
            state_dict[key] = stored.to('cpu', torch.float32)
        else:
            copied = bool(quantized) and stored.nbytes < _COPIED_BYTES
            state_dict[key] = stored.to(placement.device, placement.dtype, copy=copied)
        if checkpoint.is_mapped and (quantized or state_dict.get(key) is not stored):
            release_pages(stored)
        if done % _TENSORS_PER_REPORT and done != len(names):
            continue
        if quantized:
            release_freed()
        if progress is not None:
            progress(Progress('reading tensors', done, len(names)))
    return state_dict
