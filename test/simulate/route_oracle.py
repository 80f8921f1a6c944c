# SPDX-License-Identifier: Apache-2.0
"""What a chunk means for a tool whose pose is known: which rows are done, where the others lead.

Computed row by row and pose by pose, from the messages alone. Where a comparison is so close that
the node may have decided it the other way, the answer is that it is unsure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulate.pose_oracle import Place, PoseOracle

_CLOSED, _OPEN = 0.4, 0.6
_STILL_M, _REACHED_M, _LEAST = 1e-3, 2e-3, 0.1
_CLOSE_M = 2e-3  # of two distances

Vector = NDArray[np.float64]
History = list[tuple[float, float]]  # changes of the gripper: when, to which state


class Unsure(Exception):
    """The node may have decided either way."""


class Refused(Exception):
    """It is surely no motion."""


@dataclass
class Guide:
    """What is known as a chunk comes.

    :param now_ns: by the clock that motions run by; the stamps are by the robot's.
    :param tool: where the tool comes to rest if nothing more is commanded.
    """

    poses: PoseOracle
    now_ns: float
    stamp_ns: int
    image_ns: int
    tool: Place

    def motion_ns(self, stamp_ns: int) -> float:
        return self.now_ns - (self.stamp_ns - stamp_ns)


def after(state: float | None, opening: float) -> float | None:
    """The gripper's state after a row."""
    if opening > _OPEN:
        return 1.0
    return 0.0 if opening < _CLOSED else state


def goals_of(guide: Guide, steps: Sequence[Vector]) -> list[Place]:
    """The pose in the image, and the goal of each row."""
    known = guide.poses.at(guide.image_ns)
    if known.place is None:
        raise Unsure if known.is_unsure else Refused
    path = [known.place]
    for step in steps:
        path.append(path[-1].moved(step))
    return path


def progress(
    guide: Guide, path: list[Place], openings: Sequence[float], history: History, near_ns: float
) -> tuple[int, float]:
    """How many rows are done, and the share of the next one that is left.

    :param near_ns: moments so near to each other may have the other order.
    """
    image_ns = guide.motion_ns(guide.image_ns)
    if any(abs(at_ns - image_ns) < near_ns for at_ns, _ in history):
        raise Unsure
    earlier = [state for at_ns, state in history if at_ns < image_ns]
    later = [change for change in history if change[0] > image_ns]
    states: list[float | None] = [earlier[-1] if earlier else None]
    for opening in openings:
        states.append(after(states[-1], opening))
    turning = [row for row in range(len(openings)) if states[row] != states[row + 1]]
    done, since_ns = 0, image_ns
    if later:
        if len(turning) < len(later) or states[turning[len(later) - 1] + 1] != later[-1][1]:
            raise Refused
        done, since_ns = turning[len(later) - 1], later[-1][0]
    will_turn = len(turning) > len(later)
    stops = turning[len(later)] if will_turn else len(openings) - 1
    done = _walk(guide, path, done, stops, will_turn, since_ns, near_ns)
    length_m = path[done].distance_to(path[done + 1])
    if length_m < _STILL_M or (will_turn and done == stops - 1):
        return done, 1.0
    return done, min(1.0, max(_LEAST, guide.tool.distance_to(path[done + 1]) / length_m))


def _walk(
    guide: Guide,
    path: list[Place],
    done: int,
    stops: int,
    will_turn: bool,
    since_ns: float,
    near_ns: float,
) -> int:
    seen = [
        (guide.motion_ns(stamp_ns), place)
        for stamp_ns, place in guide.poses.poses
        if stamp_ns > guide.image_ns
    ]
    if any(abs(at_ns - since_ns) < near_ns for at_ns, _ in seen) and since_ns != guide.motion_ns(
        guide.image_ns
    ):
        raise Unsure
    closest_m = np.inf
    for at_ns, place in (*seen, (guide.now_ns, guide.tool)):
        if at_ns <= since_ns and place is not guide.tool:
            continue
        is_rest = place is guide.tool
        closest_m = min(closest_m, place.distance_to(path[done]))
        while done < stops:
            begin_m, end_m = (place.distance_to(one) for one in path[done : done + 2])
            length_m = path[done].distance_to(path[done + 1])
            if length_m < 2 * _STILL_M:
                raise Unsure  # a pause, or nearly one
            if is_rest and abs(end_m - begin_m) < _CLOSE_M:
                raise Unsure
            is_over = end_m < begin_m
            if will_turn and done == stops - 1:
                is_over &= not is_rest and end_m <= max(_REACHED_M, 0.1 * length_m)
            elif done and _turns_back(path, done):
                if is_rest and abs(begin_m - closest_m - _STILL_M) < _CLOSE_M:
                    raise Unsure
                is_over &= begin_m >= closest_m + _STILL_M
            if not is_over:
                break
            done += 1
            closest_m = place.distance_to(path[done])
    return done


def _turns_back(path: list[Place], row: int) -> bool:
    one, two, three = path[row - 1 : row + 2]
    return one.distance_to(three) ** 2 < one.distance_to(two) ** 2 + two.distance_to(three) ** 2


class Box:
    """The workspace."""

    def __init__(self, text: str) -> None:
        self._text = text
        numbers = [float(number) for number in text.split(',')]
        self.low, self.high = np.array(numbers[::2]), np.array(numbers[1::2])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and self._text == other._text

    __hash__ = None  # type: ignore[assignment]

    def inside(self, goal: Vector, start: Vector) -> Vector:
        low = [min(one, two) for one, two in zip(self.low, start, strict=True)]
        high = [max(one, two) for one, two in zip(self.high, start, strict=True)]
        return np.array(
            [min(max(at, one), two) for at, one, two in zip(goal, low, high, strict=True)]
        )

    def inward(self, twist: Vector, at: Vector) -> Vector:
        kept = [
            0.0 if (place > high and speed > 0) or (place < low and speed < 0) else speed
            for speed, place, low, high in zip(twist, at, self.low, self.high, strict=False)
        ]
        return np.array([*kept, *twist[3:]])


def box_of(parameters: dict[str, Any], robot: int) -> Box | None:
    """One robot's."""
    boxes = [one.strip() for one in parameters['workspace_m'].split(';')]
    text = boxes[robot if len(boxes) > 1 else 0]
    return Box(text) if text else None
