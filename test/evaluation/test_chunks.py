# SPDX-License-Identifier: Apache-2.0
"""A policy of two cameras, a state and chunks, and the simulated arm, through the real node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from numpy.typing import NDArray

from vla_ros.cli.eval import main
from vla_ros.client import ReceivedAction
from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.evaluation.closed_loop import closed_loop, settled_status
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import play
from vla_ros.evaluation.running import FreeRun
from vla_ros.reasons import Reason, State
from vla_ros.scheduling.accounts import unaccounted
from vla_ros.scripted.policy import spec_of
from vla_ros.scripted.script import read_script
from vla_ros.simulation import BlocksWorld, Pose

MODEL = 'scripted:cameras=2,state=8,chunk=8,period=0.2'
SPEC = spec_of(read_script(MODEL)[1])
FIRST, SECOND = SPEC.cameras
PARAMETERS = {
    'model': MODEL,
    'unnorm_key': BlocksWorld.contract.unnorm_key,
    'image_timeout_s': '1.0',
    'state_timeout_s': '1.0',
    'sync_tolerance_s': '0.001',  # parts that are apart never fit by chance
}
PACE = Pace('free', rate_hz=10.0)
TICKS = 8  # of the cameras, in which an arm that is not held would move


class RecordingWorld(BlocksWorld):
    """Keeps the actions that it is asked to begin."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[NDArray[np.float64]] = []

    def begin(self, action: NDArray[np.float64], start: Pose | None = None) -> None:
        super().begin(action, start)
        self.began.append(action)


class Faults:
    """Stands between the simulated robot and its topics; each part may be at fault."""

    def __init__(self, robot: SimulatedRobot) -> None:
        self._show = robot.show
        robot.show = self.show  # type: ignore[method-assign]
        self.heal()

    def heal(self) -> None:
        self.silent = ''  # a camera
        self.late_s: Mapping[str, float] = {}  # by part
        self.state: Callable[[NDArray[np.float64]], NDArray[np.float64] | None] = lambda it: it

    def show(
        self,
        images: Mapping[str, NDArray[np.uint8]],
        stamp_ns: int,
        state: NDArray[np.float64] | None = None,
    ) -> None:
        """Publish each part by itself."""
        assert state is not None
        for camera, image in images.items():
            if camera != self.silent:
                self._show({camera: image}, self._stamp_ns(camera, stamp_ns))
        self._show({}, self._stamp_ns('state', stamp_ns), self.state(state))

    def _stamp_ns(self, part: str, stamp_ns: int) -> int:
        return stamp_ns - round(1e9 * self.late_s.get(part, 0.0))


@pytest.fixture(scope='module')
def world() -> Iterator[RecordingWorld]:
    with RecordingWorld() as world:
        world.equip(SPEC)
        yield world


@pytest.fixture(scope='module')
def robot() -> Iterator[SimulatedRobot]:
    said: list[str] = []
    loop = closed_loop('/chunks', PARAMETERS, said.append, spec=SPEC)
    with loop as robot:
        yield robot


def nothing(*_: object) -> None: ...


