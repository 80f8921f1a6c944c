# SPDX-License-Identifier: Apache-2.0
"""vla_replay with several cameras, a state, chunks of rows, and without tokens."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.bags import LATENCY_NS, STORAGES, at, recording
from support.places import ROOT
from vla_ros.cli import replay
from vla_ros.replay.actions import ActionRow, read_actions
from vla_ros.replay.compare import compare, comparison_tables

LEFT, RIGHT, STATE = '/cams/camera_1/image_raw', '/cams/camera_2/image_raw', '/joint_states'
RED = np.full((24, 32, 3), (200, 30, 30), np.uint8)
ALL_PARTS = 'scripted:cameras=2,state=8,chunk=8,tokens=0'
OLD = ROOT / 'test' / 'data' / 'replay_v1'

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Replay the recording ``bag`` into the folder ``out``, and return the summary."""

    def run(model: str, *options: object) -> dict[str, Any]:
        shutil.rmtree(tmp_path / 'out', ignore_errors=True)
        arguments = [tmp_path / 'bag', model, '--output', tmp_path / 'out', *options]
        capsys.readouterr()
        assert replay.main([str(one) for one in arguments]) == 0, capsys.readouterr().err
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
        assert report['image'] == summary['image']
        cameras = 1 if isinstance(summary['image'], str) else len(summary['image'])
        skipped = sum(summary['skipped'].values())
        assert summary['images'] == cameras * summary['used'] + skipped
        return summary

    yield run


def record(path: Path, storage: str = 'mcap', count: int = 6, state_dim: int = 8) -> Path:
    """At 10 Hz: the state, then the left image, and 20 ms later the right one."""
    with recording(path, storage) as recorder:
        recorder.string('/instruction', 0.0, 'pick up the cup')
        for number in range(count):
            recorder.state(STATE, 0.1 * number, [0.1 * number] * state_dim)
            recorder.image(LEFT, 0.1 * number + 0.01, RED)
            recorder.image(RIGHT, 0.1 * number + 0.03, RED)
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / 'actions.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('storage', STORAGES)
def test_two_cameras_a_state_and_chunks(storage: str, tmp_path: Path, run: Run) -> None:
    record(tmp_path / 'bag', storage)
    summary = run(ALL_PARTS)
    assert (summary['image'], summary['state']) == ([LEFT, RIGHT], STATE)
    assert summary['sync_tolerance_s'] == 0.05
    assert (summary['images'], summary['used'], summary['skipped']) == (12, 6, {})
    assert (summary['states'], summary['states_skipped']) == (6, {})
    rows = rows_of(tmp_path / 'out')
    for number, row in enumerate(rows):
        assert (row['version'], row['frame'], row['valid']) == (2, number, True)
        assert row['bag_time_ns'] == at(0.1 * number + 0.03)  # when the last part came
        assert row['stamp_ns'] == at(0.1 * number + 0.01) - LATENCY_NS  # of the oldest image
        assert np.shape(row['actions']) == np.shape(row['normalized_actions']) == (8, 7)
        assert row['token_ids'] == row['token_probabilities'] == []
    # Row 1 of a scripted chunk is row 0 of the next.
    assert [row['actions'][1] for row in rows[:-1]] == [row['actions'][0] for row in rows[1:]]
    assert [row.action for row in read_actions(tmp_path / 'out')] == [
        tuple(row['actions'][0]) for row in rows
    ]
    assert (tmp_path / 'out' / 'actions.png').is_file()


