# SPDX-License-Identifier: Apache-2.0
"""A policy of two cameras, a state and chunks, through the real node: faults of each part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image, JointState

from support.graph import CameraThread, Robot, noise, running_node
from support.nodes import holds_and_heals
from vla_ros.graph.stamps import to_time
from vla_ros.graph.topics import image_topics
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


class Parts(CameraThread):
    """The robot's cameras and its state; each part may be at fault."""

    def __init__(self, stack: Robot) -> None:
        super().__init__(stack)
        self._images = {
            name: stack.create_publisher(Image, topic, 10)
            for name, topic in image_topics(CAMERAS).items()
        }
        self._states = stack.create_publisher(JointState, 'state', 10)
        self._still = noise()
        self.heal()

    def heal(self) -> None:
        """All parts are sound."""
        self.silent: set[str] = set()
        self.ahead_s: dict[str, float] = {}
        self.frozen = ''
        self.encoding = 'rgb8'
        self.state = STATE

    def show(self) -> bool:
        now_ns = self._stack.get_clock().now().nanoseconds
        parts = {'state': (self._states, JointState(position=self.state))}
        parts |= {name: (publisher, self._image(name)) for name, publisher in self._images.items()}
        for part, (publisher, message) in parts.items():
            if part in self.silent:
                continue
            message.header.stamp = to_time(now_ns + round(self.ahead_s.get(part, 0.0) * 1e9))
            publisher.publish(message)
        return True

    def _image(self, name: str) -> Image:
        if name == self.frozen:
            return self._still
        return noise(encoding=self.encoding if name == 'camera_2' else 'rgb8')


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
    holds_and_heals(stack, made, change, (reason, message))


NEVER = {
    'state': (Reason.STATE_MISSING, 'no state for state_timeout_s, 0.6 s'),
    'camera_2': (Reason.NO_FIRST_IMAGE, 'camera_2/image'),
}


@pytest.mark.parametrize('part', NEVER)
def test_a_part_that_never_came_is_named(parts: tuple[Robot, Parts], part: str) -> None:
    stack, made = parts
    stack.wait_for_state(State.RUNNING)
    assert stack.transition(Transition.TRANSITION_DEACTIVATE)
    made.silent = {part}
    assert stack.transition(Transition.TRANSITION_ACTIVATE)
    stack.wait_for_state(State.HOLDING, *NEVER[part])
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
