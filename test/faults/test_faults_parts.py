"""A policy of two cameras, a state and chunks, through the real node: faults of each part."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image, JointState

from support.graph import Robot, noise, running_node
from vla_ros.reasons import Reason, State
from vla_ros.scheduling.accounts import unaccounted

CAMERAS = ('camera_1', 'camera_2')
STATE = [0.1, 0.2, 0.3]
MODEL = f'scripted:cameras={len(CAMERAS)},state={len(STATE)},chunk=4,period=0.1'
LIMITS = (
    'image_timeout_s:=0.8',
    'state_timeout_s:=0.6',
    'frozen_image_timeout_s:=1.0',
    'first_image_timeout_s:=1.0',
)


class Parts:
    """The robot's cameras and its state, twenty times a second; each of them may be at fault."""

    def __init__(self, stack: Robot) -> None:
        self._stack = stack
        self._images = {
            name: stack.create_publisher(Image, f'{name}/image', 10) for name in CAMERAS
        }
        self._states = stack.create_publisher(JointState, 'state', 10)
        self._still = noise()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.heal()

    def heal(self) -> None:
        """All parts are sound."""
        self.silent: set[str] = set()
        self.ahead_s: dict[str, float] = {}
        self.frozen = ''
        self.encoding = 'rgb8'
        self.state = STATE

    def __enter__(self) -> Parts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(1 / 20):
            now_ns = self._stack.get_clock().now().nanoseconds
            if 'state' not in self.silent:
                message = JointState(position=self.state)
                self._stamp(message, 'state', now_ns)
                self._states.publish(message)
            for name, publisher in self._images.items():
                if name in self.silent:
                    continue
                frozen = name == self.frozen
                encoding = self.encoding if name == 'camera_2' else 'rgb8'
                message = self._still if frozen else noise(encoding=encoding)
                self._stamp(message, name, now_ns)
                publisher.publish(message)

    def _stamp(self, message: Image | JointState, part: str, now_ns: int) -> None:
        stamp_ns = now_ns + round(self.ahead_s.get(part, 0.0) * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)


@pytest.fixture(scope='module')
def parts() -> Iterator[tuple[Robot, Parts]]:
    node = running_node(f'model:={MODEL}', 'instruction:=go', *LIMITS)
    with node as running, Parts(running.robot) as made:
        yield running.robot, made
    assert running.process.returncode == 0
    assert 'Traceback' not in running.output


FAULTS: dict[str, tuple[dict[str, object], Reason, str]] = {
    'a camera is silent': ({'silent': {'camera_2'}}, Reason.IMAGE_TIMEOUT, 'camera_2/image'),
    'both cameras are silent': ({'silent': set(CAMERAS)}, Reason.IMAGE_TIMEOUT, 'camera_1/image'),
    'the images lie apart': (
        {'ahead_s': {'camera_1': -0.22}},
        Reason.IMAGES_APART,
        'camera_1, camera_2 were not captured within sync_tolerance_s, 0.05 s',
    ),
    'a camera is ahead': ({'ahead_s': {'camera_2': 2.0}}, Reason.IMAGE_FUTURE, 'ahead'),
    'a camera repeats an image': ({'frozen': 'camera_2'}, Reason.IMAGE_FROZEN, 'frozen'),
    'a camera has another encoding': (
        {'encoding': 'infrared9'},
        Reason.IMAGE_REJECTED,
        'infrared9',
    ),
    'the state is silent': (
        {'silent': {'state'}},
        Reason.STATE_STALE,
        'for state_timeout_s, 0.6 s, no state was measured within sync_tolerance_s, 0.05 s',
    ),
    'the state is old': ({'ahead_s': {'state': -1.0}}, Reason.STATE_STALE, 'no state was measured'),
    'the state is too short': ({'state': STATE[:2]}, Reason.STATE_REJECTED, 'allowed: 3'),
    'the state is not finite': (
        {'state': [0.1, float('nan'), 0.3]},
        Reason.STATE_REJECTED,
        'all finite',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_of_one_part_is_a_hold_that_names_it(
    parts: tuple[Robot, Parts], fault: str
) -> None:
    stack, made = parts
    stack.wait_for_state(State.RUNNING)
    change, reason, message = FAULTS[fault]
    for name, value in change.items():
        setattr(made, name, value)
    stack.wait_for_state(State.HOLDING, reason, message)
    acted = len(stack.actions)
    made.heal()
    stack.wait_for_state(State.RUNNING)
    stack.wait_for(lambda: len(stack.actions) > acted)


def test_a_state_that_never_came_is_missing(parts: tuple[Robot, Parts]) -> None:
    stack, made = parts
    stack.wait_for_state(State.RUNNING)
    assert stack.transition(Transition.TRANSITION_DEACTIVATE)
    made.silent = {'state'}
    assert stack.transition(Transition.TRANSITION_ACTIVATE)
    stack.wait_for_state(State.HOLDING, Reason.STATE_MISSING, 'no state for state_timeout_s, 0.6 s')
    made.heal()
    stack.wait_for_state(State.RUNNING)


def test_a_camera_that_never_came_is_named(parts: tuple[Robot, Parts]) -> None:
    stack, made = parts
    stack.wait_for_state(State.RUNNING)
    assert stack.transition(Transition.TRANSITION_DEACTIVATE)
    made.silent = {'camera_2'}
    assert stack.transition(Transition.TRANSITION_ACTIVATE)
    stack.wait_for_state(State.HOLDING, Reason.NO_FIRST_IMAGE, 'camera_2/image')
    made.heal()
    stack.wait_for_state(State.RUNNING)


def test_actions_describe_themselves_and_every_image_is_accounted_for(
    parts: tuple[Robot, Parts],
) -> None:
    stack, _ = parts
    stack.wait_for_state(State.RUNNING)
    known = len(stack.actions)
    stack.wait_for(lambda: len(stack.actions) > known)
    action, policy = stack.actions[-1], stack.status.policy
    assert (action.horizon, len(action.names)) == (4, len(action.action))
    assert list(action.actions[: len(action.action)]) == list(action.action)
    assert len(action.actions) == action.horizon * len(action.names)
    assert (tuple(policy.cameras), policy.state_dim, policy.horizon) == (CAMERAS, 3, 4)
    assert not [status for status in stack.statuses if unaccounted(status.counters)]
    counters = stack.status.counters
    assert counters.joined == len(CAMERAS) * counters.observations > 0
    assert counters.states_rejected > 0
