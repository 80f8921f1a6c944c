# SPDX-License-Identifier: Apache-2.0
"""The golden cases of OpenVLA on a device: what the reference answered, compared with a policy.

They are in the source tree only (test/golden, with a README).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import vla_ros
from vla_ros.images.files import read_image
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.types import Cancel

_CHECKPOINTS = ('openvla_tiny', 'openvla_v01_tiny')


@dataclass(frozen=True)
class Exactness:
    """The agreement with the reference, over all cases of all checkpoints.

    :param logit_difference: the largest of the first token's logits.
    """

    device: str
    dtype: str
    actions: int
    equal_actions: int
    tokens: int
    equal_tokens: int
    logit_difference: float


def golden_folder() -> Path | None:
    """Return the folder of the source tree that this package belongs to; None if installed."""
    folder = Path(vla_ros.__file__).parent.parent / 'test' / 'golden'
    return folder if folder.is_dir() else None


def compare_with_golden(
    folder: Path, device: str, dtype: str, cancel: Cancel | None = None
) -> Exactness:
    """Compare a policy's answers with the reference's.

    :raises PolicyError: if device or dtype is not available here.
    :raises InferenceCancelled: soon after ``cancel`` is set.
    """
    actions, tokens, differences = [], [], []
    for name in _CHECKPOINTS:
        policy = OpenVLAPolicy.from_pretrained(folder / name, device=device, dtype=dtype)
        with np.load(folder / f'{name}.npz') as arrays:
            for case in json.loads((folder / f'{name}.json').read_text())['cases']:
                [trace] = [
                    policy.predict_action(
                        read_image(folder / case['image']),
                        case['instruction'],
                        case['unnorm_key'],
                        cancel,
                        return_logits=True,
                    ).tokens
                ]
                if trace is None or trace.logits is None:
                    raise TypeError(f'{name} gives no tokens')
                expected = arrays[f'{case["name"]}/logits_action']
                differences.append(np.abs(trace.logits[0] - expected[0]).max())
                wanted = case['new_tokens']
                tokens += [a == b for a, b in zip(trace.ids.tolist(), wanted, strict=False)]
                tokens += [False] * (len(wanted) - len(trace.ids))
                actions.append(trace.ids.tolist() == wanted)
        device, dtype = policy.info.device, policy.info.dtype
        policy.close()
    return Exactness(
        device,
        dtype,
        len(actions),
        sum(actions),
        len(tokens),
        sum(tokens),
        float(max(differences)),
    )
