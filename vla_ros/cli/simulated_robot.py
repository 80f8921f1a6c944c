"""The robot's side of the ROS graph, simulated: its camera, its arm, and who tells it what to do.

In step, the world waits for each action: it shows what a policy does, whatever time it takes.
Free-running, the world goes on with the wall's clock, as a real one does: the camera shows its
pictures at its rate, and the arm does the newest action whenever it has done the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vla_ros.cli.picture_messages import image_message
from vla_ros.evaluation.episode import Episode
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.ros.stamps import from_time, to_time
from vla_ros.simulation import FreeWorld, World
from vla_ros.types import PolicyError

_PATIENCE_S = 20.0  # for what takes milliseconds, on a machine that is busy otherwise
_ANSWER_S = 5.0  # an action takes no longer, beside the inference
_LEAST_SPINS = 3  # a free run that is late hears an action and a status all the same
DELTAS = ('now', 'picture')
_SETTLE_S = 0.1  # of simulated time, between two episodes
_ASKED_AT_MOST = 10  # times, in step

# What was seen and what was done there; the action is None in the last picture of an episode.
Watch = Callable[[NDArray[np.uint8], NDArray[np.float64] | None], None]


class EvaluationError(PolicyError):
    """There is no action to be had, and so nothing to judge."""


@dataclass(frozen=True)
class Pace:
    """How the world goes on.

    :param free: with the wall's clock; otherwise in step with the actions.
    :param rate_hz: of the camera, free-running.
    :param added_latency_s: so much later than it was captured is each picture sent, free-running.
    :param deltas_from: what a displacement starts from, free-running: ``now``, where the arm is
        when it begins, or ``picture``, where it was when the picture was captured.
    :param time_limit_s: of an episode, in the world's time; None: the world's own.
    """

    free: bool = False
    rate_hz: float = 30.0
    added_latency_s: float = 0.0
    deltas_from: str = 'now'
    time_limit_s: float | None = None


@dataclass(frozen=True)
class _Heard:
    """An action and when it came, seconds of the monotonic clock."""

    message: VlaAction
    at_s: float

    @property
    def action(self) -> NDArray[np.float64]:
        return np.array(self.message.action)

    @property
    def stamp_ns(self) -> int:
        return from_time(self.message.observation_stamp)


class SimulatedRobot(Node):
    """Spins itself while it plays. Of one thread, the world's.

    :param simulated_time: the robot's clock is the world's, and on the topic clock: in step only.
    :param black: its camera has its cap on.
    """

    def __init__(
        self, world: World, namespace: str, simulated_time: bool = False, black: bool = False
    ) -> None:
        super().__init__('simulated_robot', namespace=namespace)
        self.status = VlaStatus()
        self.black = black
        self.check: Callable[[], None] = lambda: None  # raises, to end a wait that is in vain
        self._world = world
        self._newest: _Heard | None = None
        self._simulated_ns = 10**9 if simulated_time else None
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._images = self.create_publisher(Image, 'image', 1)
        self._instructions = self.create_publisher(String, 'instruction', 1)
        self._clock_times = self.create_publisher(Clock, 'clock', 1) if simulated_time else None
        self.create_subscription(VlaStatus, 'status', self._on_status, latched)
        self.create_subscription(VlaAction, 'action', self._on_action, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _on_status(self, message: VlaStatus) -> None:
        self.status = message

    def _on_action(self, message: VlaAction) -> None:
        self._newest = _Heard(message, time.monotonic())

    # -- waiting ---------------------------------------------------------------------------------

    def wait_until_ready(self, say: Callable[[str], None], timeout_s: float) -> None:
        """Until the node has a warm policy and waits for an instruction.

        :param say: hears of each new state.
        :raises EvaluationError: if the node can't, or not in time.
        """
        said, deadline_s = '', time.monotonic() + timeout_s
        while self.status.state not in (VlaStatus.HOLDING, VlaStatus.RUNNING):
            self._let_time_pass(0.1)
            self._executor.spin_once(0.1)
            self._check(deadline_s, 'the policy is warm')
            if (state := f'{self.status.state} {self.status.why}'.strip()) != said:
                said = state
                say(state)

    def instruct(self, instruction: str) -> None:
        """Until the node heeds it.

        :raises EvaluationError: if it does not.
        """
        deadline_s = time.monotonic() + _PATIENCE_S
        while self.status.instruction != instruction:
            self._instructions.publish(String(data=instruction))
            self._spin(lambda: self.status.instruction == instruction, 0.5)
            self._check(deadline_s, f'the node heeds the instruction {instruction!r}')

    def settled_status(self) -> VlaStatus:
        """One that was sent from now on: what it counts has happened."""
        before, deadline_s = self.status, time.monotonic() + _PATIENCE_S
        while self.status is before:
            self._let_time_pass(0.1)
            self._spin(lambda: self.status is not before, 0.1)
            self._check(deadline_s, 'the node sends its status')
        return self.status

    def _spin(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition comes true in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(left_s)
        return True

    def _check(self, deadline_s: float, what: str) -> None:
        self.check()
        status = self.status
        if status.state == VlaStatus.ERROR:
            raise EvaluationError(f'the node is in ERROR: {status.why}')
        if time.monotonic() > deadline_s:
            raise EvaluationError(
                f'it took too long until {what}; the last status was {status.state or "none"}: '
                f'{status.why}'
            )

    # -- episodes --------------------------------------------------------------------------------

    def play(
        self,
        seed: int,
        instruction: str,
        said: str | None = None,
        pace: Pace = Pace(),
        watch: Watch = lambda image, action: None,
    ) -> Episode:
        """Play one episode.

        :param instruction: what the world judges by.
        :param said: what the policy is told, if it is something else.
        :param watch: is shown each picture with what was done there.
        :raises EvaluationError: if no actions come.
        """
        said = instruction if said is None else said
        if pace.free:
            return self._play_freely(seed, instruction, said, pace, watch)
        return self._play_in_step(seed, instruction, said, pace, watch)

    def _play_in_step(
        self, seed: int, instruction: str, said: str, pace: Pace, watch: Watch
    ) -> Episode:
        world = self._world
        image = world.reset(seed, instruction).image
        self._let_time_pass(_SETTLE_S)
        self.instruct(said)
        limit_s = pace.time_limit_s or world.max_steps * world.contract.period_s
        latencies_s: list[float] = []
        unanswered = 0
        while (
            not world.success and (len(latencies_s) + 1) * world.contract.period_s <= limit_s + 1e-9
        ):
            heard, latency_s, repeats = self._ask(image)
            latencies_s.append(latency_s)
            unanswered += repeats
            watch(image, heard.action)
            image = world.step(heard.action).image
            self._let_time_pass(world.contract.period_s)
        watch(image, None)
        steps = len(latencies_s)
        return Episode(
            seed=seed,
            instruction=instruction,
            said=said,
            success=world.success,
            steps=steps,
            duration_s=steps * world.contract.period_s,
            latencies_s=tuple(latencies_s),
            unanswered=unanswered,
        )

    def _ask(self, image: NDArray[np.uint8]) -> tuple[_Heard, float, int]:
        """Show a picture until an action comes to it.

        :returns: the action, how long it took, and how often it did not come.
        """
        patience_s = _ANSWER_S + 3 * self.status.steady_inference_s
        for repeats in range(_ASKED_AT_MOST):
            shown_s = time.monotonic()
            stamp_ns = self._show(image)
            if self._spin(lambda: self._answers(stamp_ns), patience_s):  # noqa: B023
                assert self._newest is not None
                return self._newest, self._newest.at_s - shown_s, repeats
            self.check()
            self._let_time_pass(self._world.contract.period_s)
        raise EvaluationError(
            f'no action came to {_ASKED_AT_MOST} pictures; the last status was '
            f'{self.status.state}: {self.status.why}'
        )

    def _answers(self, stamp_ns: int) -> bool:
        return self._newest is not None and self._newest.stamp_ns == stamp_ns

    def _play_freely(
        self, seed: int, instruction: str, said: str, pace: Pace, watch: Watch
    ) -> Episode:
        world = self._world
        if not isinstance(world, FreeWorld):
            raise EvaluationError('this world can not run freely, only in step')
        self.instruct('')
        world.reset(seed, instruction)
        self.instruct(said)
        limit_s = pace.time_limit_s or world.max_steps * world.contract.period_s
        run = _FreeRun(self, world, pace, started_s=time.monotonic())
        while not world.success and run.elapsed_s < limit_s:
            run.tick(watch)
            self.check()
        watch(world.look().image, None)
        return Episode(
            seed=seed,
            instruction=instruction,
            said=said,
            success=world.success,
            steps=len(run.latencies_s),
            duration_s=run.elapsed_s,
            latencies_s=tuple(run.latencies_s),
        )

    # -- the camera ------------------------------------------------------------------------------

    def _show(self, image: NDArray[np.uint8]) -> int:
        """:returns: the picture's stamp, nanoseconds."""
        stamp_ns = self._now_ns()
        self.send(image, stamp_ns)
        return stamp_ns

    def send(self, image: NDArray[np.uint8], stamp_ns: int) -> None:
        message = image_message(np.zeros_like(image) if self.black else image, 'camera')
        message.header.stamp = to_time(stamp_ns)
        self._images.publish(message)

    def _now_ns(self) -> int:
        if self._simulated_ns is not None:
            return self._simulated_ns
        now_ns: int = self.get_clock().now().nanoseconds
        return now_ns

    def _let_time_pass(self, seconds: float) -> None:
        """Of the simulated clock, if that is the robot's."""
        if self._simulated_ns is not None:
            assert self._clock_times is not None
            self._simulated_ns += round(seconds * 1e9)
            self._clock_times.publish(Clock(clock=to_time(self._simulated_ns)))

    def newest_after(self, stamp_ns: int) -> _Heard | None:
        """The newest action, if its picture is a later one."""
        newest = self._newest
        return newest if newest is not None and newest.stamp_ns > stamp_ns else None

    def spin_until(self, at_s: float) -> None:
        """Hear what comes, until that moment of the monotonic clock; what is there already in any
        case."""
        for _ in range(_LEAST_SPINS):
            self._executor.spin_once(0.0)
        self._spin(lambda: False, at_s - time.monotonic())


