# SPDX-License-Identifier: Apache-2.0
"""``record:=true``: what the node records replays to the same actions, and never holds it up."""

from __future__ import annotations

import dataclasses
import json
import shlex
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import yaml
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from support.fakes import FakePolicy
from support.graph import Robot, image_message, noise
from support.in_process import node_with, unstarted_node
from support.rrd import Rrd, pixels
from vla_ros.cli import replay
from vla_ros.graph.stamps import from_time, to_time
from vla_ros.graph.topics import image_topics
from vla_ros.parameters.definition import Parameters
from vla_ros.policies import PolicyRequest, load_policy
from vla_ros.reasons import Reason, State
from vla_ros.recording import RecorderLimits
from vla_ros.replay.actions import ActionRow, read_actions
from vla_ros.replay.bag import Bag
from vla_ros.replay.frames import Frame, Frames, Instructions, Sampling
from vla_ros.replay.recorded import ACTION, action_definitions
from vla_ros.replay.run import ask
from vla_ros.replay.topics import find_instruction_topic, find_topics
from vla_ros.ros.loading import load_policy as load_for_node
from vla_ros.ros.recording import REPLAY_OPTIONS
from vla_ros.types import Policy, Session

GENEROUS = {
    'inference_timeout_s': 20.0,
    'max_action_age_s': 20.0,
    'max_image_age_s': 5.0,
    'frozen_image_timeout_s': 0.0,
    'image_timeout_s': 3600.0,
    'recording_min_free_gb': 0.0,
}


class Replayed:
    """A recording, and the answers of a policy to it."""

    def __init__(self, path: Path, policy: Policy, session: Session) -> None:
        with Bag(path, {ACTION: action_definitions()}) as bag:
            topics = find_topics(bag, [], None, session.spec)
            instructions = Instructions.recorded(bag, find_instruction_topic(bag, None))
            frames = Frames(
                bag, topics, session.spec, instructions, Sampling(), 0.05, lambda text: None
            )
            self.frames: list[Frame] = list(frames)
            assert not frames.skipped_text()
            [actions] = bag.topics_of(ACTION)
            recorded = [bag.decode(raw) for raw in bag.messages([actions])]
            self.recorded = {from_time(one.observation_stamp): one for one in recorded}
        self.rows: list[ActionRow] = list(ask(policy, session, self.frames, True, frames.skipped))

    def check(self, sent: Mapping[int, Sequence[float]]) -> None:
        """Compare all bits with those that were recorded and sent.

        :param sent: actions by the stamp of their observation.
        """
        assert len(self.recorded) == len(self.rows) > 0
        for row in self.rows:
            values = [value for one in row.actions for value in one]
            assert row.valid
            assert values == self.recorded[row.stamp_ns].actions.tolist() == sent[row.stamp_ns]


def folders(path: Path) -> list[Path]:
    return sorted(path.iterdir())


def sent_by(stack: Robot) -> dict[int, list[float]]:
    return {from_time(one.observation_stamp): list(one.actions) for one in stack.actions}


def act(stack: Robot, count: int) -> None:
    """Show so many images, each of which becomes an action."""
    for _ in range(count):
        before = len(stack.actions)
        stack.see(noise())
        stack.wait_for(lambda before=before: len(stack.actions) > before)


def test_ten_episodes_replay_to_the_same_actions(tmp_path: Path, tiny_checkpoint: Path) -> None:
    parameters = {'model': str(tiny_checkpoint), 'device': 'cpu', 'dtype': 'float32', **GENEROUS}
    recorded = {'record': True, 'recording_folder': str(tmp_path)}
    with unstarted_node(load_for_node, **parameters, **recorded) as (stack, _):
        stack.wait_for_state(State.HOLDING)
        stack.wait_until_heard()
        for number in range(10):
            stack.instruct(f'pick up cup {number}')
            act(stack, 2)
            if number == 3:  # a fault resets the session within the episode
                stack.see(image_message(encoding='infrared9'))
                stack.wait_for_state(State.HOLDING, Reason.IMAGE_REJECTED)
                act(stack, 1)
            if number == 4:
                marked = stack.ask(Trigger, 'vla/success', Trigger.Request())
                assert (
                    marked.success
                    and stack.wait_for(lambda: stack.status.recording.success) is None
                )
        stack.say('')
        stack.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION)
        assert stack.ask(Trigger, 'vla/success', Trigger.Request()).success  # of the last one
        stack.wait_for(lambda: stack.status.counters.recording_waiting == 0)
        counters, sent = stack.status.counters, sent_by(stack)
        assert counters.recording_messages == counters.recording_written > 0
    request = PolicyRequest(str(tiny_checkpoint), device='cpu', dtype='float32')
    policy = load_policy(request, repeatable=True)
    paths = folders(tmp_path)
    replayed = [Replayed(path, policy, policy.session(None)) for path in paths]
    for one in replayed:
        one.check(sent)
    assert [len(one.rows) for one in replayed] == [2, 2, 2, 3, *[2] * 6]
    assert [[frame.starts_over for frame in one.frames] for one in replayed][3] == [
        True,
        False,
        True,
    ]
    facts = [_facts(path) for path in paths]
    assert [one['success'] for one in facts] == [
        'true' if n in (4, 9) else 'false' for n in range(10)
    ]
    assert [one['instruction'] for one in facts] == [f'pick up cup {n}' for n in range(10)]
    assert json.loads(facts[0]['policy'])['dtype'] == 'float32'
    assert {one['end'] for one in facts} == {'INSTRUCTION_CHANGED', 'NO_INSTRUCTION'}
    assert f'vla_replay BAG {tiny_checkpoint} --unnorm-key random' in facts[0]['replay']


