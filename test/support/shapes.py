# SPDX-License-Identifier: Apache-2.0
"""The shapes that reach each module of a policy."""

from __future__ import annotations

from torch import Tensor, nn

from vla_ros.openvla import OpenVLAPolicy


def record_shapes(policy: OpenVLAPolicy) -> set[tuple[object, ...]]:
    """From now on gathers what reaches each module: its name and the shapes."""
    seen: set[tuple[object, ...]] = set()

    def shape(x: Tensor | list[Tensor] | None) -> object:
        if isinstance(x, list):
            return tuple(shape(one) for one in x)
        return None if x is None else tuple(x.shape)

    def listen(name: str, module: nn.Module) -> None:
        def note(_: nn.Module, inputs: tuple[Tensor | list[Tensor] | None, ...]) -> None:
            seen.add((name, *map(shape, inputs)))

        module.register_forward_pre_hook(note)

    for name, module in policy._model.named_modules():
        listen(name, module)
    return seen
