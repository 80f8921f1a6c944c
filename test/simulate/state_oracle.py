# SPDX-License-Identifier: Apache-2.0
"""The state of one robot where a contract lists its parts, from joint_states and ee_pose.

Computed from the messages alone: each message is joined with the samples of the other parts that
were measured nearest to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulate.parameter_oracle import contracts_of, frame_of
from simulate.parts_oracle import NOTICE_S
from simulate.scheduler import NS
from vla_ros.motion.state import Joints, StatePart

_KEPT = 256
_UNSURE_S = NOTICE_S + 0.6  # after a jump of the clock: what the node has forgotten
_DEFAULT_KEY = 'bridge_orig'  # of the simulated policy

Values = NDArray[np.float64]


class Felt(NamedTuple):
    """What comes of a message.

    :param is_rejected: it is not usable.
    :param is_unrelated: it has none of the joints.
    :param values: of the state that it completes; empty: of none.
    """

    is_rejected: bool = False
    is_unrelated: bool = False
    values: tuple[float, ...] = ()
    stamp_ns: int = 0


class _Sample(NamedTuple):
    values: Values
    stamp_ns: int


def parts_of(parameters: Mapping[str, Any], state_dim: int) -> tuple[StatePart, ...]:
    """Return the parts by the parameters; empty: the topic has the whole state."""
    if not state_dim or parameters['state_from'] == 'topic':
        return ()
    contracts = contracts_of(parameters['contracts']) or {}
    contract = contracts.get(parameters['unnorm_key'] or _DEFAULT_KEY)
    return contract.state if contract is not None else ()


def why_no_state(parameters: Mapping[str, Any], state_dim: int) -> str:
    """Return why the policy cannot have its state by these parameters; empty: it can."""
    parts = parts_of(parameters, state_dim)
    if state_dim and parameters['state_from'] == 'contract' and not parts:
        return 'the contract has no state'
    is_wrong = bool(parts) and sum(part.length for part in parts) != state_dim
    return 'the state has another length' if is_wrong else ''


class StatePartsOracle:
    """The parts that the node has heard since it began to listen."""

    def __init__(
        self,
        parameters: dict[str, Any],
        robot: int,
        state_dim: int,
        now_ns: Callable[[], int],
    ) -> None:
        self._params, self._robot, self._state_dim = parameters, robot, state_dim
        self._now_ns = now_ns
        self.start_over()

    def start_over(self) -> None:
        """The node listens from now on."""
        self.parts = parts_of(self._params, self._state_dim)
        self._unsure_ns = -NS
        self._must_forget = False
        self._forget()

    def _forget(self) -> None:
        self._samples: list[list[_Sample]] = [[] for _ in self.parts]
        self._frame = frame_of(self._params, self._robot)

    def doubt_clock(self) -> None:
        """The node forgets all samples, soon."""
        self._unsure_ns = self._now_ns()
        self._must_forget = True

    def change_frame(self) -> None:
        """Poses in another frame are wanted from now on."""
        if self._frame != frame_of(self._params, self._robot):
            self._forget()

    @property
    def is_unsure(self) -> bool:
        """Whether the node may have joined others."""
        return (self._now_ns() - self._unsure_ns) / NS < _UNSURE_S

    @property
    def needs_pose(self) -> bool:
        return any(not isinstance(part, Joints) for part in self.parts)

    @property
    def needs_joints(self) -> bool:
        return any(isinstance(part, Joints) for part in self.parts)

    def hear_joints(self, message: Any) -> Felt:
        """The node takes positions of joints."""
        names, positions = list(message.name), list(message.position)
        if len(names) != len(positions):
            return Felt(is_rejected=True)
        wanted = [part.joints if isinstance(part, Joints) else () for part in self.parts]
        if not {name for each in wanted for name in each} & set(names):
            return Felt(is_unrelated=True)
        values: list[Values | None] = []
        for part, joints in zip(self.parts, wanted, strict=True):
            there = [name for name in joints if name in names]
            if not there:
                values.append(None)
                continue
            if len(there) < len(joints) or any(names.count(name) > 1 for name in joints):
                return Felt(is_rejected=True)
            assert isinstance(part, Joints)
            numbers = [(positions[names.index(one)] - part.zero) / part.unit for one in joints]
            values.append(np.array(numbers))
        return self._add(values, _stamp_ns(message))

    def hear_pose(self, message: Any) -> Felt:
        """The node takes a pose."""
        if self._frame and message.header.frame_id != self._frame:
            return Felt(is_rejected=True)
        point = message.pose.position
        at = np.array([point.x, point.y, point.z])
        felt = self._add(
            [None if isinstance(part, Joints) else at / part.unit for part in self.parts],
            _stamp_ns(message),
        )
        if not felt.is_rejected:
            self._frame = message.header.frame_id
        return felt

    def _add(self, values: Sequence[Values | None], stamp_ns: int) -> Felt:
        if any(one is not None and not np.isfinite(one).all() for one in values):
            return Felt(is_rejected=True)
        if self._must_forget and (self._now_ns() - self._unsure_ns) / NS > NOTICE_S:
            self._must_forget = False
            self._forget()
        for samples, one in zip(self._samples, values, strict=True):
            if one is not None:
                samples.append(_Sample(one, stamp_ns))
                del samples[:-_KEPT]
        if not all(self._samples):
            return Felt()
        # Of two that are as near, the one that came later.
        chosen = [
            min(reversed(samples), key=lambda one: abs(one.stamp_ns - stamp_ns))
            for samples in self._samples
        ]
        if any(map(_is_unordered, self._samples)):
            self._unsure_ns = self._now_ns()
        stamps_ns = [one.stamp_ns for one in chosen]
        if max(stamps_ns) - min(stamps_ns) > self._params['sync_tolerance_s'] * NS:
            return Felt()
        joined = np.concatenate([one.values for one in chosen]).tolist()
        return Felt(values=tuple(joined), stamp_ns=max(stamps_ns))


def _is_unordered(samples: Sequence[_Sample]) -> bool:
    """Whether stamps of late went back: then the node may stop to search too soon."""
    last = [one.stamp_ns for one in samples[-40:]]
    return last != sorted(last)


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec * NS + stamp.nanosec)
