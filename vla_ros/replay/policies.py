"""Which policies are asked: every combination of the values given, checked before any is loaded.

Where there is a model, torch is imported when the first choice is checked, not before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vla_ros.scripted import ScriptedPolicy, is_scripted
from vla_ros.types import Policy, PolicyError, ProgressCallback


@dataclass(frozen=True)
class Choice:
    """One policy. An option that changes what a policy says is a field here, part of ``name``, and
    handed on in :func:`load`.

    :param model: checkpoint folder, hub id, or ``scripted:...``.
    :param revision: of a hub id; empty: its main branch.
    """

    model: str
    revision: str
    device: str
    dtype: str
    quantization: str
    preprocessing: str = 'raw'
    center_crop: bool = False
    rotate_180: bool = False

    @property
    def name(self) -> str:
        """What tells it from the other choices; fit for a folder's name."""
        words = [self.device.replace(':', ''), self.dtype, self.quantization]
        return '-'.join(words if self.preprocessing == 'raw' else [*words, self.preprocessing])


def choose(
    model: str,
    revision: str,
    devices: Sequence[str],
    dtypes: Sequence[str],
    quantizations: Sequence[str],
    preprocessings: Sequence[str] = ('raw',),
    center_crop: bool = False,
    rotate_180: bool = False,
) -> list[Choice]:
    """All combinations, each once, the first values first; none of them says ``auto``.

    :param center_crop: of those that preprocess as in training.
    :raises PolicyError: if one of the values can't be had here.
    """
    if is_scripted(model):
        asked = (*devices, *dtypes, *quantizations, *preprocessings, rotate_180)
        if asked != ('auto', 'auto', 'none', 'raw', False):
            raise PolicyError(
                f'model {model!r} has no device, dtype, quantization or preprocessing; leave these '
                'options out'
            )
        return [Choice(model, revision, 'cpu', 'float64', 'none')]
    from vla_ros.openvla.placement import check_quantization, choose_device, choose_dtype
    from vla_ros.openvla.preprocessing import Preprocessing

    choices = []
    for device_name, dtype_name, quantization, mode in itertools.product(
        devices, dtypes, quantizations, preprocessings
    ):
        crops = center_crop and mode != 'raw'
        Preprocessing(mode, crops, rotate_180)  # checked
        device = choose_device(device_name)
        dtype = choose_dtype(dtype_name, device)
        check_quantization(quantization, device, dtype)
        placed = str(device), str(dtype).removeprefix('torch.')
        choices.append(Choice(model, revision, *placed, quantization, mode, crops, rotate_180))
    return list(dict.fromkeys(choices))


def load(choice: Choice, progress: ProgressCallback) -> Policy:
    """
    :raises PolicyError: if it can't be loaded.
    """
    if is_scripted(choice.model):
        return ScriptedPolicy.from_script(choice.model, progress)
    from vla_ros.openvla import OpenVLAPolicy, Preprocessing

    return OpenVLAPolicy.from_pretrained(
        choice.model,
        device=choice.device,
        dtype=choice.dtype,
        quantization=choice.quantization,
        revision=choice.revision or None,
        preprocessing=Preprocessing(choice.preprocessing, choice.center_crop, choice.rotate_180),
        progress=progress,
    )


def recipe(choice: Choice) -> dict[str, Any]:
    """What else its answers may depend on, once it is loaded."""
    if is_scripted(choice.model):
        return {}
    import torch

    return {'torch': torch.__version__, 'threads': torch.get_num_threads()}
