# SPDX-License-Identifier: Apache-2.0
"""The parts of one robot's state, as messages bring them, joined by their stamps.

Independent of ROS and torch; one thread.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import Contract
from vla_ros.motion.contract_fields import ContractError
from vla_ros.motion.pose import Pose
from vla_ros.motion.state import (
    EE_POSE,
    JOINT_STATES,
    JointPositions,
    Joints,
    StatePart,
    state_dim,
    state_topics,
)
from vla_ros.text import quoted
from vla_ros.types import PolicySpec

_KEPT = 256  # 0.25 s of a part at 1 kHz
_NAMES_SHOWN = 20


class Joined(NamedTuple):
    """A state of which all parts were measured within the tolerance.

    :param values: float64 [S].
    :param stamp_ns: when its newest part was measured.
    """

    values: NDArray[np.float64]
    stamp_ns: int


class ContractState(NamedTuple):
    """What a contract says of the policy's state.

    :param parts: empty if the topic ``state`` has all of it.
    :param frame: of the contract, ``base`` or ``end_effector``.
    """

    parts: Sequence[StatePart]
    frame: str


class _Sample(NamedTuple):
    values: NDArray[np.float64]
    stamp_ns: int


def state_of(spec: PolicySpec, contract: Contract | None, state_from: str) -> tuple[StatePart, ...]:
    """Return the parts that make the policy's state; empty if its topic has the whole vector.

    :param state_from: the parameter: ``auto``, ``topic`` or ``contract``.
    :raises ContractError: if the contract tells no state, or one of another length, and must.
    """
    if not spec.state_dim or state_from == 'topic':
        return ()
    if contract is None or not contract.state:
        if state_from == 'auto':
            return ()
        name = 'this data set' if contract is None else contract.unnorm_key
        raise ContractError(
            f'state_from is contract, and there is no contract with a state for {name}',
            'add one to a YAML file of contracts (docs/contracts.md), or set state_from to topic',
            value=name,
        )
    length = state_dim(contract.state)
    if length != spec.state_dim:
        raise ContractError(
            f'the contract of {contract.unnorm_key} has a state of {length} values, and the policy '
            f'reads {spec.state_dim}',
            'correct its section state in a YAML file of contracts, or set state_from to topic',
            value=length,
            expected=f'{spec.state_dim}',
        )
    return contract.state


class StateParts:
    """Keeps the newest samples of each part, and joins them.

    A new sample is joined with the nearest sample of every other part, if all of them lie within
    the tolerance.

    :ivar topics: those that bring the parts; empty without parts.
    :ivar frame_id: as for :meth:`__init__`.
    """

    def __init__(self, parts: Sequence[StatePart], tolerance_s: float, frame_id: str) -> None:
        """Start without samples.

        :param frame_id: frame of the poses; empty: that of the first one.
        """
        self.topics = state_topics(parts)
        self._parts = parts
        self._joints = {name for part in parts if isinstance(part, Joints) for name in part.joints}
        self._tolerance_s = tolerance_s
        self.frame_id = frame_id
        self._samples: list[deque[_Sample]] = [deque(maxlen=_KEPT) for _ in parts]
        self._frame = frame_id
        self._names: Sequence[str] = ()  # of the last message with none of a part's joints

    def adjust(self, tolerance_s: float, frame_id: str) -> None:
        """Apply another tolerance from now on; another frame forgets all samples."""
        self._tolerance_s = tolerance_s
        if frame_id != self.frame_id:
            self.frame_id = frame_id
            self.clear()

    def clear(self) -> None:
        """Forget all samples."""
        for samples in self._samples:
            samples.clear()
        self._frame, self._names = self.frame_id, ()

    def add_joints(self, message: JointPositions, stamp_ns: int) -> Joined | None:
        """Keep the positions of joints; return a state if they complete one.

        :raises ValueError: if the message cannot be used.
        """
        values = [
            part.values(message) if isinstance(part, Joints) else None for part in self._parts
        ]
        if all(one is None for one in values):
            self._names = message.names
            return None
        return self._add(values, stamp_ns)

    def concerns(self, message: JointPositions) -> bool:
        """Return whether a message has a joint of the state."""
        return not self._joints.isdisjoint(message.names)

    def add_pose(self, pose: Pose, frame: str, stamp_ns: int) -> Joined | None:
        """Keep a pose; return a state if it completes one.

        :param pose: as it was heard, not checked.
        :param frame: of its header.
        :raises ValueError: if it is in another frame, not finite, or has no unit quaternion.
        """
        self.check_frame(frame)
        values = [None if isinstance(part, Joints) else part.values(pose) for part in self._parts]
        joined = self._add(values, stamp_ns)
        self._frame = frame
        return joined

    def check_frame(self, frame: str) -> None:
        """Raise ValueError if poses must be in another frame."""
        if self._frame and frame != self._frame:
            raise ValueError(
                f'{EE_POSE} is in the frame {quoted(frame)}; allowed: {quoted(self._frame)}, as '
                + ('in frame_id' if self.frame_id else 'in the first message')
            )

    def why_none(self) -> str:
        """Return which part is missing or old; empty if all parts lie within the tolerance."""
        missing = [
            part for part, samples in zip(self._parts, self._samples, strict=True) if not samples
        ]
        if missing:
            heard = ''
            if self._names and any(isinstance(part, Joints) for part in missing):
                names = ', '.join(quoted(name) for name in self._names[:_NAMES_SHOWN])
                heard = f' ({JOINT_STATES} has {names})'
            return f'nothing came of {"; ".join(part.label for part in missing)}{heard}'
        newest = [samples[-1].stamp_ns for samples in self._samples]
        behind_s = (max(newest) - min(newest)) / 1e9
        if behind_s <= self._tolerance_s:
            return ''
        oldest = self._parts[newest.index(min(newest))]
        return f'{oldest.label} is {behind_s:.2f} s behind the newest part'

    def _add(self, values: Sequence[NDArray[np.float64] | None], stamp_ns: int) -> Joined | None:
        for part, one in zip(self._parts, values, strict=True):
            if one is not None and not np.isfinite(one).all():
                raise ValueError(f'{part.label} is {one.tolist()}; allowed: all finite')
        for samples, one in zip(self._samples, values, strict=True):
            if one is not None:
                samples.append(_Sample(one, stamp_ns))
        return self._join(stamp_ns)

    def _join(self, stamp_ns: int) -> Joined | None:
        if not all(self._samples):
            return None
        nearest = [_nearest(samples, stamp_ns) for samples in self._samples]
        stamps_ns = [sample.stamp_ns for sample in nearest]
        if max(stamps_ns) - min(stamps_ns) > self._tolerance_s * 1e9:
            return None
        return Joined(np.concatenate([sample.values for sample in nearest]), max(stamps_ns))


def _nearest(samples: Sequence[_Sample], stamp_ns: int) -> _Sample:
    """Return the sample with the nearest stamp; the stamps rise, but for jumps of a clock.

    Of samples with the same stamp it is the last one: the clock stood still.
    """
    best = samples[-1]
    for sample in itertools.islice(reversed(samples), 1, None):
        if abs(sample.stamp_ns - stamp_ns) >= abs(best.stamp_ns - stamp_ns):
            break
        best = sample
    return best