def _facts(path: Path) -> dict[str, str]:
    metadata = yaml.safe_load((path / 'metadata.yaml').read_text())
    found = metadata['rosbag2_bagfile_information']['custom_data']
    return {name.removeprefix('vla_ros.'): text for name, text in found.items()}


def test_each_option_of_vla_replay_that_is_a_parameter_is_in_the_command_of_a_recording() -> None:
    parsed = replay._parser().parse_args(['BAG', 'MODEL', '--output', 'FOLDER'])
    options = {f'{name}{end}' for name in vars(parsed) for end in ('', '_s')}
    parameters = {field.name for field in dataclasses.fields(Parameters)}
    with_values_of_their_own = {'model', 'unnorm_key', 'instruction', 'rotate_180'}
    assert options & parameters == {*REPLAY_OPTIONS} | with_values_of_their_own


def test_cameras_and_state_are_recorded_as_they_came(tmp_path: Path) -> None:
    cameras, model = ('camera_1', 'camera_2'), 'scripted:cameras=2,state=3,chunk=4,period=0.1'
    folder = tmp_path / 'recordings'
    parameters = {'model': model, 'record': True, 'recording_folder': str(folder), **GENEROUS}
    with unstarted_node(load_for_node, **parameters) as (stack, _):
        images = {
            name: stack.create_publisher(Image, topic, 10)
            for name, topic in image_topics(cameras).items()
        }
        states = stack.create_publisher(JointState, 'state', 10)
        stack.wait_for_state(State.HOLDING)
        stack.wait_for(
            lambda: all(one.get_subscription_count() for one in (*images.values(), states))
        )
        stack.instruct('go')
        shown = []
        for number in range(3):
            pixels = {name: np.full((8, 8, 3), number, np.uint8) for name in cameras}
            # So far apart that no part fits those of another round.
            now_ns = stack.get_clock().now().nanoseconds - (3 - number) * 10**9
            state = JointState(position=[0.1 + number, 0.2, 1 / 3])
            state.header.stamp = to_time(now_ns - 3)
            states.publish(state)
            for offset, (name, publisher) in enumerate(images.items()):
                message = image_message(pixels[name])
                message.header.stamp = to_time(now_ns + offset)
                publisher.publish(message)
            shown.append((now_ns, pixels, list(state.position)))
            stack.wait_for(lambda number=number: len(stack.actions) == number + 1)
        sent = sent_by(stack)
    [path] = folders(folder)
    assert _facts(path)['end'] == 'DEACTIVATED'
    policy = load_policy(PolicyRequest(model), repeatable=True)
    replayed = Replayed(path, policy, policy.session(None))
    replayed.check(sent)
    for frame, (stamp_ns, pixels, state) in zip(replayed.frames, shown, strict=True):
        observation = frame.observation
        assert observation.stamps_ns == {'camera_1': stamp_ns, 'camera_2': stamp_ns + 1}
        assert observation.state_stamp_ns == stamp_ns - 3
        assert observation.state.tolist() == state
        assert all((observation.images[name] == pixels[name]).all() for name in cameras)
    # The command that the recording names does the same.
    places = {'BAG': str(path), 'REPLAYED': str(tmp_path / 'replayed')}
    _, *arguments = (places.get(word, word) for word in shlex.split(_facts(path)['replay']))
    assert replay.main(arguments) == 0
    rows = read_actions(tmp_path / 'replayed')
    assert [row.actions for row in rows] == [row.actions for row in replayed.rows]
    check_timeline(path, tmp_path / 'shown', shown, sent)


