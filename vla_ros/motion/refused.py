# SPDX-License-Identifier: Apache-2.0
"""Why a chunk is not a motion: what displacements and positions of joints have in common.

Independent of ROS and of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vla_ros.motion.contract import Contract
from vla_ros.motion.rows import Due
from vla_ros.reasons import Cause, Reason

_Found = TypeVar('_Found')


class NoMotion(Exception):
    """A chunk that is not a motion."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.cause = Cause(reason, message)


def no_contract(unnorm_key: str, contracts: Mapping[str, Contract]) -> Cause:
    """Return the cause for a data set without a contract."""
    return Cause(
        Reason.MOTION_NO_CONTRACT,
        f'no action contract for unnorm_key {unnorm_key!r}, so the meaning of its actions '
        f'is unknown; there are: {", ".join(sorted(contracts))}; add yours to a YAML '
        'file, and set the parameter contracts to its path (docs/contracts.md)',
    )


def row_0_ends_s(due: Due, period_s: float, ramps_s: float, begins_s: float) -> float:
    """Return when row 0 ends.

    :param begins_s: when it begins.
    :raises NoMotion: if its validity leaves no time to it.
    """
    ends_s = due.ends_s(period_s, ramps_s)
    if ends_s <= begins_s:
        raise NoMotion(
            Reason.MOTION_NO_TIME,
            f'the action is valid for another {due.valid_until_s - due.now_s:.3f} s, and its '
            f'motion needs {ramps_s:.3f} s to ramp up and down; increase max_action_age_s',
        )
    return ends_s


def known(answer: _Found | Cause) -> _Found:
    """Return what was found.

    :raises NoMotion: if it was not.
    """
    if isinstance(answer, Cause):
        raise NoMotion(*answer)
    return answer


def rows_past(rows: int, due: Due, period_s: float) -> Cause:
    """Return the cause for a chunk of which all rows are past their time.

    :param due: from the row after the last one on.
    """
    late_s = rows * period_s
    return Cause(
        Reason.MOTION_ROWS_PAST,
        f'the chunk is {due.now_s - due.row_0_s + late_s:.2f} s old, and its {rows} rows take '
        f'{late_s:.2f} s from its observation on, so all of them are past their time; use a faster '
        'policy, or another chunk_timing',
    )