class _FreeRun:
    """One free-running episode."""

    def __init__(
        self, robot: SimulatedRobot, world: FreeWorld, pace: Pace, started_s: float
    ) -> None:
        self.latencies_s: list[float] = []
        self._robot, self._world, self._pace = robot, world, pace
        self._started_s = started_s
        self._ticks = 0
        self._idle_from_s = 0.0  # when the arm has done its last action
        self._captured_s: dict[int, float] = {}  # by the stamp, monotonic
        self._unsent: list[tuple[int, NDArray[np.uint8]]] = []
        self._used_ns = robot.get_clock().now().nanoseconds
        self._poses: dict[int, object] = {}

    @property
    def elapsed_s(self) -> float:
        """Of the world's time, which the wall's waits for."""
        return self._ticks / self._pace.rate_hz

    def tick(self, watch: Watch) -> None:
        """A picture, what was heard since the last one, and a camera's period of the arm."""
        robot, world, pace = self._robot, self._world, self._pace
        now_ns = robot.get_clock().now().nanoseconds
        image = world.look().image
        self._captured_s[now_ns] = time.monotonic()
        self._poses[now_ns] = world.pose
        self._unsent.append((now_ns, image))
        while self._unsent and self._unsent[0][0] <= now_ns - pace.added_latency_s * 1e9:
            stamp_ns, delayed = self._unsent.pop(0)
            robot.send(delayed, stamp_ns)
        self._ticks += 1
        robot.spin_until(self._started_s + self.elapsed_s)
        heard = robot.newest_after(self._used_ns)
        if heard is not None and self.elapsed_s >= self._idle_from_s - 1e-6:
            self._begin(heard)
            watch(image, heard.action)
        world.advance(1 / pace.rate_hz)

    def _begin(self, heard: _Heard) -> None:
        self._used_ns = heard.stamp_ns
        self.latencies_s.append(heard.at_s - self._captured_s[heard.stamp_ns])
        self._idle_from_s = self.elapsed_s + self._world.contract.period_s
        if self._pace.deltas_from == 'picture':
            self._world.begin(heard.action, self._poses[heard.stamp_ns])
        else:
            self._world.begin(heard.action)