def check_timeline(
    path: Path,
    output: Path,
    shown: Sequence[tuple[int, Mapping[str, np.ndarray], list[float]]],
    sent: Mapping[int, Sequence[float]],
) -> None:
    """Compare what rerun shows of an episode with what was given to the node and sent by it."""
    assert replay.main([str(path), '--rerun', '--output', str(output)]) == 0
    rrd = Rrd(output / 'replay.rrd')
    for frame, (stamp_ns, images, state) in enumerate(shown):
        for offset, (name, image) in enumerate(images.items()):
            row = rrd.of('image', f'{name}/image')[frame]
            assert (row.capture_ns, row.frame) == (stamp_ns + offset, frame)
            assert np.abs(pixels(row).astype(int) - image).max() <= 2
        for index, value in enumerate(state):
            row = rrd.of('state', f'value_{index}')[frame]
            assert (row.capture_ns, row.frame, row.value) == (stamp_ns - 3, frame, value)
        for column in range(7):
            row = rrd.rows[f'action/value_{column}/recorded'][frame]
            assert (row.capture_ns, row.frame, row.value) == (
                *(stamp_ns, frame),
                sent[stamp_ns][column],
            )
    assert rrd.of('log', 'instruction')[0].value == 'go'
    assert any('RUNNING' in row.value for row in rrd.of('log', 'status'))
    [end] = rrd.of('log', 'episode')
    assert end.value == 'end of the episode: DEACTIVATED; not marked as a success'
    assert '**instruction**: go' in rrd.static['episode']['TextDocument:text'][0]


def test_a_full_disk_is_told_and_the_node_acts_on(tmp_path: Path) -> None:
    parameters = {'record': True, 'recording_folder': str(tmp_path), **GENEROUS}
    parameters['recording_min_free_gb'] = 0.1
    with (
        mock.patch.object(RecorderLimits, 'free_bytes', lambda _: 10**6),
        node_with(FakePolicy(), **parameters) as (stack, _),
    ):
        stack.instruct('go')
        act(stack, 3)
        stack.wait_for(lambda: stack.status.recording.reason == Reason.RECORDING_NO_SPACE)
        status = stack.status
        assert status.state == State.RUNNING and status.reason == Reason.NONE
        assert 'recording_min_free_gb' in status.recording.message
        marked = stack.ask(Trigger, 'vla/success', Trigger.Request())
        assert marked.success and 'but it is not whole: not recorded: ' in marked.message
        act(stack, 3)
        stack.wait_for(lambda: stack.status.counters.recording_no_space > 6)
        assert stack.status.counters.recording_written == 0
    assert folders(tmp_path) == []


def test_a_stuck_disk_delays_no_action(tmp_path: Path) -> None:
    """Actions wait for nothing that the recorder does, and what waits for it keeps no pixels."""
    goes_on, is_stuck = threading.Event(), threading.Event()

    def free_bytes(_: RecorderLimits) -> int:
        is_stuck.set()
        assert goes_on.wait(60.0)
        return 10**12

    policy = FakePolicy()
    parameters = {'record': True, 'recording_folder': str(tmp_path), **GENEROUS}
    with (
        mock.patch.object(RecorderLimits, 'free_bytes', free_bytes),
        node_with(policy, **parameters) as (stack, _),
    ):
        stack.instruct('go')
        act(stack, 1)
        pixels = weakref.ref(policy.calls.pop()[0])
        act(stack, 2)
        stack.wait_for(lambda: pixels() is None)
        assert is_stuck.wait(30.0)
        stack.instruct('go there')  # the end of an episode waits for nothing, either
        act(stack, 3)
        stack.wait_for(lambda: stack.status.counters.recording_waiting > 10)
        assert stack.status.counters.recording_written == 0
        goes_on.set()
    assert len(folders(tmp_path)) == 2


def test_record_is_switched_while_the_robot_acts(tmp_path: Path) -> None:
    with node_with(FakePolicy(), recording_folder=str(tmp_path), **GENEROUS) as (stack, _):
        stack.instruct('go')
        act(stack, 1)
        assert stack.set_parameter_of_node('record', True).successful
        act(stack, 2)  # of an instruction that began without a recording
        stack.instruct('go there')
        act(stack, 2)
        assert stack.set_parameter_of_node('record', False).successful
        act(stack, 1)
        stack.instruct('come back')
        act(stack, 1)
        stack.wait_for(lambda: not stack.status.recording.on)
        assert stack.set_parameter_of_node('record', True).successful
        stack.instruct('once more')
        act(stack, 3)
    paths = folders(tmp_path)
    facts = [_facts(path) for path in paths]
    told = [(one['instruction'], one['end'], one['messages_lost']) for one in facts]
    assert told == [('go there', 'RECORDING_OFF', '0'), ('once more', 'DEACTIVATED', '0')]
    for path, count in zip(paths, (2, 3), strict=True):
        with Bag(path) as bag:
            [actions] = bag.topics_of(ACTION)
            assert bag.topics[actions].count == count


def test_without_record_there_is_no_thread_and_no_message_is_kept() -> None:
    with node_with(FakePolicy(), **GENEROUS) as (stack, node):
        stack.instruct('go')
        act(stack, 1)
        assert 'vla-recorder' not in {one.name for one in threading.enumerate()}
        [session] = node._configuration.sessions
        assert session.observations._messages is None
        assert not stack.status.recording.on
        refused = stack.ask(Trigger, 'vla/success', Trigger.Request())
        assert not refused.success and 'no recorded episode' in refused.message
