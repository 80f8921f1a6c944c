# SPDX-License-Identifier: Apache-2.0
"""A state that a contract makes of joint_states and ee_pose, through the real node."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import Image, JointState

from support import servo
from support.graph import CameraThread, Robot, noise, running_node
from support.in_process import unstarted_node
from support.nodes import holds_and_heals
from vla_ros.graph.stamps import to_time
from vla_ros.graph.topics import image_topics
from vla_ros.reasons import Reason, State
from vla_ros.scripted.policy import ScriptedPolicy
from vla_ros.types import Cancel, Observation, Prediction

CAMERAS = ('camera_1', 'camera_2')
MODEL = f'scripted:cameras={len(CAMERAS)},state=8,chunk=4,period=0.1'
LIMITS = {'image_timeout_s': 0.8, 'state_timeout_s': 0.6, 'first_image_timeout_s': 1.0}
CONTRACT = {
    **servo.CONTRACT,
    'period_s': 0.1,
    'state': [
        {'value': 'position', 'unit': 1.0},
        {'value': 'axis_angle', 'unit': 1.0, 'near': [1, 0, 0, 0]},
        {'value': 'joints', 'joints': ['finger_1', 'finger_2'], 'zero': 0.0, 'unit': 0.001},
    ],
}


class Parts(CameraThread):
    """The robot's cameras, its joints and its tool; each may be at fault."""

    def __init__(self, stack: Robot) -> None:
        super().__init__(stack)
        self._images = [
            stack.create_publisher(Image, topic, 10) for topic in image_topics(CAMERAS).values()
        ]
        self._joints = stack.create_publisher(JointState, 'joint_states', 10)
        self._poses = stack.create_publisher(PoseStamped, 'ee_pose', 10)
        self.heal()

    def heal(self) -> None:
        """All parts are sound."""
        self.silent: set[str] = set()
        self.ahead_s: dict[str, float] = {}
        self.frame = 'base'
        self.x = 0.1
        self.turn = [1.0, 0.0, 0.0, 0.0]
        self.joints: dict[str, float] = {'finger_2': 0.02, 'elbow': 1.0, 'finger_1': 0.03}

    def show(self) -> bool:
        now_ns = self._stack.get_clock().now().nanoseconds
        pose = PoseStamped()
        pose.header.frame_id = self.frame
        pose.pose.position.x = self.x
        turn = pose.pose.orientation
        turn.x, turn.y, turn.z, turn.w = self.turn
        joints = JointState(name=list(self.joints), position=list(self.joints.values()))
        messages = [('joints', self._joints, joints), ('pose', self._poses, pose)]
        messages += [('images', publisher, noise()) for publisher in self._images]
        for part, publisher, message in messages:
            if part not in self.silent:
                ahead_ns = round(self.ahead_s.get(part, 0.0) * 1e9)
                message.header.stamp = to_time(now_ns + ahead_ns)
                publisher.publish(message)
        return True


@pytest.fixture(scope='module')
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp('state') / 'mine.yaml'
    file.write_text(yaml.safe_dump({'mine': CONTRACT}))
    return file


@pytest.fixture(scope='module')
def parts(contracts: Path) -> Iterator[tuple[Robot, Parts]]:
    limits = [f'{name}:={value}' for name, value in LIMITS.items()]
    own = ('unnorm_key:=mine', f'contracts:={contracts}', 'frame_id:=base')
    node = running_node(f'model:={MODEL}', 'instruction:=go', *own, *limits)
    with node as running, Parts(running.robot) as made:
        yield running.robot, made
    assert running.process.returncode == 0
    assert 'Traceback' not in running.output