def test_the_table_of_chunks_names_row_and_column(tmp_path: Path, run: Run) -> None:
    record(tmp_path / 'bag')
    for tokens in (0, 1):
        run(f'scripted:cameras=2,state=8,chunk=3,row=2@2,tokens={tokens}')
        with (tmp_path / 'out' / 'actions.csv').open(newline='') as file:
            lines = list(csv.DictReader(file))
        indices = [f'{row}_{column}' for row in range(3) for column in range(7)]
        names = ['action', 'normalized_action', *tokens * ['token_id', 'token_probability']]
        assert list(lines[0])[7:] == [f'{name}_{index}' for name in names for index in indices]
        for row, line in zip(rows_of(tmp_path / 'out'), lines, strict=True):
            values = [value for one in row['actions'] for value in one]
            lists = [values, row['normalized_actions'], row['token_ids']]
            lists[1] = [value for one in lists[1] for value in one]
            for name, numbers in zip(names, lists[: len(names)], strict=False):
                cells = [line[f'{name}_{index}'] for index in indices]
                assert [float(cell) for cell in cells if cell] == numbers
                assert cells[len(numbers) :] == [''] * (21 - len(numbers))
        assert [line['valid'] for line in lines] == ['true', 'false', *['true'] * 4]
        assert lines[1]['invalid_reason'] == 'it has 14 values, expected 3 rows of 7'


def test_one_camera_and_one_row_give_the_files_of_before(tmp_path: Path, run: Run) -> None:
    """test/data/replay_v1 was written by version 0.1 and this script."""
    with recording(tmp_path / 'bag') as recorder:
        recorder.string('/instruction', 0.0, 'pick up the cup')
        for number in range(6):
            recorder.image('/camera/image', 0.1 * number, RED)
    summary = run('scripted:nan@2,dim=3@3', '--compare', OLD)
    assert list(summary) == [
        *('bag', 'image', 'instruction', 'instruction_topic', 'unnorm_key', 'every', 'rate_hz'),
        *('limit', 'draft', 'name', 'model', 'revision', 'device', 'dtype', 'quantization'),
        *('compiled', 'recomputed_patches', 'images', 'used', 'invalid', 'skipped'),
    ]
    assert (tmp_path / 'out' / 'actions.csv').read_text() == (OLD / 'actions.csv').read_text()
    for old, new in zip(rows_of(OLD), rows_of(tmp_path / 'out'), strict=True):
        assert new.pop('version') == 2
        for name in ('action', 'normalized_action'):
            new[name] = new.pop(f'{name}s')[0]
        assert new == old
    olds, news = read_actions(OLD), read_actions(tmp_path / 'out')
    assert repr(olds) == repr(news)
    assert compare(olds, news)['equal_actions'] == 6


@pytest.mark.parametrize('model', ['scripted:dim=0', 'scripted:chunk=3,row=0'])
def test_actions_without_values_are_written_and_drawn(model: str, tmp_path: Path, run: Run) -> None:
    record(tmp_path / 'bag')
    summary = run(model, '--image', LEFT)
    assert (summary['used'], summary['invalid']) == (6, 6)
    assert {row.action for row in read_actions(tmp_path / 'out')} == {()}
    assert (tmp_path / 'out' / 'actions.png').is_file()


# -- which images become an observation ------------------------------------------------------------


def test_images_that_do_not_fit_are_counted(tmp_path: Path, run: Run) -> None:
    with recording(tmp_path / 'bag') as recorder:
        recorder.string('/instruction', 0.0, 'pick up the cup')
        for number in range(4):  # the left camera is four times as fast
            for step in range(4):
                recorder.image(LEFT, number + 0.25 * step, RED)
            recorder.image(RIGHT, number + 0.76, RED)
        recorder.image(LEFT, 4.0, RED)
    summary = run('scripted:cameras=2')
    assert summary['skipped'] == {'replaced': 12, 'pending': 1}
    assert [row['frame'] for row in rows_of(tmp_path / 'out')] == [3, 7, 11, 15]


