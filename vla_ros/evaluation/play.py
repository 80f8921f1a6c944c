# SPDX-License-Identifier: Apache-2.0
"""Episodes of a simulated world whose robot is controlled through the node.

In step, the world waits for each chunk of actions: the result depends on the actions of a policy,
not on its speed. Free-running, the world follows the system's clock (``running.py``). In world
time, an inference takes a set time of the world (``world_time.py``).

Used by the robot's thread. All times are the robot's.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.client.vla_client import ReceivedAction
from vla_ros.evaluation.episode import Episode, EvaluationError
from vla_ros.evaluation.pace import Pace, Watch
from vla_ros.evaluation.running import FreeRun, Run
from vla_ros.evaluation.world_time import WorldRun
from vla_ros.simulation import World
from vla_ros.types import Observation

_ANSWER_S = 5.0  # maximum time to an action, in addition to the inference
_MAX_REQUESTS = 3  # in step, for one observation
_SETTLE_S = 0.1  # simulated time between two episodes


def main_image(observation: Observation) -> NDArray[np.uint8]:
    """Return the image of the policy's first camera, uint8 [H, W, 3]."""
    return next(iter(observation.images.values()))


def play(
    robot: SimulatedRobot,
    world: World,
    seed: int,
    instruction: str,
    said: str,
    pace: Pace,
    watch: Watch,
) -> Episode:
    """Play one episode.

    :param instruction: instruction that decides about success.
    :param said: instruction that the policy gets.
    :raises EvaluationError: if the node is in ERROR, or does not take the instruction.
    """
    limit_s = pace.time_limit_s or world.max_steps * world.contract.period_s
    run: Run
    if pace.kind != 'step':
        _instruct(robot, '')
        world.reset(seed, instruction)
        _instruct(robot, said)
        run = _free_run(robot, world, pace)
    else:
        observation = world.reset(seed, instruction)
        robot.let_time_pass(_SETTLE_S)
        _instruct(robot, said)
        run = _StepRun(robot, world, observation, pace)
    while not (world.success or run.failure) and run.elapsed_s < limit_s - 1e-9:
        run.advance(watch)
    watch(run.observation, None)
    return Episode(
        seed=seed,
        instruction=instruction,
        said=said,
        success=world.success,
        steps=run.steps,
        duration_s=run.elapsed_s,
        latencies_s=tuple(run.latencies_s),
        failure=run.failure,
        unanswered=run.unanswered,
        skipped=run.skipped,
    )


def _free_run(robot: SimulatedRobot, world: World, pace: Pace) -> Run:
    if pace.kind == 'world':
        return WorldRun(robot, world, pace)
    return FreeRun(robot, world, pace)


def _instruct(robot: SimulatedRobot, instruction: str) -> None:
    if robot.is_in_force(instruction):
        return
    answer = robot.instruct(instruction)
    if not answer.ok:
        raise EvaluationError(f'the instruction {instruction!r} is not obeyed: {answer.message}')


class _StepRun(Run):
    """An episode in which the world waits: it gets each row once and in order."""

    def __init__(
        self, robot: SimulatedRobot, world: World, observation: Observation, pace: Pace
    ) -> None:
        super().__init__()
        self.observation = observation
        self._robot, self._world, self._pace = robot, world, pace
        self._rows: deque[NDArray[np.float64]] = deque()  # of the last chunk, still to execute

    @property
    def elapsed_s(self) -> float:
        return self.steps * self._world.contract.period_s

    def advance(self, watch: Watch) -> None:
        """Execute one row, of a new chunk if none is left; nothing if no chunk comes."""
        robot = self._robot
        seen = robot.seen(self.observation)
        if self._rows:
            robot.let_time_pass(self._world.contract.period_s)
        elif (chunk := self._request_chunk(seen)) is not None:
            self._rows.extend(chunk.actions[: self._pace.rows])
        else:
            self.failure = (
                f'no action came to one image, which was sent {_MAX_REQUESTS} times; the last '
                f'status was {robot.latest.message}'
            )
            return
        row = self._rows.popleft()
        watch(seen, row)
        self.observation = self._world.step(row)
        self.steps += 1

    def _request_chunk(self, seen: Observation) -> ReceivedAction | None:
        """Send the observation until its chunk comes; return None if none does."""
        robot = self._robot
        patience_s = _ANSWER_S + 3 * robot.latest.policy.steady_inference_s
        for _ in range(_MAX_REQUESTS):
            stamp_ns, sent_s = robot.now_ns(), robot.monotonic_s()
            robot.send(seen, stamp_ns)
            received = robot.next_action(patience_s, stamp_ns)
            robot.let_time_pass(self._world.contract.period_s)
            if received is not None:
                self.latencies_s.append(received.arrived_s - sent_s)
                return received
            self.unanswered += 1
        return None
