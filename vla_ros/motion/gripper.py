"""Whether a gripper shall be open. Knows nothing of ROS."""

from __future__ import annotations

import math

_CLOSE_BELOW = 0.4
_OPEN_ABOVE = 0.6


class GripperSwitch:
    """Open or closed, with hysteresis: a policy that wavers about the middle moves no gripper."""

    def __init__(self) -> None:
        self.opening: float | None = None  # 0 closed, 1 open; None: not told yet

    def turn(self, opening: float) -> None:
        """
        :param opening: 0 closed, 1 open; may lie beyond.
        :raises ValueError: if it is not finite; nothing has changed then.
        """
        if not math.isfinite(opening):
            raise ValueError(f'gripper opening {opening} is not finite')
        if opening > _OPEN_ABOVE:
            self.opening = 1.0
        elif opening < _CLOSE_BELOW:
            self.opening = 0.0