def test_the_tolerance_decides(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / 'bag')
    assert run(ALL_PARTS, '--sync-tolerance', '0.03')['used'] == 6
    arguments = (tmp_path / 'bag', ALL_PARTS, '--output', tmp_path / 'none')
    options = ('--sync-tolerance', '0.01')
    assert replay.main([str(one) for one in (*arguments, *options)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f'no image on {LEFT}, {RIGHT} of bag' in told
    assert '10 replaced (the newest messages' in told and '--sync-tolerance, 0.01 s' in told


def test_a_state_that_is_not_usable_is_counted(tmp_path: Path, run: Run) -> None:
    with recording(tmp_path / 'bag') as recorder:
        recorder.string('/instruction', 0.0, 'pick up the cup')
        for number in range(4):
            recorder.image(LEFT, number, RED)
        recorder.state(STATE, 0.001, [0.5] * 3)
        recorder.state(STATE, 0.002, [np.nan, 0.5])
        recorder.raw(STATE, 'sensor_msgs/msg/JointState', 0.003, b'\0\1\0\0damaged')
        for number in (1, 2):
            recorder.state(STATE, number + 0.01, [0.5] * 2)
    summary = run('scripted:state=2')
    assert (summary['states'], summary['states_skipped']) == (5, {'unusable_state': 3})
    assert summary['skipped'] == {'replaced': 1, 'pending': 1}  # the images 0 and 3
    assert [row['frame'] for row in rows_of(tmp_path / 'out')] == [1, 2]


@pytest.mark.parametrize(
    ('options', 'taken', 'skipped', 'states'),
    [
        (('--every', 2), [0, 2, 4], {'downsampled': 3, 'replaced': 2, 'pending': 1}, {}),
        (('--rate', 5), [0, 2, 4], {'downsampled': 3, 'replaced': 2, 'pending': 1}, {}),
        (('--limit', 2), [0, 1], {'after_limit': 8}, {'after_limit': 4}),
    ],
)
def test_the_first_camera_leads(
    options: tuple[object, ...],
    taken: list[int],
    skipped: dict[str, int],
    states: dict[str, int],
    tmp_path: Path,
    run: Run,
) -> None:
    record(tmp_path / 'bag')
    summary = run(ALL_PARTS, *options)
    assert [row['frame'] for row in rows_of(tmp_path / 'out')] == taken
    assert (summary['skipped'], summary['states_skipped']) == (skipped, states)


def test_a_new_instruction_drops_the_images_that_wait(tmp_path: Path, run: Run) -> None:
    with recording(tmp_path / 'bag') as recorder:
        for number in range(4):
            recorder.image(LEFT, number, RED)
            recorder.image(RIGHT, number + 0.02, RED)
        recorder.string('/instruction', 0.01, 'pick up the cup')
        recorder.string('/instruction', 2.01, 'put it down')
    summary = run('scripted:cameras=2')
    # The right images 0 and 2 find no left image.
    assert summary['skipped'] == {'no_instruction': 1, 'replaced': 3}
    rows = rows_of(tmp_path / 'out')
    assert [(row['frame'], row['instruction']) for row in rows] == [
        (1, 'pick up the cup'),
        (3, 'put it down'),
    ]


def test_an_observation_without_an_answer_counts_all_its_images(tmp_path: Path, run: Run) -> None:
    record(tmp_path / 'bag')
    summary = run(f'{ALL_PARTS},raise@2,refuse@3')
    assert summary['used'] == 4
    assert Counter(summary['skipped']) == {'failed': 2, 'unusable_instruction': 2}


# -- which topics ----------------------------------------------------------------------------------


def test_topics_are_named_in_the_order_of_the_cameras(tmp_path: Path, run: Run) -> None:
    record(tmp_path / 'bag')
    named = ('--image', f'{RIGHT},{LEFT}', '--state', STATE)
    summary = run(ALL_PARTS, *named)
    assert summary['image'] == [RIGHT, LEFT]
    assert run(ALL_PARTS, '--image', RIGHT, '--image', LEFT)['image'] == [RIGHT, LEFT]
    assert run('scripted', '--image', RIGHT)['image'] == RIGHT


@pytest.mark.parametrize(
    ('model', 'options', 'told'),
    [
        ('cameras=2', ('--image', LEFT), 'the policy needs 2 different topics; name one for each'),
        ('cameras=2', ('--image', f'{LEFT},{LEFT}'), 'in this order: camera_1, camera_2'),
        ('cameras=3', (), '0 topics of images with the name camera_3 (none); name one for each'),
        ('cameras=1', ('--image', f'{LEFT},{RIGHT}'), 'the policy needs 1 different topics'),
        ('cameras=2', ('--state', STATE), 'the policy takes no state; omit --state'),
        ('state=8', ('--image', LEFT, '--state', '/x'), '/x is not a topic of states in bag'),
        ('state=8', ('--image', LEFT), '2 topics of states (/arm, /joint_states); name one with'),
    ],
)
def test_topics_that_are_not_there(
    model: str,
    options: tuple[str, ...],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with recording(tmp_path / 'bag') as recorder:
        recorder.string('/instruction', 0.0, 'go')
        recorder.state('/arm', 0.0, [0.0])
        recorder.state(STATE, 0.0, [0.0])
        recorder.image(LEFT, 0.0, RED)
        recorder.image(RIGHT, 0.0, RED)
    arguments = [tmp_path / 'bag', f'scripted:{model}', '--output', tmp_path / 'out', *options]
    assert replay.main([str(one) for one in arguments]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


# -- comparison ------------------------------------------------------------------------------------


def chunk(frame: int, values: list[list[float]], tokens: tuple[int, ...] = ()) -> ActionRow:
    rows = tuple(map(tuple, values))
    return ActionRow(frame, at(frame), 0, 'go', 'key', True, '', rows, rows, tokens, ())


def test_actions_are_compared_where_there_are_no_tokens() -> None:
    first = [chunk(0, [[0.1, 0.2], [0.3, 0.4]]), chunk(1, [[0.1, 0.2], [0.3, 0.4]])]
    second = [chunk(0, [[0.1, 0.2], [0.3, 0.4]]), chunk(1, [[0.1, 0.2], [0.3, 0.9]])]
    result = compare(first, second)
    assert (result['equal_actions'], result['equal_tokens']) == (1, None)
    assert result['first_difference'] == {
        'frame': 1,
        'bag_time_ns': at(1),
        'row': 1,
        'dimension': 1,
    }
    differences = [one['largest_action_difference'] for one in result['dimensions']]
    assert differences == [0.0, pytest.approx(0.5)]
    tables = comparison_tables([{'first': 'a', 'second': 'b', **result}])
    assert 'frame 1, row 1, dimension 1' in tables
    assert 'largest difference' in tables and '0.5' in tables and 'equal tokens' in tables
    with_tokens = [chunk(0, [[0.1, 0.2], [0.3, 0.4]], (1, 2, 3, 4))]
    assert compare(first, with_tokens)['equal_tokens'] is None
    assert compare(first, with_tokens)['equal_actions'] == 1


def test_tokens_of_all_rows_are_counted_by_column() -> None:
    values = [[0.1, 0.2], [0.3, 0.4]]
    result = compare([chunk(0, values, (1, 2, 3, 4))], [chunk(0, values, (1, 2, 3, 9))])
    assert [(one['tokens'], one['equal']) for one in result['dimensions']] == [(2, 2), (2, 1)]
    assert (result['equal_actions'], result['largest_bin_distance']) == (0, 5)
    assert result['first_difference']['row'] == result['first_difference']['dimension'] == 1


def test_two_policies_with_chunks_are_compared(tmp_path: Path, run: Run) -> None:
    record(tmp_path / 'bag')
    run(ALL_PARTS)
    shutil.move(tmp_path / 'out', tmp_path / 'first')
    run(f'{ALL_PARTS},nan@3', '--compare', tmp_path / 'first')
    first, second = read_actions(tmp_path / 'first'), read_actions(tmp_path / 'out')
    assert compare(first, second)['equal_actions'] == 5