# -- in step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(('rows', 'executed'), [(None, 8), (3, 3)])
def test_every_row_reaches_the_world_once_and_in_order(
    robot: SimulatedRobot, world: RecordingWorld, rows: int | None, executed: int
) -> None:
    chunks: list[ReceivedAction] = []
    robot.on_action = chunks.append
    world.began.clear()
    pace, instruction = Pace(time_limit_s=4.0, rows=rows), world.instructions[0]
    episode = play(robot, world, 0, instruction, instruction, pace, nothing)
    robot.on_action = nothing
    assert not episode.failure
    assert {chunk.actions.shape for chunk in chunks} == {SPEC.action_shape}
    expected = np.concatenate([chunk.actions[:executed] for chunk in chunks])
    assert len(world.began) == episode.steps == 20
    np.testing.assert_array_equal(world.began, expected[:20])
    assert len(chunks) == len(episode.latencies_s) == -(-20 // executed)
    # Of a scripted policy, row k of a chunk is row 0 of the k-th chunk after it.
    np.testing.assert_allclose(chunks[0].actions[1], chunks[1].actions[0])


# -- free-running, with faults ---------------------------------------------------------------------


class Scene:
    """The arm, running freely, and the faults of its sensors."""

    def __init__(self, robot: SimulatedRobot, world: RecordingWorld) -> None:
        self.robot, self.world, self.faults = robot, world, Faults(robot)
        world.reset(0, world.instructions[0])
        self._run = FreeRun(robot, world, PACE)

    def runs_until(self, condition: Callable[[], bool], ticks: int = 600) -> None:
        for _ in range(ticks):
            if condition():
                return
            self._run.advance(nothing)
        raise AssertionError(f'not within {ticks} images; {self.robot.latest}')

    def acts(self) -> None:
        """The node is RUNNING, and the arm begins another three rows."""
        begun = len(self.world.began) + 3
        self.runs_until(lambda: len(self.world.began) >= begun)
        self.runs_until(lambda: self.robot.latest.state == State.RUNNING)

    def holds(self, reason: Reason, message: str) -> None:
        """The node holds and names the fault, and the arm comes to rest and stays there."""

        def is_told() -> bool:
            status = self.robot.latest
            what = (status.state, status.reason, message in status.message)
            return what == (State.HOLDING, reason, True)

        self.runs_until(is_told)
        settled_status(self.robot)  # actions published before have come by now
        self._runs(TICKS)  # the arm completes the row that it has begun
        begun, published = len(self.world.began), self.robot.latest.counters.published
        position = self.world.pose.position
        self._runs(TICKS)
        assert self.robot.latest.state == State.HOLDING
        assert self.robot.latest.counters.published == published
        assert len(self.world.began) == begun
        assert self.world.pose.position == pytest.approx(position, abs=1e-3)

    def restart(self) -> None:
        """Deactivate and activate the node, which forgets the states that it received."""
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            response = self.robot.call(ChangeState, 'vla/change_state', request, 20.0)
            assert response is not None and response.success

    def _runs(self, ticks: int) -> None:
        for _ in range(ticks):
            self._run.advance(nothing)


@pytest.fixture(scope='module')
def scene(robot: SimulatedRobot, world: RecordingWorld) -> Scene:
    assert robot.instruct(world.instructions[0]).ok
    return Scene(robot, world)


# What changes, and what the node says of it.
FAULTS: dict[str, tuple[Mapping[str, object], Reason, str]] = {
    'the second camera is silent': (
        {'silent': SECOND},
        Reason.IMAGE_TIMEOUT,
        f'{SECOND}/image',
    ),
    'the second camera is apart in time': (
        {'late_s': {SECOND: 0.5}},
        Reason.IMAGES_APART,
        f'{FIRST}, {SECOND} were not captured within sync_tolerance_s',
    ),
    'the state is missing': (
        {'state': lambda state: None},
        Reason.STATE_STALE,
        'no state was measured within sync_tolerance_s',
    ),
    'the state is stale': (
        {'late_s': {'state': 5.0}},
        Reason.STATE_STALE,
        'no state was measured within sync_tolerance_s',
    ),
    'the state has the wrong size': (
        {'state': lambda state: state[:7]},
        Reason.STATE_REJECTED,
        'allowed: 8',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_of_one_part_holds_the_arm_until_it_ends(scene: Scene, fault: str) -> None:
    scene.acts()
    changes, reason, message = FAULTS[fault]
    for name, value in changes.items():
        setattr(scene.faults, name, value)
    scene.holds(reason, message)
    scene.faults.heal()
    scene.acts()
    assert not unaccounted(settled_status(scene.robot).counters)


def test_a_state_that_never_came_holds_the_arm(scene: Scene) -> None:
    """The node begins anew, by another activation."""
    scene.faults.state = lambda state: None
    scene.restart()
    scene.holds(Reason.STATE_MISSING, 'no state for state_timeout_s, 1 s')
    scene.faults.heal()
    scene.acts()


# -- what the world does not have ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('scripted:cameras=3', "needs the camera 'camera_3', which the world does not have"),
        ('scripted:state=6', 'needs a state of 6 values; the world has a state of 8'),
        ('scripted:action_dim=8', 'gives actions of 8 values; the world takes 7'),
    ],
)
def test_a_policy_that_needs_what_is_not_there_is_rejected_before_it_is_loaded(
    capsys: pytest.CaptureFixture[str], model: str, message: str
) -> None:
    assert main(['--model', model]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert 'LOADING' not in printed.out + printed.err
