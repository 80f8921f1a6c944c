# SPDX-License-Identifier: Apache-2.0
"""Assembly of observations from the images of several cameras and a state.

Independent of ROS and torch; one thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.clock import Clock
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling.stamps import clock_advice
from vla_ros.types import Observation, PolicySpec

_STATES_KEPT = 256  # 0.25 s of a state at 1 kHz


@dataclass
class AssemblyCounters:
    """Counters of usable images and of states, before they become observations.

    :param replaced: images that were dropped for a newer one of their camera, or by a reset.
    :param pending: images that wait for other cameras or a state now.
    :param joined: images that became part of an observation.
    :param states_received: messages with a state, or with parts of one.
    :param states_rejected: number of these that were not usable.
    :param states_unrelated: number of these with none of the joints of the state.
    """

    replaced: int = 0
    pending: int = 0
    joined: int = 0
    states_received: int = 0
    states_rejected: int = 0
    states_unrelated: int = 0


@dataclass(frozen=True)
class AssemblyLimits:
    """The limits of an assembler.

    :param tolerance_s: maximum time between the captures of the parts of one observation.
    :param image_timeout_s: maximum time in which images do not fit together.
    :param state_timeout_s: maximum time in which no state fits the images.
    """

    tolerance_s: float
    image_timeout_s: float
    state_timeout_s: float


class _Image(NamedTuple):
    pixels: NDArray[np.uint8]
    stamp_ns: int


class _State(NamedTuple):
    values: NDArray[np.float64]
    stamp_ns: int


class Assembler:
    """An assembler that joins the newest images of all cameras if their stamps are close.

    Each image is part of one observation at most. The state is the newest one that was measured not
    later than the newest image, and not earlier than the oldest, within the tolerance.
    """

    def __init__(
        self, spec: PolicySpec, limits: AssemblyLimits, clock: Clock, counters: AssemblyCounters
    ) -> None:
        """Start without images and states.

        :param spec: the cameras and the length of the state that the policy needs.
        :param counters: counters to use.
        """
        self.counters = counters
        self._spec = spec
        self.adjust(limits)
        self._clock = clock
        self._images: dict[str, _Image] = {}
        self._states: deque[_State] = deque(maxlen=_STATES_KEPT)
        self._waiting_since_s: float | None = None  # the first image since the last observation
        self._close_s = 0.0  # the last time at which the images were close, or the first one came

    def adjust(self, limits: AssemblyLimits) -> None:
        """Apply other limits from now on."""
        self._limits = limits
        self._tolerance_ns = round(limits.tolerance_s * 1e9)

    def add_image(
        self, camera: str, pixels: NDArray[np.uint8], stamp_ns: int, instruction: str
    ) -> Observation | None:
        """Keep the image, in place of an older one; return an observation if it completes one."""
        now_s = self._clock.monotonic_s()
        if self._waiting_since_s is None:
            self._waiting_since_s = self._close_s = now_s
        elif self._has_all_cameras() and self._are_close():
            self._close_s = now_s
        if camera in self._images:
            self.counters.replaced += 1
        else:
            self.counters.pending += 1
        self._images[camera] = _Image(pixels, stamp_ns)
        return self._join(instruction)

    def add_state(
        self, values: NDArray[np.float64], stamp_ns: int, instruction: str
    ) -> Observation | None:
        """Keep the state; return an observation if it completes one.

        :raises ValueError: if the state has another length than the policy needs, or is not finite.
        """
        self.counters.states_received += 1
        if len(values) != self._spec.state_dim or not np.isfinite(values).all():
            self.counters.states_rejected += 1
            raise ValueError(
                f'the state {values.tolist()} has {len(values)} values; allowed: '
                f'{self._spec.state_dim}, all finite'
            )
        return self.keep_state(values, stamp_ns, instruction)

    def keep_state(
        self, values: NDArray[np.float64], stamp_ns: int, instruction: str
    ) -> Observation | None:
        """Keep a state that was checked and counted; return an observation if it completes one."""
        self._states.append(_State(values, stamp_ns))
        return self._join(instruction) if instruction else None

    def drop(self) -> None:
        """Drop the images that wait, so that observations have only later images."""
        self.counters.replaced += len(self._images)
        self.counters.pending = 0
        self._images.clear()
        self._waiting_since_s = None

    def clear(self) -> None:
        """Drop all images and states."""
        self.drop()
        self._states.clear()

    def cause(self) -> Cause | None:
        """Return why images do not become observations; None while they may still do so in time.

        A silent camera is not among the causes, since each camera has its own time-out.
        """
        if self._waiting_since_s is None or not self._has_all_cameras():
            return None
        now_s = self._clock.monotonic_s()
        # A new image is apart from the last one of the other camera until the next one comes.
        close_s = now_s if self._are_close() else self._close_s
        tolerance = f'sync_tolerance_s, {self._limits.tolerance_s:g} s'
        if now_s - close_s > self._limits.image_timeout_s:
            return Cause(
                Reason.IMAGES_APART,
                f'apart: the images of {", ".join(self._spec.cameras)} were not captured within '
                f'{tolerance}; {self._advice("synchronise the cameras, or raise it")}',
            )
        if close_s - self._waiting_since_s <= self._limits.state_timeout_s:
            return None
        limit = f'state_timeout_s, {self._limits.state_timeout_s:g} s'
        if not self._states:
            return Cause(Reason.STATE_MISSING, f'no state for {limit}; publish it')
        advice = clock_advice(
            self._states[-1].stamp_ns,
            self._clock,
            'synchronise the clocks, publish it more often, or raise the tolerance',
        )
        return Cause(
            Reason.STATE_STALE,
            f'for {limit}, no state was measured within {tolerance}, of the images; {advice}',
        )

    def _advice(self, otherwise: str) -> str:
        """Return the likely cause of the oldest image's stamp."""
        oldest_ns = min(image.stamp_ns for image in self._images.values())
        return clock_advice(oldest_ns, self._clock, otherwise)

    def _join(self, instruction: str) -> Observation | None:
        if not self._has_all_cameras() or not self._are_close():
            return None
        state = None
        if self._spec.state_dim:
            state = self._fitting_state()
            if state is None:
                return None
        images = {camera: self._images[camera] for camera in self._spec.cameras}
        self._images.clear()
        self._waiting_since_s = None
        self.counters.pending = 0
        self.counters.joined += len(images)
        return Observation(
            {camera: image.pixels for camera, image in images.items()},
            instruction,
            {camera: image.stamp_ns for camera, image in images.items()},
            state and state.values,
            state and state.stamp_ns,
        )

    def _has_all_cameras(self) -> bool:
        return len(self._images) == len(self._spec.cameras)

    def _are_close(self) -> bool:
        stamps_ns = [image.stamp_ns for image in self._images.values()]
        return max(stamps_ns) - min(stamps_ns) <= self._tolerance_ns

    def _fitting_state(self) -> _State | None:
        stamps_ns = [image.stamp_ns for image in self._images.values()]
        latest_ns = max(stamps_ns) + self._tolerance_ns
        earliest_ns = min(stamps_ns) - self._tolerance_ns
        fitting = [one for one in self._states if earliest_ns <= one.stamp_ns <= latest_ns]
        return max(fitting, key=lambda one: one.stamp_ns) if fitting else None
