# SPDX-License-Identifier: Apache-2.0
"""The velocity at any time that makes each displacement smoothly and within limits.

Independent of contracts and ROS.

A commanded twist lasts from its start to its end, or until the next one starts. All rows of a chunk
are commanded together, one after the other. The published twist is the average of the commanded
ones over the last two ``ramp_s``, weighted by a triangle:

* An average is never faster than the values that it averages.
* The triangle's area is one, so the displacement stays as commanded.
* The second derivative is at most ``4 * speed / ramp_s**2``, which determines ``ramp_s``.

The twist is a function of time, so a late tick publishes the right twist and repeats nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.rows import Window

_BELOW = 1 - 1e-12  # keeps a shortened vector below its limit in spite of rounding

Twist = NDArray[np.float64]  # [6]: linear m/s, angular rad/s


@dataclass(frozen=True)
class MotionLimits:
    """Limits of the norms of the linear and the angular part; all above 0.

    :param least_ramp_s: minimum of ``ramp_s``; a ramp of only a few ticks would not add up to the
        displacement.
    """

    linear_m_s: float
    angular_rad_s: float
    linear_m_s3: float
    angular_rad_s3: float
    least_ramp_s: float = 0.0

    @property
    def ramp_s(self) -> float:
        """Shortest ramp that keeps both jerks within their limits.

        The linear and the angular part have the same, so that they start and end together.
        """
        linear_s = 2 * math.sqrt(self.linear_m_s / self.linear_m_s3)
        angular_s = 2 * math.sqrt(self.angular_rad_s / self.angular_rad_s3)
        return max(linear_s, angular_s, self.least_ramp_s)


@dataclass(frozen=True)
class Clipped:
    """The parts of a twist, or of any row of a chunk, that were shortened to their limits."""

    linear: bool
    angular: bool


@dataclass
class _Command:
    twist: Twist
    start_s: float
    end_s: float


@dataclass
class TwistProfile:
    """The latest commands, and the twist that results from them.

    Times are seconds of any clock that does not go back.

    :param kept_s: for how long a command that is over is kept, for :meth:`pending`.
    """

    limits: MotionLimits
    kept_s: float = 0.0
    _commands: list[_Command] = field(default_factory=list)

    def follow(
        self, twists: NDArray[np.float64], windows: Sequence[Window], now_s: float
    ) -> Clipped:
        """Command each twist in its time. They replace the commands from now on.

        :param twists: float64 [K, 6]; a part beyond its limit is shortened and keeps its direction.
        :param windows: of each twist, one after the other, none before ``now_s``.
        :raises ValueError: if a value is not finite; nothing changes then.
        """
        if not (np.isfinite(twists).all() and np.isfinite(windows).all() and math.isfinite(now_s)):
            raise ValueError(f'twists {twists.tolist()} in {windows} s: not finite')
        self._end_all(now_s)
        bounded = [self.bounded(twist) for twist in twists]
        for (twist, _), (start_s, end_s) in zip(bounded, windows, strict=True):
            if start_s < end_s:
                self._commands.append(_Command(twist, start_s, end_s))
        return Clipped(
            any(clipped.linear for _, clipped in bounded),
            any(clipped.angular for _, clipped in bounded),
        )

    def pending(self, since_s: float, now_s: float) -> Twist:
        """Return the displacement from a moment on, if all commands end now.

        :param since_s: at most ``kept_s`` ago.
        :returns: float64 [6], metres and radians.
        """
        total = np.zeros(6)
        for command in self._commands:
            lasts_s = min(command.end_s, now_s) - command.start_s
            if lasts_s > 0:
                made_s = self._made_of(command.start_s, command.start_s + lasts_s, since_s)
                total += (lasts_s - made_s) * command.twist
        return total

    def displacement(self, since_s: float, until_s: float) -> Twist:
        """Return the integral of the twist between two moments, float64 [6], metres and radians."""
        lasts_s = until_s - since_s
        if lasts_s <= 0:
            return np.zeros(6)
        total = np.zeros(6)
        for command in self._commands:
            times = command.start_s, command.end_s
            made_s = self._made_of(*times, until_s) - self._made_of(*times, since_s)
            total += made_s * command.twist
        return self.bounded(total / lasts_s)[0] * lasts_s  # the limits may be lower by now

    def _end_all(self, end_s: float) -> None:
        """End all commands at a time, and forget those that have been over for ``kept_s``."""
        for command in self._commands:
            command.end_s = min(command.end_s, end_s)
        self._commands = [
            command
            for command in self._commands
            if command.start_s < command.end_s and end_s < self._over_s(command) + self.kept_s
        ]

    def stop(self) -> None:
        """Make the twist zero from now on, without a ramp."""
        self._commands = []

    def is_over(self, now_s: float) -> bool:
        """Return whether the twist stays zero until the next command."""
        return all(self._over_s(command) <= now_s for command in self._commands)

    def twist(self, now_s: float) -> Twist:
        """Return the twist at a time, float64 [6], within the limits."""
        total = np.zeros(6)
        for command in self._commands:
            if not command.start_s < now_s < self._over_s(command):
                continue  # only a few rows of a chunk have an effect at any time
            weight = self._share(now_s - command.start_s) - self._share(now_s - command.end_s)
            total += weight * command.twist
        # The weights add up to at most one, except for rounding.
        return self.bounded(total)[0]

    def bounded(self, twist: Twist) -> tuple[Twist, Clipped]:
        """Return the twist, shortened to the limits, and what was shortened."""
        linear, linear_clipped = _shortened(twist[:3], self.limits.linear_m_s)
        angular, angular_clipped = _shortened(twist[3:], self.limits.angular_rad_s)
        return np.concatenate([linear, angular]), Clipped(linear_clipped, angular_clipped)

    def _over_s(self, command: _Command) -> float:
        return command.end_s + 2 * self.limits.ramp_s

    def _share(self, age_s: float) -> float:
        """Return the share of the triangle that is younger than ``age_s``, 0 to 1."""
        x = min(max(age_s / self.limits.ramp_s, 0.0), 2.0)
        return x * x / 2 if x <= 1 else 1 - (2 - x) ** 2 / 2

    def _made_of(self, start_s: float, end_s: float, at_s: float) -> float:
        """Return for how long a command was made by a moment [s]; in the end, for its duration."""
        return self._made_s(at_s - start_s) - self._made_s(at_s - end_s)

    def _made_s(self, age_s: float) -> float:
        """Return the integral of :meth:`_share` from 0 to ``age_s`` [s]."""
        ramp_s = self.limits.ramp_s
        x = max(age_s / ramp_s, 0.0)
        return ramp_s * (x**3 / 6 if x <= 1 else x - 1 + max(2 - x, 0.0) ** 3 / 6)


def _shortened(vector: NDArray[np.float64], limit: float) -> tuple[NDArray[np.float64], bool]:
    """Return the vector with a norm of at most the limit, and whether it was shortened."""
    largest = float(np.abs(vector).max())
    if largest == 0.0:
        return vector, False
    # Divided by the largest value first: the squares of extreme ones overflow or vanish.
    unit = vector / largest
    length = float(np.linalg.norm(unit))
    allowed = limit * _BELOW / length
    return (vector if largest <= allowed else unit * allowed), largest > limit / length
