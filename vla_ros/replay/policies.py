"""Which policies are asked: every combination of the values given, checked before any is loaded.

Where there is a model, torch is imported when the first choice is checked, not before.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vla_ros.policies import PolicyChoice
from vla_ros.scripted import is_scripted
from vla_ros.types import PolicyError


@dataclass(frozen=True)
class Choice(PolicyChoice):
    """One policy. What several may be chosen by is part of ``name``."""

    @property
    def name(self) -> str:
        """What tells it from the other choices; fit for a folder's name."""
        words = [self.device.replace(':', ''), self.dtype, self.quantization]
        return '-'.join(words if self.preprocessing == 'raw' else [*words, self.preprocessing])


def choose(
    common: Choice,
    devices: Sequence[str],
    dtypes: Sequence[str],
    quantizations: Sequence[str],
    preprocessings: Sequence[str],
) -> list[Choice]:
    """All combinations, each once, the first values first; none of them says ``auto``.

    :param common: what all have in common.
    :raises PolicyError: if one of the values can't be had here.
    """
    if is_scripted(common.model):
        asked = (*devices, *dtypes, *quantizations, *preprocessings, common.rotate_180)
        if asked != ('auto', 'auto', 'none', 'raw', False):
            raise PolicyError(
                f'model {common.model!r} has no device, dtype, quantization or preprocessing; '
                'leave these options out'
            )
        return [dataclasses.replace(common, device='cpu', dtype='float64')]
    from vla_ros.openvla.placement import check_quantization, choose_device, choose_dtype

    choices = []
    for device_name, dtype_name, quantization, mode in itertools.product(
        devices, dtypes, quantizations, preprocessings
    ):
        device = choose_device(device_name)
        dtype = choose_dtype(dtype_name, device)
        check_quantization(quantization, device, dtype)
        choice = dataclasses.replace(
            common,
            device=str(device),
            dtype=str(dtype).removeprefix('torch.'),
            quantization=quantization,
            preprocessing=mode,
        )
        choice.picture_preprocessing()  # checked
        choices.append(choice)
    return list(dict.fromkeys(choices))


def recipe(choice: Choice) -> dict[str, Any]:
    """What else its answers may depend on, once it is loaded."""
    if is_scripted(choice.model):
        return {}
    import torch

    preprocessing = choice.picture_preprocessing()
    return {
        'preprocessing': preprocessing.mode,
        'center_crop': preprocessing.center_crop,
        'rotate_180': preprocessing.rotate_180,
        'torch': torch.__version__,
        'threads': torch.get_num_threads(),
    }
