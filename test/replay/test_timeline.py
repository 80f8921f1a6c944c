# SPDX-License-Identifier: Apache-2.0
"""``vla_replay --rerun``: what the viewer shows is what was recorded and replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.bags import LATENCY_NS, STORAGES, at, recording
from support.rrd import Row, Rrd, pixels
from vla_ros.cli import replay
from vla_ros.replay.actions import ActionRow, read_actions
from vla_ros.replay.bag import Bag
from vla_ros.replay.moments import Moment, Moments
from vla_ros.replay.recorded import message_definitions
from vla_ros.replay.timeline import Answers, write_timeline

FRONT, WRIST = '/front/image', '/wrist/image'
SCRIPTED = 'scripted:cameras=2,state=2'
COLUMNS = [f'value_{column}' for column in range(7)]


def run(*arguments: object) -> None:
    assert replay.main([str(argument) for argument in arguments]) == 0


def said(captured: Any) -> dict[str, Any]:
    """What the last line says of the timeline."""
    told: dict[str, Any] = json.loads(captured.readouterr().out.splitlines()[-1])['rerun']
    return told


def gray(number: int) -> np.ndarray:
    return np.full((24, 32, 3), 20 * number, np.uint8)


def record(path: Path, storage: str = 'mcap', count: int = 5) -> Path:
    """Two cameras at 10 Hz, a state before each pair, an action 20 ms after it, a velocity."""
    with recording(path, storage) as recorder:
        recorder.string('/instruction', 0.05, 'pick up the cup')
        recorder.string('/chatter', 0.05, 'hello')
        for number in range(count):
            second = 0.1 * (number + 1)
            recorder.state('/state', second - 0.002, [number, -number])
            recorder.image(FRONT, second, gray(number))
            recorder.image(WRIST, second + 0.001, gray(number + 1))
            recorder.action('/action', second + 0.02, [0.1 * number] * 7)
            recorder.twist('/cmd_vel', second + 0.06, [number, 0, 0, 0, 0, -number], stamped=False)
        recorder.string('/instruction', 0.1 * (count + 1), '')
    return path


def test_all_of_a_recording_is_on_the_timeline(tmp_path: Path, capsys: Any) -> None:
    bag = record(tmp_path / 'bag')
    run(bag, '--rerun', '--output', tmp_path / 'out')
    told = said(capsys)
    assert told['not_shown'] == {} and told['other_topics'] == {'/chatter': 1}
    assert told['messages'] == {
        '/instruction': 2,
        **dict.fromkeys(('/state', FRONT, WRIST, '/action', '/cmd_vel'), 5),
    }
    rrd = Rrd(tmp_path / 'out' / 'replay.rrd')
    for number in range(5):
        second = 0.1 * (number + 1)
        front, wrist = (rrd.rows[f'image{topic}'][number] for topic in (FRONT, WRIST))
        assert front[:3] == (at(second) - LATENCY_NS, at(second), number)
        assert wrist[:3] == (at(second + 0.001) - LATENCY_NS, at(second + 0.001), number)
        assert np.abs(pixels(front).astype(int) - gray(number)).max() <= 2
        assert np.abs(pixels(wrist).astype(int) - gray(number + 1)).max() <= 2
        recorded = at(second - 0.002)
        state = Row(recorded - LATENCY_NS, recorded, number, float(number))
        assert rrd.rows['state/state/value_0'][number] == state
        sent = at(second + 0.02)
        for column in COLUMNS:
            row = Row(sent, sent, number, 0.1 * number)
            assert rrd.rows[f'action/{column}/recorded'][number] == row
        moved = at(second + 0.06)  # without a stamp: 60 ms after the capture of the image
        row = Row(at(second) - LATENCY_NS + (moved - at(second)), moved, number, float(number))
        assert rrd.rows['velocity/cmd_vel/linear_x'][number] == row
    texts = [(row.recorded_ns, row.frame, row.value) for row in rrd.rows['log/instruction']]
    assert texts == [(at(0.05), 0, 'pick up the cup'), (at(0.6), 4, '(none: hold)')]


@pytest.mark.parametrize('storage', STORAGES)
def test_replays_stand_beside_the_same_recording(storage: str, tmp_path: Path, capsys: Any) -> None:
    bag = record(tmp_path / 'bag', storage)
    run(bag, SCRIPTED, '--image', f'{FRONT},{WRIST}', '--rerun', '--output', tmp_path / 'policy')
    compared = ('--compare', tmp_path / 'policy')
    run(bag, '--rerun', '--output', tmp_path / 'alone', *compared)
    with_policy, alone = (Rrd(tmp_path / name / 'replay.rrd') for name in ('policy', 'alone'))
    rows = read_actions(tmp_path / 'policy')
    assert len(rows) == 5
    [label] = {entity.split('/')[2] for entity in with_policy.under('action')} - {'recorded'}
    for column, name in enumerate(COLUMNS):
        expected = [(r.stamp_ns, r.bag_time_ns, r.frame, r.action[column]) for r in rows]
        assert with_policy.rows[f'action/{name}/{label}'] == expected
        assert alone.rows[f'action/{name}/{tmp_path}/policy/'] == expected
    recorded = {name for name in with_policy.rows if label not in name}
    assert recorded == {name for name in alone.rows if str(tmp_path) not in name}
    for name in recorded:
        assert with_policy.rows[name] == alone.rows[name]


def test_columns_without_names_have_those_of_another_source(tmp_path: Path) -> None:
    names = ('x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper')
    values = tuple(float(column) for column in range(7))
    row = ActionRow(0, at(0.1), at(0.1), 'go', '', True, '', (values,), (), (), ())
    answers = {'named': Answers([row], names), 'earlier': Answers([row])}
    with Bag(record(tmp_path / 'bag', count=1), message_definitions()) as bag:
        write_timeline(tmp_path / 'out.rrd', bag, answers, None, lambda text: None)
    rrd = Rrd(tmp_path / 'out.rrd')
    for name, value in zip(names, values, strict=True):
        shown = [rrd.rows[f'action/{name}/{source}'] for source in ('named', 'earlier', 'recorded')]
        assert [[one.value for one in rows] for rows in shown] == [[value], [value], [0.0]]


def test_what_cannot_be_shown_is_counted(tmp_path: Path, capsys: Any) -> None:
    with recording(tmp_path / 'bag') as recorder:
        recorder.image(FRONT, 0.0, gray(0))
        recorder.image(FRONT, 0.1, gray(0), encoding='infrared9')
        recorder.image(FRONT, 0.2, gray(2))
        recorder.raw('/state', 'sensor_msgs/msg/JointState', 0.2, b'\0\1\0\0')
    run(tmp_path / 'bag', '--rerun', '--output', tmp_path / 'out')
    told = said(capsys)
    assert told['messages'] == {FRONT: 3, '/state': 1}
    assert told['not_shown'] == {FRONT: {'unusable': 1}, '/state': {'unusable': 1}}
    rows = Rrd(tmp_path / 'out' / 'replay.rrd').rows
    assert [row.frame for row in rows[f'image{FRONT}']] == [0, 2]


def test_without_rerun_one_line_says_how_to_get_it(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('vla_ros.replay.rerun_file._MODULE', 'rerun_that_is_not_installed')
    arguments = [str(record(tmp_path / 'bag')), '--rerun', '--output', str(tmp_path / 'out')]
    for model in ([], ['scripted']):
        assert replay.main([*arguments, *model]) == 1
        captured = capsys.readouterr()
        assert captured.out == '' and captured.err.count('\n') == 1
        assert 'pip install rerun-sdk' in captured.err
    assert not (tmp_path / 'out').exists()


def test_a_file_that_is_not_written_to_its_end_is_an_error(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'replay.rrd').symlink_to('/dev/full')
    bag = record(tmp_path / 'bag')
    assert replay.main([str(bag), '--rerun', '--output', str(tmp_path / 'out')]) == 1
    assert 'was not written to its end' in capsys.readouterr().err.splitlines()[-1]


def test_a_model_or_rerun_is_needed_and_a_camera_must_be_one(tmp_path: Path, capsys: Any) -> None:
    bag = record(tmp_path / 'bag')
    with pytest.raises(SystemExit):
        replay.main([str(bag), '--output', str(tmp_path / 'out')])
    assert 'name a MODEL' in capsys.readouterr().err
    options = ('--rerun', '--image', '/state', '--output', str(tmp_path / 'out'))
    assert replay.main([str(bag), *options]) == 1
    assert '/state is not a topic of images' in capsys.readouterr().err


def test_moments_without_images_and_before_the_first() -> None:
    assert Moments([], []).of_stamp(5, 7) == Moment(5, 7, 0)
    assert Moments([], []).of_bag_time(7) == Moment(7, 7, 0)
    moments = Moments([100, 200, 150], [110, 210, 310])  # the last one came late
    assert moments.of_bag_time(90) == Moment(80, 90, 0)
    assert moments.of_bag_time(250) == Moment(240, 250, 1)
    assert [moments.of_stamp(at, 0).frame for at in (0, 120, 130, 170, 180, 999)] == [
        *(0, 0, 2, 2, 1, 1)
    ]
    assert moments.of_image(2) == Moment(150, 310, 2)
