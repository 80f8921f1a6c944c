# SPDX-License-Identifier: Apache-2.0
"""An arm that integrates twists, and an expert that sees it late: down, close, up, to a place."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from support.motions import CONTRACT, LIMITS
from vla_ros.motion import ActionContract, Box, Capture, Guide, Motion, PoseHistory
from vla_ros.reasons import Reason

TICK_S = 0.02
ROWS = 8
MAX_AGE_S = 6.0
CUBE = np.array([0.4, 0.1, 0.02])
PLACE = np.array([0.4, -0.1, 0.2])
STEP_M = 0.03  # of a row: 0.15 m/s
NS = 10**9


@dataclass
class Seen:
    """What an image shows."""

    at_s: float
    position: NDArray[np.float64]
    gripper: float
    holds: bool


def expert(seen: Seen, rows: int = ROWS) -> NDArray[np.float64]:
    """[K, 7]: to the cube, close and wait for two rows, then to the place."""
    position, gripper, holds, waited = seen.position.copy(), seen.gripper, seen.holds, 0
    chunk = []
    for _ in range(rows):
        goal = PLACE if holds else CUBE
        move = np.zeros(3)
        if not holds and np.linalg.norm(CUBE - position) < 0.004:
            gripper, waited = 0.0, waited + 1
            holds = waited >= 2
        else:
            move = goal - position
            move *= min(1.0, STEP_M / max(float(np.linalg.norm(move)), 1e-9))
        position += move
        chunk.append([*move, 0, 0, 0, gripper])
    return np.array(chunk)


@dataclass
class Arm:
    """Integrates the twists; a lag of its own, and poses with noise."""

    motion: Motion
    poses: PoseHistory
    lag_s: float = 0.0
    noise_m: float = 0.0
    seed: int = 0
    now_s: float = 100.0
    gripper: float = 1.0
    holds: bool = False
    position: NDArray[np.float64] = field(default_factory=lambda: np.array([0.3, 0.0, 0.25]))
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    lowest_m: float = 1.0
    closed_at: list[NDArray[np.float64]] = field(default_factory=list)
    opened: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.closing_s = 0.0
        self.publish()

    @property
    def now_ns(self) -> int:
        return round(self.now_s * NS)

    def tick(self) -> None:
        self.now_s += TICK_S
        if self.motion.begin_rows(self.now_s):
            self.grip()
        twist = self.motion.twist(self.now_s)
        share = 1.0 if not self.lag_s else TICK_S / (self.lag_s + TICK_S)
        self.velocity = self.velocity + share * (twist[:3] - self.velocity)
        self.position = self.position + TICK_S * self.velocity
        self.lowest_m = min(self.lowest_m, float(self.position[2]))
        if self.gripper == 0.0 and self.now_s - self.closing_s >= 0.3:
            self.holds |= bool(np.linalg.norm(self.position - CUBE) < 0.015)
        self.publish()

    def publish(self) -> None:
        noise = self.noise_m * self.random.uniform(-1, 1, 3)
        self.poses.hear(self.position + noise, (0, 0, 0, 1), 'base', self.now_ns, self.now_ns)

    def grip(self) -> None:
        told = self.motion.gripper
        if told is not None and told != self.gripper:
            self.gripper = told
            if told == 0.0:
                self.closed_at.append(self.position)
                self.closing_s = self.now_s
            else:
                self.opened += 1

    def look(self) -> Seen:
        return Seen(self.now_s, self.position.copy(), self.gripper, self.holds)

    def act(self, seen: Seen, timing: str) -> bool:
        due_s = seen.at_s if timing == 'timed' else self.now_s
        moves = self.motion.execute(
            expert(seen),
            'bridge',
            self.now_s,
            seen.at_s + MAX_AGE_S,
            due_s=due_s,
            capture=Capture(round(seen.at_s * NS), self.now_ns),
        )
        if moves:
            self.grip()
        return moves


def an_arm(timing: str, box: Box | None = None, **options: float) -> Arm:
    poses = PoseHistory(MAX_AGE_S, 0.2)
    guide = Guide(poses, 'base', timing == 'from_pose', box)
    contract: ActionContract = replace(CONTRACT, max_linear_m_s=0.25)
    motion = Motion({'bridge': contract}, LIMITS, 'bridge', guide)
    return Arm(motion, poses, **options)  # type: ignore[arg-type]


def run(arm: Arm, timing: str, latency_s: float, limit_s: float = 60.0) -> float:
    """Return how long it took to bring the cube to its place; the limit if it did not."""
    began_s, waiting = arm.now_s, deque([arm.look()])
    for _ in range(3):
        arm.tick()
    while arm.now_s - began_s < limit_s:
        if arm.now_s - waiting[0].at_s >= latency_s - 1e-9:
            arm.act(waiting.popleft(), timing)
            arm.tick()
            waiting.append(arm.look())
        arm.tick()
        if arm.holds and np.linalg.norm(arm.position - PLACE) < 0.005:
            return arm.now_s - began_s
    return limit_s


def off_m(arm: Arm) -> float:
    """How far from the cube the gripper was closed."""
    return max(float(np.linalg.norm(at - CUBE)) for at in arm.closed_at)


@pytest.mark.parametrize(
    ('latency_s', 'limit_s'), [(0.0, 5.0), (0.3, 6.0), (1.0, 8.0), (2.0, 13.0)]
)
@pytest.mark.parametrize('lag_s', [0.0, 0.1])
def test_from_the_pose_a_late_chunk_is_right(
    latency_s: float, limit_s: float, lag_s: float
) -> None:
    """The gripper closes once, at the cube, and the arm goes no lower than its own lag takes it."""
    for seed in range(3):
        arm = an_arm('from_pose', lag_s=lag_s, noise_m=0.0005, seed=seed)
        assert run(arm, 'from_pose', latency_s) < limit_s
        assert len(arm.closed_at) == 1 and not arm.opened
        assert off_m(arm) < 0.005 + 0.15 * lag_s
        assert arm.lowest_m > CUBE[2] - 0.001 - 0.15 * lag_s
        assert arm.motion.counters.motions_refused == 0


def test_timed_plays_only_what_is_not_past() -> None:
    """So it is right while the latency is short, and an arm that waits closes in the air."""
    arm = an_arm('timed')
    assert run(arm, 'timed', 0.0) < 5.0 and off_m(arm) < 0.005
    arm = an_arm('timed')
    run(arm, 'timed', 1.0, limit_s=10.0)
    assert not arm.holds and off_m(arm) > 0.05
    arm = an_arm('timed')
    run(arm, 'timed', 2.0, limit_s=10.0)
    assert not arm.closed_at and arm.motion.counters.motions == 0
    assert arm.motion.cause is not None and arm.motion.cause.reason is Reason.MOTION_ROWS_PAST


def test_published_repeats_what_was_done_since_the_image() -> None:
    """What the pose is for: the same arm, the same expert, one second late."""
    arm = an_arm('published')
    run(arm, 'published', 1.0, limit_s=15.0)
    assert not arm.holds and arm.lowest_m < CUBE[2] - 0.03


@pytest.mark.parametrize('timing', ['published', 'timed', 'from_pose'])
@pytest.mark.parametrize('latency_s', [0.0, 1.0])
def test_a_workspace_bounds_the_tool_whatever_the_chunk(timing: str, latency_s: float) -> None:
    box = Box.of([0.2, 0.5, -0.3, 0.3, 0.05, 0.3])  # the cube lies below it
    arm = an_arm(timing, box)
    run(arm, timing, latency_s, limit_s=12.0)
    assert arm.lowest_m > 0.05 - 5e-4  # the twists are sampled
    late = timing == 'timed' and latency_s > 0  # it does not come so far
    assert late or arm.motion.counters.clipped_workspace > 0


def test_a_tool_outside_its_workspace_only_moves_inward_or_along() -> None:
    box = Box.of([0.2, 0.5, -0.3, 0.3, 0.3, 0.5])  # it begins 0.05 m below
    arm = an_arm('published', box)
    before = arm.position[2]
    for direction in (-1, 1):
        rows = np.tile([0.02, 0, 0.02 * direction, 0, 0, 0, 1], (4, 1))
        capture = Capture(arm.now_ns, arm.now_ns)
        assert arm.motion.execute(rows, 'bridge', arm.now_s, arm.now_s + 9, capture=capture)
        for _ in range(60):
            arm.tick()
            assert arm.position[2] >= before - 1e-6
        assert arm.motion.leaves_workspace == (direction < 0)
    assert arm.position[2] == pytest.approx(0.33, abs=2e-3)
    assert arm.position[0] == pytest.approx(0.46, abs=2e-3)
