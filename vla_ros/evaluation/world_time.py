# SPDX-License-Identifier: Apache-2.0
"""An episode in world time: an inference takes a set time of the world, not of the machine.

The world goes on in ticks of its clock, which the node follows. While it waits for the node, the
clock stands. So neither the load nor the speed of the machine counts. Used by the robot's thread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.client.vla_client import ReceivedAction
from vla_ros.evaluation.episode import EvaluationError
from vla_ros.evaluation.pace import Pace, Watch
from vla_ros.evaluation.player import Captured, Chunk, Player
from vla_ros.evaluation.running import Run
from vla_ros.graph.stamps import from_duration, from_time
from vla_ros.reasons import State
from vla_ros.scheduling import rows_played_ns
from vla_ros.simulation import FreeWorld, World

TICK_S = 0.02

_ANSWER_S = 5.0  # maximum time to an action, in addition to the inference
_MAX_UNANSWERED = 3  # images in a row
# The node stops a motion when simulated time stops for 0.3 s, so the clock creeps instead.
_CREEP_EVERY_S, _CREEP_S = 0.1, 0.0005
_CLOCK_S = 0.03  # time that the clock needs to the node, before an image
_TWIST_S = 1.0  # maximum time to the next twist of a motion
_LAST_TWIST_S = 0.2  # that after several twists of zero, which end a motion
_ZEROS = 8
_MAX_REFUSED = 10  # chunks in a row that gave no twist


@dataclass(frozen=True)
class _Waiting:
    """An observation on its way through the node.

    :param tick: when its chunk comes.
    :param stamp_ns: capture time by the robot's clock, nanoseconds.
    """

    captured: Captured
    tick: int
    stamp_ns: int


class WorldRun(Run):
    """An episode in the world's time.

    The node gets the first image that a camera captures when no inference is running. Its chunk
    comes ``added_latency_s`` later. Until then the arm executes the rows of the chunk before, and
    waits when they are used up. With ``rows`` the node gets no image before so many of the chunk
    have been played: it would not use it. With motion ``twist``, the twists of the node move the
    arm.

    The robot's clock must be simulated.

    :raises EvaluationError: if the world can only run in step.
    """

    def __init__(self, robot: SimulatedRobot, world: World, pace: Pace) -> None:
        super().__init__()
        if not isinstance(world, FreeWorld):
            raise EvaluationError('this world only runs in step', 'take --pace step')
        self._robot, self._world, self._pace = robot, world, pace
        self._camera_ticks = max(1, round(1 / (pace.rate_hz * TICK_S)))
        self._latency_ticks = math.ceil(pace.added_latency_s / TICK_S - 1e-6)
        self._ticks = 0
        self._next_image = 0  # tick
        self._idle_from = 0  # tick in which the arm has completed its last row
        self._player = Player(world, pace.deltas_from)
        self._waiting: _Waiting | None = None
        self._fresh: Chunk | None = None  # came, and is not taken yet
        self._fresh_ns = 0  # when it came
        self._failed = 0  # images in a row that no action came to
        self._is_moving = False  # whether a twist is expected
        self._begins = False  # whether a chunk came, and none of its twists
        self._moved = 0  # ticks
        self._refused = 0  # chunks in a row that gave no motion
        if pace.motion == 'twist':
            robot.follow_twists()
            robot.tell_pose(world.pose)

    @property
    def elapsed_s(self) -> float:
        return self._ticks * TICK_S

    def advance(self, watch: Watch) -> None:
        """Let the world run for one tick."""
        self._finish_inference(watch)
        if self._waiting is None and self._ticks >= self._next_image:
            self._capture()
            self._finish_inference(watch)
        if self._pace.motion == 'twist':
            self._follow_twist()
        else:
            self._begin_row(watch)
            self._world.advance(TICK_S)
            self._robot.let_time_pass(TICK_S)
        self._ticks += 1

    def _capture(self) -> None:
        self.observation = self._world.look()
        seen = self._robot.seen(self.observation)
        captured = self._player.captured(self.elapsed_s, seen, self._is_resting)
        free = self._ticks + self._latency_ticks
        self._waiting = _Waiting(captured, free, self._robot.now_ns())
        self._next_image = 0
        self._let_images_wait(max(self._latency_ticks, 1))

    def _let_images_wait(self, ticks: int) -> None:
        """Send the first image of a camera that is captured so many ticks from now, or later."""
        first = max(self._next_image, self._ticks + ticks)
        self._next_image = math.ceil(first / self._camera_ticks) * self._camera_ticks

    @property
    def _is_resting(self) -> bool:
        return self._ticks >= self._idle_from

    def _finish_inference(self, watch: Watch) -> None:
        """Send the observation whose chunk is to come now, and wait for the chunk."""
        waiting, robot = self._waiting, self._robot
        if waiting is None or self._ticks < waiting.tick:
            return
        self._waiting = None
        received = self._request_chunk(waiting)
        if received is None:
            self.unanswered += 1
            self._failed += 1
            if self._failed == _MAX_UNANSWERED:
                self.failure = (
                    f'no action came to {_MAX_UNANSWERED} images in a row; the last status was '
                    f'{robot.latest.message}'
                )
            return
        self._failed = 0
        self.latencies_s.append(self.elapsed_s - waiting.captured.at_s)
        period_s = from_duration(received.message.period) or self._world.contract.period_s
        timed = robot.latest.motion.chunk_timing == 'timed'
        self._fresh_ns = robot.now_ns()
        self._fresh = Chunk(
            waiting.captured,
            received.actions,
            waiting.stamp_ns if timed else self._fresh_ns,
            round(1e9 * period_s),
        )
        if self._pace.rows:
            due_ns = from_time(received.message.due)
            played_ns = rows_played_ns(due_ns, self._pace.rows, period_s)
            self._let_images_wait(math.ceil((played_ns - self._fresh_ns) / (1e9 * TICK_S) - 1e-6))
        if self._pace.motion == 'twist':
            self._is_moving = self._begins = True
            watch(waiting.captured.seen, received.actions[0])

    def _request_chunk(self, waiting: _Waiting) -> ReceivedAction | None:
        robot = self._robot
        robot.let_time_pass(0.0)
        robot.spin_until(robot.monotonic_s() + _CLOCK_S * (self._pace.motion == 'twist'))
        robot.send(waiting.captured.seen, waiting.stamp_ns)
        patience_s = _ANSWER_S + 3 * robot.latest.policy.steady_inference_s
        if self._pace.motion == 'action':
            return robot.next_action(patience_s, waiting.stamp_ns)
        ends_s = robot.monotonic_s() + patience_s
        received = None
        while received is None and robot.monotonic_s() < ends_s:
            received = robot.next_action(_CREEP_EVERY_S, waiting.stamp_ns)
            if received is None:
                robot.let_time_pass(_CREEP_S)
        return received

    # -- actions -----------------------------------------------------------------------------------

    def _begin_row(self, watch: Watch) -> None:
        """Begin the next row, if the arm has completed the last one."""
        robot, player = self._robot, self._player
        if not self._is_resting:
            return
        if self._fresh is not None:
            player.take(self._fresh)
            self._fresh = None
        elif player.is_playing and self._has_held():
            player.drop()
        begun = player.begin(robot.now_ns())
        if begun is None:
            return
        captured, row, is_first = begun
        if not is_first:
            self.observation = self._world.look()
        watch(captured.seen if is_first else robot.seen(self.observation), row)
        self.steps += 1
        self._idle_from = self._ticks + round(self._world.contract.period_s / TICK_S)

    def _has_held(self) -> bool:
        """Return whether the node has begun to hold since the chunk came."""
        status = self._robot.latest
        return status.state == State.HOLDING and from_time(status.header.stamp) > self._fresh_ns

    # -- twists ------------------------------------------------------------------------------------

    def _follow_twist(self) -> None:
        """Move as the node's twist of this moment says, for one tick."""
        robot = self._robot
        twist = robot.twist_of(self._twist_patience_s)
        self._is_moving = twist is not None
        if self._begins:
            self._begins, self._refused = False, 0 if self._is_moving else self._refused + 1
            if self._refused == _MAX_REFUSED:
                self.failure = f'the node does not move: {robot.latest.motion.message}'
        if twist is None:
            self._world.advance(TICK_S)
        else:
            self._moved += 1
            self._world.drive(twist, robot.gripper_is_open, TICK_S)
        self.steps = round(self._moved * TICK_S / self._world.contract.period_s)
        robot.let_time_pass(TICK_S)
        robot.tell_pose(self._world.pose)

    @property
    def _twist_patience_s(self) -> float:
        if not self._is_moving:
            return 0.0
        return _LAST_TWIST_S if self._robot.zeros >= _ZEROS else _TWIST_S
