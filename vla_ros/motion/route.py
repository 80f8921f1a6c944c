# SPDX-License-Identifier: Apache-2.0
"""Where the tool goes: the goals of a chunk's rows, which of them are done, and the workspace.

Independent of ROS and of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.gripper import Change
from vla_ros.motion.orientation import Vector, inverse, rotated
from vla_ros.motion.pose import Pose
from vla_ros.motion.profile import Clipped, Twist
from vla_ros.motion.rows import Window

_METRES_PER_RADIAN = 0.1  # a tool of this length moves its tip as far
_STILL_M = 1e-3  # a row that moves the tool less is a pause
_LEAST = 0.1  # share of a row that a new chunk begins with
_REACHED_M = 2e-3  # so near, or a tenth of its row, the tool is where the gripper is turned

Bounded = Callable[[Twist], tuple[Twist, Clipped]]


class Box(NamedTuple):
    """A box of positions of the tool.

    :param low: float64 [3], metres.
    :param high: float64 [3], above ``low``.
    """

    low: Vector
    high: Vector

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Box:
        """Return the box of x_min, x_max, y_min, y_max, z_min, z_max."""
        return cls(np.array(numbers[::2]), np.array(numbers[1::2]))

    def bounded(self, goal: Vector, start: Vector) -> Vector:
        """Return the goal, moved into the box on each axis.

        A start outside the box widens it up to there: the tool may stay or move inward.
        """
        return np.clip(goal, np.minimum(self.low, start), np.maximum(self.high, start))

    def inward(self, velocity: Vector, position: Vector) -> Vector:
        """Return the velocity without what leads further out of the box."""
        out = ((position > self.high) & (velocity > 0)) | ((position < self.low) & (velocity < 0))
        return np.where(out, 0.0, velocity)


class Planned(NamedTuple):
    """The twists of some rows.

    :param twists: float64 [K, 6], within the limits.
    :param clipped: what the limits of speed shortened.
    :param left_box: whether the workspace shortened a row.
    """

    twists: NDArray[np.float64]
    clipped: Clipped
    left_box: bool


class Progress(NamedTuple):
    """How far an arm has come in a chunk.

    :param done: number of rows that are done, from row 0 on; at most all but one.
    :param left: share of the next row that is left, above 0 to 1.
    """

    done: int
    left: float


def path_of(start: Pose, steps: Sequence[Vector], frame: str) -> list[Pose]:
    """Return the pose before row 0, and that after each row.

    :param steps: float64 [6] for each row, along the axes of ``frame``.
    """
    return list(itertools.accumulate(steps, lambda at, step: at.moved(step, frame), initial=start))


def rows_done(
    path: Sequence[Pose],
    states: Sequence[float | None],
    track: Sequence[tuple[float, Pose]],
    changes: Sequence[Change],
    times: tuple[float, float],
) -> Progress | None:
    """Return how far the arm has come in a chunk since the image; None if it did something else.

    Gripper and pose must both match. The gripper first, since a way up leads through the poses of
    the way down: each change of the gripper since the image must be one of the chunk's, in order.
    The rows before the last of these are done, and those from the chunk's next change on are not.
    Between them the poses since the last change decide, one row after the other, and none back: a
    row is done when the tool is nearer to its end than to its beginning; one that turns back, only
    after the tool has come to its beginning and left it; and one before the gripper is turned, when
    the tool is there. A pause is done when it has lasted one period. The last row is never done:
    its goal is where the arm has to be.

    :param path: [K + 1], the pose before row 0, and that after each row.
    :param states: [K + 1], the gripper likewise: 0 closed, 1 open; None: unknown.
    :param track: the poses since the image, with their times; the last one is where the tool comes
        to rest if nothing more is commanded.
    :param changes: of the gripper, since the image.
    :param times: time of the image and duration of a row [s].
    """
    since_s, period_s = times
    stretch = _stretch(states, changes, since_s)
    if stretch is None:
        return None
    between = _distances(path, path)
    track = [one for one in track if one[0] > stretch.since_s] or track[-1:]
    distances = _distances([pose for _, pose in track], path)
    done = _walked(stretch, [at_s for at_s, _ in track], distances, between, period_s)
    length_m = between[done, done + 1]
    if length_m < _STILL_M or (stretch.turns_next and done == stretch.last - 1):
        return Progress(done, 1.0)
    return Progress(done, float(np.clip(distances[-1, done + 1] / length_m, _LEAST, 1.0)))


class _Stretch(NamedTuple):
    """The rows between two changes of the gripper, and when it began.

    :param last: row that is not done, at the latest; it turns the gripper if ``turns_next``.
    """

    first: int
    last: int
    turns_next: bool
    since_s: float


def _stretch(
    states: Sequence[float | None], changes: Sequence[Change], image_s: float
) -> _Stretch | None:
    """Return the rows that the gripper leaves; None if it moved as the chunk does not."""
    rows = len(states) - 1
    turning = [row for row in range(rows) if states[row + 1] != states[row]]
    first, since_s = 0, image_s
    if changes:
        if len(changes) > len(turning):
            return None
        first, since_s = turning[len(changes) - 1], changes[-1].at_s
        if states[first + 1] != changes[-1].opening:
            return None
    turns_next = len(changes) < len(turning)
    return _Stretch(first, turning[len(changes)] if turns_next else rows - 1, turns_next, since_s)


def _walked(
    stretch: _Stretch,
    times_s: Sequence[float],
    distances: NDArray[np.float64],
    between: NDArray[np.float64],
    period_s: float,
) -> int:
    """Return the number of rows that are done after some poses.

    :param distances: float64 [N, K + 1], from each pose to those of the path.
    :param between: float64 [K + 1, K + 1], the distances between the poses of the path.
    """
    done, since_s = stretch.first, stretch.since_s
    nearest_m = np.inf  # so near has the tool been to the beginning of the row
    for number, (at_s, to) in enumerate(zip(times_s, distances, strict=True), start=1):
        nearest_m = min(nearest_m, to[done])
        while done < stretch.last:
            length_m = between[done, done + 1]
            if length_m < _STILL_M:
                if at_s - since_s < period_s:
                    break
                since_s += period_s
            else:
                before_turn = stretch.turns_next and done == stretch.last - 1
                is_there = number < len(times_s) and to[done + 1] <= _reach(length_m)
                turns_back = done > 0 and _is_sharp(between, done)
                if (
                    to[done + 1] >= to[done]
                    or (before_turn and not is_there)
                    or (turns_back and to[done] < nearest_m + _STILL_M)
                ):
                    break
                since_s = at_s
            done += 1
            nearest_m = to[done]
    return done


def _is_sharp(between: NDArray[np.float64], row: int) -> bool:
    """Return whether a row leads back from where the row before it came.

    :param between: float64 [K + 1, K + 1], the distances between the poses of a path.
    """
    before, after, both = between[row - 1, row], between[row, row + 1], between[row - 1, row + 1]
    return bool(both**2 < before**2 + after**2)


def _reach(length_m: float) -> float:
    return max(_REACHED_M, 0.1 * length_m)


def distance(one: Pose, other: Pose) -> float:
    """Return the distance of two poses [m]; a radian counts as 0.1 m."""
    return float(_distances([one], [other])[0, 0])


def _distances(some: Sequence[Pose], others: Sequence[Pose]) -> NDArray[np.float64]:
    """Return the distance from each pose of the first to each of the others, float64 [N, M].

    The angle between two orientations counts as the way of the tip of a tool.
    """
    if not some:
        return np.zeros((0, len(others)))
    moves = _stacked(some, 'position')[:, None] - _stacked(others, 'position')
    cosines = np.abs(_stacked(some, 'quaternion') @ _stacked(others, 'quaternion').T)
    turns = 2 * np.arccos(np.minimum(cosines, 1.0))
    distances: NDArray[np.float64] = np.hypot(
        np.linalg.norm(moves, axis=2), _METRES_PER_RADIAN * turns
    )
    return distances


def _stacked(poses: Sequence[Pose], name: str) -> NDArray[np.float64]:
    return np.array([getattr(pose, name) for pose in poses])


def plan(
    at: Pose,
    rows: Sequence[Pose | Vector],
    windows: Sequence[Window],
    frame: str,
    bounded: Bounded,
    box: Box | None,
) -> Planned:
    """Return the twists that lead from a pose along some rows, each within its time.

    What the limits or the box take from a row with a goal is added to the rows after it, as far as
    the limits allow. A row without a goal is a displacement from wherever the tool is then.

    The position is corrected here, once in each chunk, and not at each tick: a correction at each
    tick needs a gain, which no parameter tells for an unknown arm and its delay, and one that is
    too high oscillates. Within a chunk the arm is off by what it drifts in that time, at most.

    :param rows: the goal, or the twist, of each row.
    :param frame: whose axes a twist refers to.
    :param bounded: shortens a twist to the limits.
    """
    twists, clips, left_box = [], [], False
    for row, window in zip(rows, windows, strict=True):
        lasts_s = window.end_s - window.start_s
        goal = row if isinstance(row, Pose) else at.moved(bounded(row)[0] * lasts_s, frame)
        if box is not None:
            inside = box.bounded(goal.position, at.position)
            left_box |= bool((inside != goal.position).any())
            goal = Pose(inside, goal.quaternion)
        wanted = at.step_to(goal, frame) / lasts_s
        twist, clipped = bounded(wanted)
        if not isinstance(row, Pose):
            clipped = bounded(row)[1]  # the step there and back may be a rounding error longer
        twists.append(twist)
        clips.append(clipped)
        at = at.moved(twist * lasts_s, frame)
    clipped = Clipped(any(one.linear for one in clips), any(one.angular for one in clips))
    return Planned(np.array(twists), clipped, left_box)


def inward(twist: Twist, at: Pose, frame: str, box: Box) -> Twist:
    """Return the twist without what leads a tool outside the box further out.

    :param frame: whose axes the twist refers to.
    """
    if frame == 'base':
        return np.concatenate([box.inward(twist[:3], at.position), twist[3:]])
    velocity = box.inward(rotated(at.quaternion, twist[:3]), at.position)
    return np.concatenate([rotated(inverse(at.quaternion), velocity), twist[3:]])