FAULTS: dict[str, tuple[dict[str, object], Reason, str]] = {
    'the joints are silent': (
        {'silent': {'joints'}},
        Reason.STATE_STALE,
        'joint_states with finger_1, finger_2 is ',
    ),
    'the pose is silent': ({'silent': {'pose'}}, Reason.STATE_STALE, 'position of ee_pose is '),
    'both are silent': (
        {'silent': {'joints', 'pose'}},
        Reason.STATE_STALE,
        'no state was measured within sync_tolerance_s, 0.05 s, of the images',
    ),
    'the pose is old': ({'ahead_s': {'pose': -0.3}}, Reason.STATE_STALE, 'ee_pose is 0.3'),
    'both are old': (
        {'ahead_s': {'pose': -0.3, 'joints': -0.3}},
        Reason.STATE_STALE,
        'no state was measured within',
    ),
    'a joint is missing': (
        {'joints': {'finger_1': 0.03, 'elbow': 1.0}},
        Reason.STATE_REJECTED,
        "joint_states has no joint finger_2; it has 'finger_1', 'elbow'",
    ),
    'other joints': (
        {'joints': {'left_finger': 0.03, 'elbow': 1.0}},
        Reason.STATE_STALE,
        'joint_states with finger_1, finger_2 is ',
    ),
    'a joint is not finite': (
        {'joints': {'finger_1': math.nan, 'finger_2': 0.0}},
        Reason.STATE_REJECTED,
        'allowed: all finite',
    ),
    'another frame': (
        {'frame': 'world'},
        Reason.STATE_REJECTED,
        "ee_pose is in the frame 'world'; allowed: 'base', as in frame_id",
    ),
    'the position is not finite': ({'x': math.nan}, Reason.STATE_REJECTED, 'allowed: all finite'),
    'no quaternion': (
        {'turn': [0.0] * 4},
        Reason.STATE_REJECTED,
        'has the norm 0; allowed: 0.99 to 1.01',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_of_a_state_by_contract(parts: tuple[Robot, Parts], fault: str) -> None:
    stack, made = parts
    stack.wait_for_state(State.RUNNING)
    change, reason, message = FAULTS[fault]
    before = stack.status.counters
    holds_and_heals(stack, made, change, (reason, message))
    counters = stack.status.counters
    rejected = counters.states_rejected - before.states_rejected
    unrelated = counters.states_unrelated - before.states_unrelated
    assert (rejected > 0) == (reason is Reason.STATE_REJECTED)
    assert (unrelated > 0) == (fault == 'other joints')


NEVER = {
    'joints': "nothing came of joint_states with finger_1, finger_2 (joint_states has 'elbow')",
    'pose': 'nothing came of position of ee_pose; orientation of ee_pose',
}


class Recorder(ScriptedPolicy):
    """Keeps the states that it is given."""

    states: list[NDArray[float] | None]

    def predict(
        self, batch: Sequence[tuple[object, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | Exception]:
        self.states += [observation.state for _, observation in batch]
        return super().predict(batch, cancel)


@pytest.mark.parametrize('part', NEVER)
def test_a_part_of_the_state_that_never_came(contracts: Path, part: str) -> None:
    policy = Recorder.from_script(MODEL, print)
    policy.states = []
    values = {'instruction': 'go', 'unnorm_key': 'mine', 'contracts': str(contracts), **LIMITS}
    with unstarted_node(lambda *_: policy, **values) as (stack, _), Parts(stack) as made:
        made.silent = {'pose'} & {part}
        made.joints = {'elbow': 1.0} if part == 'joints' else made.joints
        stack.wait_for_state(State.HOLDING, Reason.STATE_MISSING, NEVER[part])
        assert (stack.status.counters.states_unrelated > 0) == (part == 'joints')
        made.heal()
        stack.wait_for_state(State.RUNNING)
        assert policy.states[-1] == pytest.approx([0.1, 0, 0, math.pi, 0, 0, 30, 20])
        # Without frame_id the frame may be any, but must not change.
        made.frame = 'world'
        stack.wait_for_state(State.HOLDING, Reason.STATE_REJECTED, "'base', as in the first")


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'unnorm_key': 'bridge_orig', 'state_from': 'contract'}, 'no contract with a state for'),
        ({'model': 'scripted:state=7'}, 'a state of 8 values, and the policy reads 7'),
    ],
)
def test_a_state_that_the_contract_can_not_make(
    contracts: Path, changes: dict[str, str], message: str
) -> None:
    values = {'model': MODEL, 'unnorm_key': 'mine', 'contracts': str(contracts), **changes}
    with unstarted_node(
        lambda parameters, _: ScriptedPolicy.from_script(parameters.model, print), **values
    ) as (stack, _):
        stack.wait_for_state(State.ERROR, Reason.LOADING_FAILED, message)


def test_the_topic_of_the_whole_state_stays(contracts: Path) -> None:
    policy = Recorder.from_script(MODEL, print)
    policy.states = []
    values = {'instruction': 'go', 'unnorm_key': 'mine', 'contracts': str(contracts), **LIMITS}
    with unstarted_node(lambda *_: policy, state_from='topic', **values) as (stack, _):
        whole = stack.create_publisher(JointState, 'state', 10)

        class Whole(Parts):
            def show(self) -> bool:
                message = JointState(position=[float(number) for number in range(8)])
                message.header.stamp = stack.get_clock().now().to_msg()
                whole.publish(message)
                return super().show()

        with Whole(stack):
            stack.wait_for_state(State.RUNNING)
            assert policy.states[-1] == pytest.approx(list(range(8)))
            change_the_state(stack, policy, contracts.parent)


def change_the_state(stack: Robot, policy: Recorder, folder: Path) -> None:
    """Another source, and another contract, of a robot that acts."""
    assert stack.set_parameter_of_node('state_from', 'contract').successful
    stack.wait_for(lambda: policy.states[-1][-1] == pytest.approx(20.0))
    refused = stack.set_parameter_of_node('contracts', '')
    assert not refused.successful and 'no contract with a state for this' in refused.reason
    stack.recovers()
    other = folder / 'other.yaml'
    fingers = {'value': 'joints', 'joints': ['elbow', 'finger_2'], 'zero': 0.0, 'unit': 0.001}
    other.write_text(
        yaml.safe_dump({'mine': {**CONTRACT, 'state': [*CONTRACT['state'][:2], fingers]}})
    )
    assert stack.set_parameter_of_node('contracts', str(other)).successful
    stack.wait_for(lambda: policy.states[-1][-2] == pytest.approx(1000.0))
    assert stack.set_parameter_of_node('state_from', 'topic').successful
    stack.wait_for(lambda: policy.states[-1] == pytest.approx(list(range(8))))
