# SPDX-License-Identifier: Apache-2.0
"""vla_replay: the golden actions from a bag, the same bytes twice, every picture accounted for."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from support.bags import ACTION, LATENCY_NS, STORAGES, Recorder, at, new_types, recording
from support.golden import CASES, picture
from support.inputs import shows
from support.places import GOLDEN, ROOT
from vla_ros.cli import replay
from vla_ros.motion import shipped_entry
from vla_ros.openvla import OpenVLAPolicy, Preprocessing
from vla_ros.replay.actions import CSV_NAME, JSONL_NAME, ActionRow, ActionsError, read_actions
from vla_ros.replay.bag import Bag
from vla_ros.replay.compare import compare, comparison_tables
from vla_ros.replay.frames import Sampling, _schedule
from vla_ros.replay.recorded import read_recorded

MODEL = GOLDEN / 'openvla_tiny'
GOLDEN_CASES = [
    case
    for key, (_, case) in CASES.items()
    if key.startswith('openvla_tiny-') and case['unnorm_key'] == 'bridge_orig'
]
ON_CPU = ('--device', 'cpu', '--dtype', 'float32', '--unnorm-key', 'bridge_orig')
FILES = ['actions.csv', 'actions.jsonl', 'actions.png', 'summary.json']
IMAGE = '/camera/image'
RED = np.full((24, 32, 3), (200, 30, 30), np.uint8)
Run = Callable[..., dict[str, Any]]


def call(*arguments: object) -> int:
    return replay.main([str(argument) for argument in arguments])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """What its last line says."""

    def run(*arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        assert call(*arguments) == 0, capsys.readouterr().err
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        for one in report['runs']:
            assert one['images'] == one['used'] + sum(one['skipped'].values())
        return report

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that it ends with."""

    def refused(*arguments: object) -> str:
        assert call(*arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ''
        return captured.err.splitlines()[-1]

    return refused


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / JSONL_NAME).read_text().split('\n')[:-1]]


def moving(count: int) -> list[NDArray[np.uint8]]:
    """Pictures of a camera that turns."""
    with PIL.Image.open(GOLDEN / 'images' / 'vga.png') as image:
        wide = np.asarray(image.convert('RGB').resize((160, 120)))
    return [np.ascontiguousarray(np.roll(wide, 3 * step, axis=1)) for step in range(count)]


def record_golden(path: Path, storage: str = 'mcap', compressed: bool = False) -> Path:
    """Every golden picture, each with its own instruction just before."""
    with recording(path, storage) as recorder:
        for number, case in enumerate(GOLDEN_CASES):
            recorder.string('/instruction', number - 0.5, case['instruction'])
            if compressed:
                with PIL.Image.open(GOLDEN / case['image']) as image:
                    recorder.png(f'{IMAGE}/compressed', number, image)
            else:
                recorder.image(IMAGE, number, picture(case)[..., ::-1], 'bgr8')
    return path


def record_red(path: Path, count: int = 10, storage: str = 'mcap') -> Path:
    """At 10 Hz, with one instruction at the very beginning."""
    with recording(path, storage) as recorder:
        recorder.string('/instruction', 0.0, 'pick up the cup')
        for number in range(count):
            recorder.image(IMAGE, 0.1 * number, RED)
    return path


# -- what is written -------------------------------------------------------------------------------


@pytest.mark.parametrize('compressed', [False, True], ids=['raw', 'png'])
@pytest.mark.parametrize('storage', STORAGES)
def test_golden_actions(storage: str, compressed: bool, tmp_path: Path, run: Run) -> None:
    bag = record_golden(tmp_path / 'bag', storage, compressed)
    report = run(bag, MODEL, '--output', tmp_path / 'out', *ON_CPU)
    (counts,) = report['runs']
    flagged = sum(bool(case['flags']) for case in GOLDEN_CASES)
    assert (counts['images'], counts['used'], counts['skipped']) == (8, 8, {})
    assert counts['invalid'] == flagged == 3
    rows = rows_of(tmp_path / 'out')
    for number, (row, case) in enumerate(zip(rows, GOLDEN_CASES, strict=True)):
        assert row['frame'] == number
        assert row['bag_time_ns'] == at(number)
        assert row['stamp_ns'] == at(number) - LATENCY_NS
        assert row['instruction'] == case['instruction']
        assert row['unnorm_key'] == 'bridge_orig'
        assert row['token_ids'] == case['new_tokens']
        assert row['valid'] == (not case['flags'])
        assert bool(row['invalid_reason']) == bool(case['flags'])
        [action], [normalized] = row['actions'], row['normalized_actions']
        assert len(row['token_probabilities']) == len(action) == 7
        if 'eos_early_stop' not in case['flags']:
            assert action == case['action']
            assert normalized == case['normalized_action']
        else:
            assert action[-1] is None


def test_both_files_hold_the_same(tmp_path: Path, run: Run) -> None:
    bag = record_golden(tmp_path / 'bag')
    run(bag, MODEL, '--output', tmp_path / 'out', *ON_CPU)
    with (tmp_path / 'out' / CSV_NAME).open(newline='') as file:
        cells = list(csv.DictReader(file))
    for row, line in zip(rows_of(tmp_path / 'out'), cells, strict=True):
        for name in ('frame', 'bag_time_ns', 'stamp_ns', 'instruction', 'unnorm_key'):
            assert line[name] == str(row[name])
        assert (line['valid'], line['invalid_reason']) == (
            json.dumps(row['valid']),
            row['invalid_reason'],
        )
        for name, column in (
            ('actions', 'action'),
            ('normalized_actions', 'normalized_action'),
            ('token_ids', 'token_id'),
            ('token_probabilities', 'token_probability'),
        ):
            values = row[name][0] if name in ('actions', 'normalized_actions') else row[name]
            for index in range(7):
                assert_cell(line[f'{column}_{index}'], values, index)


def assert_cell(cell: str, values: list[float | None], index: int) -> None:
    if index >= len(values):
        assert cell == ''
    elif values[index] is None:
        assert cell == 'nan'
    else:
        assert float(cell) == values[index]


def test_twice_is_the_same_bytes_and_needs_no_ros(tmp_path: Path, run: Run) -> None:
    bag = record_golden(tmp_path / 'bag')
    run(bag, MODEL, '--output', tmp_path / 'here', *ON_CPU)
    elsewhere = tmp_path / 'elsewhere'
    code = (
        'import sys; from vla_ros.cli.replay import main; assert main(sys.argv[1:]) == 0;'
        'print({"rclpy", "vla_ros.ros", "vla_ros.msg"} & set(sys.modules))'
    )
    arguments = [str(one) for one in (bag, MODEL, '--output', elsewhere, *ON_CPU)]
    done = subprocess.run(
        [sys.executable, '-c', code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'set()'
    assert sorted(file.name for file in elsewhere.iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / 'here' / name).read_bytes() == (elsewhere / name).read_bytes(), name


def test_a_draft_changes_nothing(tmp_path: Path, run: Run, tiny_checkpoint: Path) -> None:
    with recording(tmp_path / 'bag') as recorder:
        for number, image in enumerate(moving(12)):
            recorder.image(IMAGE, 0.2 * number, image)
    common = ('--instruction', 'pick up the cup', '--device', 'cpu', '--dtype', 'float32')
    run(tmp_path / 'bag', tiny_checkpoint, '--output', tmp_path / 'a', *common, '--no-draft')
    report = run(
        *(tmp_path / 'bag', tiny_checkpoint, '--output', tmp_path / 'b', *common),
        *('--compare', tmp_path / 'a'),
    )
    (comparison,) = report['comparisons']
    assert comparison['frames'] == comparison['equal_actions'] == 12
    actions = [[row['actions'][0] for row in rows_of(tmp_path / name)] for name in 'ab']
    assert actions[0] == actions[1]
    assert len({tuple(action) for action in actions[0]}) > 1


# -- which pictures, which instruction -------------------------------------------------------------


def test_the_instruction_is_the_one_in_force_by_bag_time(tmp_path: Path, run: Run) -> None:
    with recording(tmp_path / 'bag', 'sqlite3') as recorder:
        for number in range(8):
            recorder.image(IMAGE, number, RED)
        recorder.string('/arm/instruction', 2.0, 'open the drawer')  # at the picture's very time
        recorder.string('/arm/instruction', 3.5, ' close it')
        recorder.string('/arm/instruction', 5.5, '  ')
        recorder.string('/arm/instruction', 6.5, 'pick\x07up')
        recorder.string('/chatter', 0.0, 'hello')
    report = run(tmp_path / 'bag', 'scripted', '--output', tmp_path / 'out')
    assert [(row['frame'], row['instruction']) for row in rows_of(tmp_path / 'out')] == [
        *((number, 'open the drawer') for number in (2, 3)),
        *((number, ' close it') for number in (4, 5)),
    ]
    assert report['runs'][0]['skipped'] == {'no_instruction': 3, 'unusable_instruction': 1}
    assert report['instruction_topic'] == '/arm/instruction'
    run(
        *(tmp_path / 'bag', 'scripted', '--output', tmp_path / 'chat'),
        *('--instruction-topic', '/chatter'),
    )
    assert {row['instruction'] for row in rows_of(tmp_path / 'chat')} == {'hello'}


@pytest.mark.parametrize(
    ('options', 'taken', 'skipped'),
    [
        (('--every', 3), [0, 3, 6, 9], {'downsampled': 6}),
        (('--limit', 4), [0, 1, 2, 3], {'after_limit': 6}),
        (('--every', 4, '--limit', 2), [0, 4], {'downsampled': 3, 'after_limit': 5}),
        (('--limit', 10), list(range(10)), {}),
        (('--rate', 5), [0, 2, 4, 6, 8], {'downsampled': 5}),
        (('--rate', 10), list(range(10)), {}),
        (('--rate', 100), list(range(10)), {}),
    ],
)
def test_sampling(
    options: tuple[object, ...],
    taken: list[int],
    skipped: dict[str, int],
    tmp_path: Path,
    run: Run,
) -> None:
    bag = record_red(tmp_path / 'bag')
    report = run(bag, 'scripted', '--output', tmp_path / 'out', *options)
    assert [row['frame'] for row in rows_of(tmp_path / 'out')] == taken
    assert report['runs'][0]['skipped'] == skipped


@pytest.mark.parametrize('ratio', [1, 2, 3, 4, 6])
def test_a_rate_is_kept_through_jitter_and_pauses(ratio: int) -> None:
    camera_hz, jitter = 30.0, np.random.default_rng(0).uniform(-0.15, 0.15, 600)
    times_ns = (1e9 * (np.arange(600) + jitter) / camera_hz).astype(int)
    times_ns[300:] += 5 * 10**9
    is_due = _schedule(Sampling(rate_hz=camera_hz / ratio))
    taken = [n for n, time_ns in enumerate(times_ns.tolist()) if is_due(n, time_ns)]
    steps = np.diff(taken)
    assert abs(len(taken) - 600 / ratio) <= 2
    assert np.mean(steps == ratio) > 0.9


def test_every_picture_is_counted(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with recording(tmp_path / 'bag') as recorder:
        recorder.image(IMAGE, 0.0, RED)  # before the instruction
        recorder.string('/instruction', 0.5, 'pick up the cup')
        recorder.image(IMAGE, 1.0, RED)
        recorder.image(IMAGE, 2.0, RED[..., :2], '16UC1')  # a depth picture
        recorder.raw(IMAGE, 'sensor_msgs/msg/Image', 3.0, b'\0\1\0\0damaged')
        for number in range(4, 10):
            recorder.image(IMAGE, number, RED)
    arguments = (tmp_path / 'bag', 'scripted:raise@2,nan@3,dim=3@4,refuse@5')
    report = run(*arguments, '--output', tmp_path / 'out')
    (counts,) = report['runs']
    assert counts['images'] == 10
    assert counts['skipped'] == {
        'failed': 1,
        'no_instruction': 1,
        'unusable_instruction': 1,
        'unusable_image': 2,
    }
    rows = rows_of(tmp_path / 'out')
    assert (counts['used'], counts['invalid']) == (5, 2)
    assert [row['frame'] for row in rows] == [1, 5, 6, 8, 9]
    assert [row['valid'] for row in rows] == [True, False, False, True, True]
    assert rows[1]['actions'][0][0] is None and 'not finite' in rows[1]['invalid_reason']
    assert len(rows[2]['actions'][0]) == 3 and '3 values, expected 7' in rows[2]['invalid_reason']
    call(*arguments, '--output', tmp_path / 'again')
    told = capsys.readouterr().err
    assert "unusable_image: image encoding '16UC1' looks like a depth image" in told
    assert told.count('unusable_image') == 1


def test_pictures_that_the_bag_claims_and_lacks_are_missing(tmp_path: Path, run: Run) -> None:
    bag = record_red(tmp_path / 'bag', 3, 'sqlite3')
    with sqlite3.connect(bag / 'bag.db3') as database:
        database.execute('DELETE FROM messages WHERE id = 4')
    database.close()
    report = run(bag, 'scripted', '--output', tmp_path / 'out')
    assert report['runs'][0]['skipped'] == {'missing': 1}


def test_a_single_file_is_a_bag_too(tmp_path: Path, run: Run) -> None:
    for storage, suffix in (('sqlite3', 'db3'), ('mcap', 'mcap')):
        bag = record_red(tmp_path / storage, 3, storage)
        report = run(
            bag / f'{storage}.{suffix}', 'scripted', '--output', tmp_path / f'of_{storage}'
        )
        assert report['runs'][0]['used'] == 3


# -- beside what was recorded ----------------------------------------------------------------------

TWIST = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def record_with_actions(path: Path, storage: str) -> Path:
    with recording(path, storage) as recorder:
        for number in range(5):
            recorder.image(IMAGE, number, RED)
            recorder.action('/arm/action', number + 0.3, [0.01 * number] * 7)
            recorder.twist('/cmd_vel', number, TWIST, stamped=False)
            recorder.twist('/servo/twist', number, TWIST, stamped=True)
    return path


@pytest.mark.parametrize(
    ('storage', 'defined'), [('mcap', True), ('sqlite3', True), ('sqlite3', False)]
)
def test_recorded_actions_and_twists_are_drawn_beside(
    storage: str, defined: bool, tmp_path: Path, run: Run, drawn: list[Figure]
) -> None:
    bag = record_with_actions(tmp_path / 'bag', storage)
    if not defined:  # as bags of Humble in sqlite3 are: the package's own file is used
        with sqlite3.connect(bag / 'bag.db3') as database:
            database.execute('DELETE FROM message_definitions')
        database.close()
    run(bag, 'scripted', '--output', tmp_path / 'out', '--instruction', 'pick up the cup')
    (figure,) = drawn
    lines = {
        (axes.get_ylabel(), line.get_label()): line.get_ydata().tolist()
        for axes in figure.axes
        for line in axes.get_lines()
    }
    replayed = [row['actions'][0] for row in rows_of(tmp_path / 'out')]
    for index in range(7):
        label = f'action {index}'
        assert lines[label, 'replayed'] == [action[index] for action in replayed]
        assert lines[label, 'recorded: /arm/action'] == [0.01 * number for number in range(5)]
    assert lines['m/s', 'recorded: /cmd_vel'] == [0.3] * 5  # z, the last in m/s
    assert lines['rad/s', 'recorded: /servo/twist'] == [0.6] * 5
    with PIL.Image.open(tmp_path / 'out' / 'actions.png') as image:
        assert image.format == 'PNG'


def test_recorded_values(tmp_path: Path) -> None:
    said: list[str] = []
    with recording(tmp_path / 'bag') as recorder:
        recorder.twist('/cmd_vel', 1.0, TWIST, stamped=False)
        recorder.raw('/cmd_vel', 'geometry_msgs/msg/Twist', 2.0, b'\0\1\0\0')
        recorder.action('/faction', 3.0, [1.0, 2.0])
        recorder.action('/actions', 3.0, [1.0, 2.0])  # another name
    with Bag(tmp_path / 'bag') as bag:
        action, twist = read_recorded(bag, said.append)
    assert (action.topic, action.is_action, action.values) == ('/faction', True, [[1.0, 2.0]])
    assert (twist.bag_times_ns, twist.values) == ([at(1.0)], [TWIST])
    assert 'not a geometry_msgs/msg/Twist' in said[0] and '1 messages on /cmd_vel' in said[1]


def test_the_definition_in_the_bag_comes_before_the_package_s(tmp_path: Path) -> None:
    """Of a version that had one field less."""
    text = (ROOT / 'msg' / 'VlaAction.msg').read_text()
    older = re.sub('^uint64 sequence .*\n', '', text, flags=re.MULTILINE)
    assert older != text
    types = new_types(older)
    with recording(tmp_path / 'bag', types=types) as recorder:
        recorder.action('/action', 1.0, [1.0, 2.0])
    with Bag(tmp_path / 'bag', {ACTION: [text]}) as bag:
        (action,) = read_recorded(bag, pytest.fail)
    assert action.values == [[1.0, 2.0]]


def test_invalid_actions_are_marks(tmp_path: Path, run: Run, drawn: list[Figure]) -> None:
    bag = record_red(tmp_path / 'bag')
    run(bag, 'scripted:nan@3,invalid@5', '--output', tmp_path / 'out')
    lines = {line.get_label(): line.get_ydata() for line in drawn[0].axes[0].get_lines()}
    assert np.isnan(lines['replayed']).sum() == len(lines['replayed, not valid']) == 2


# -- where two differ ------------------------------------------------------------------------------


def row(frame: int, tokens: tuple[int, ...], valid: bool = True, **changes: Any) -> ActionRow:
    values = tuple(0.01 * token for token in tokens)
    rows = (values,)
    row = ActionRow(frame, at(frame), at(frame), 'go', 'key', valid, '', rows, rows, tokens, values)
    return ActionRow(**{**vars(row), **changes})


def test_planted_differences_are_found() -> None:
    first = [row(0, (10, 20)), row(1, (10, 20)), row(2, (10, 20)), row(4, (10, 20))]
    second = [
        row(0, (10, 20)),
        row(1, (10, 25)),
        row(2, (12, 99), valid=False),  # how far an invalid token is off says nothing
        row(3, (10, 20)),
        row(4, (10,), instruction='stop'),
    ]
    result = compare(first, second)
    difference = result['dimensions'][1].pop('largest_action_difference')
    assert difference == pytest.approx(0.05)
    assert result == {
        'frames': 4,
        'only_first': 0,
        'only_second': 1,
        'asked_otherwise': 1,
        'equal_actions': 1,
        'equal_tokens': 4 / 8,
        'largest_bin_distance': 5,
        'first_difference': {'frame': 1, 'bag_time_ns': at(1), 'row': 0, 'dimension': 1},
        'dimensions': [
            {
                'tokens': 4,
                'equal': 3,
                'largest_bin_distance': 0,
                'largest_action_difference': 0.0,
            },
            {'tokens': 4, 'equal': 1, 'largest_bin_distance': 5},
        ],
    }
    assert compare(first, [])['equal_tokens'] is None
    tables = comparison_tables([{'first': 'a', 'second': 'b', **compare(first, second)}])
    assert 'frame 1, dimension 1' in tables and '5 bins' in tables and '25% (5)' in tables


def test_equal_runs_differ_nowhere(tmp_path: Path, run: Run) -> None:
    bag = record_red(tmp_path / 'bag')
    run(bag, 'scripted', '--output', tmp_path / 'a')
    run(bag, 'scripted:nan@3', '--output', tmp_path / 'b')
    report = run(
        *(bag, 'scripted', '--output', tmp_path / 'c'),
        *('--compare', tmp_path / 'a', '--compare', tmp_path / 'b', '--every', 2),
    )
    names = [f'{tmp_path / "a"}/', f'{tmp_path / "b"}/', 'cpu-float64-none']
    pairs = {(one['first'], one['second']): one for one in report['comparisons']}
    assert list(pairs) == [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    same = pairs[names[0], names[1]]
    assert (same['frames'], same['equal_actions'], same['first_difference']) == (10, 10, None)
    every_second = pairs[names[0], names[2]]
    assert (every_second['frames'], every_second['only_first']) == (5, 5)
    assert every_second['first_difference']['frame'] == 2  # the script counts calls


def test_a_read_row_is_the_written_one(tmp_path: Path, run: Run) -> None:
    run(record_red(tmp_path / 'bag'), 'scripted:nan@1', '--output', tmp_path / 'out')
    rows = read_actions(tmp_path / 'out')
    assert math.isnan(rows[0].action[0])
    written = rows_of(tmp_path / 'out')
    assert [[*one] for one in rows[1].actions] == written[1]['actions']
    assert list(rows[1].token_ids) == written[1]['token_ids']


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda line: line.replace('"frame": 1', '"frame": "1"'), "frame is '1'; expected whole"),
        (lambda line: line.replace('"valid": true', '"valid": 1'), 'valid is 1; expected true or'),
        (
            lambda line: line.replace('"actions": [[', '"actions": [["\\u001b", '),
            'expected numbers',
        ),
        (lambda line: line.replace('"actions": [[', '"actions": [[[], '), 'expected numbers'),
        (lambda line: line.replace('"actions": [', '"actions": [1, '), 'TypeError'),
        (
            lambda line: line.replace('"version": 2', '"version": 3'),
            'version is 3; this vla_replay',
        ),
        (lambda line: line.replace('"frame": 1', '"frame": ' + '9' * 5000), 'ValueError'),
        (lambda line: '[' * 100_000, 'RecursionError'),
        (lambda line: line[:-3], 'JSONDecodeError'),
        (lambda line: '7', 'TypeError'),
    ],
    ids=range(10),
)
def test_rows_that_no_replay_writes(
    tmp_path: Path, run: Run, damage: Callable[[str], str], words: str
) -> None:
    run(record_red(tmp_path / 'bag', 2), 'scripted', '--output', tmp_path / 'out')
    file = tmp_path / 'out' / JSONL_NAME
    first, second = file.read_text().splitlines()
    file.write_text(f'{first}\n{damage(second)}')
    with pytest.raises(
        ActionsError, match=f'{file} was not written by vla_replay, or is damaged .line 2: '
    ) as told:
        read_actions(tmp_path / 'out')
    assert words in str(told.value) and str(told.value).isprintable()
    assert len(str(told.value)) < 500


def test_a_recording_or_replay_that_is_a_pipe_is_not_waited_for(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    os.mkfifo(tmp_path / 'pipe.mcap')
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'metadata.yaml').write_text('')
    os.mkfifo(tmp_path / 'bag' / 'bag_0.db3')
    for bag in (tmp_path / 'pipe.mcap', tmp_path / 'bag'):
        assert 'is not a regular file' in refused(bag, 'scripted', '--output', tmp_path / 'out')
    os.mkfifo(tmp_path / JSONL_NAME)
    with pytest.raises(ActionsError, match='is a named pipe'):
        read_actions(tmp_path)


def test_lists_of_dtypes_and_quantizations(tmp_path: Path, run: Run, tiny_checkpoint: Path) -> None:
    bag = record_red(tmp_path / 'bag', 2)
    report = run(
        *(bag, tiny_checkpoint, '--output', tmp_path / 'out', '--device', 'cpu'),
        *('--dtype', 'float32,bfloat16,float32', '--quantization', 'none,int8'),
    )
    names = ['cpu-float32-none', 'cpu-float32-int8', 'cpu-bfloat16-none', 'cpu-bfloat16-int8']
    assert [one['name'] for one in report['runs']] == names
    assert [one['dtype'] for one in report['runs']] == [name.split('-')[1] for name in names]
    assert sorted(folder.name for folder in (tmp_path / 'out').iterdir()) == sorted(names)
    assert len(report['comparisons']) == 6
    assert all(one['frames'] == 2 for one in report['comparisons'])
    assert all((tmp_path / 'out' / name / file).is_file() for name in names for file in FILES)


def test_preprocessing_changes_what_the_policy_sees(tmp_path: Path, run: Run) -> None:
    """As in training, cropped or not by the contract, is what the policy gives when told so."""
    bag = record_golden(tmp_path / 'bag')
    names = ['cpu-float32-none', 'cpu-float32-none-training']
    contract = {**shipped_entry('bridge_orig'), 'center_crop': True}
    contracts = tmp_path / 'contracts.yaml'
    contracts.write_text(json.dumps({'bridge_orig': contract}))
    turned = ('--rotate-180', '--contracts', contracts)
    for folder, options in (('plain', ()), ('turned', turned)):
        report = run(
            *(bag, MODEL, '--output', tmp_path / folder, *ON_CPU, '--limit', 2),
            *('--preprocessing', 'raw,training', *options),
        )
        assert [one['name'] for one in report['runs']] == names
    for folder, modes in {
        'plain': (Preprocessing('raw'), Preprocessing('training')),
        'turned': (
            Preprocessing('raw', rotate_180=True),
            Preprocessing('training', center_crop=True, rotate_180=True),
        ),
    }.items():
        for name, preprocessing in zip(names, modes, strict=True):
            policy = OpenVLAPolicy.from_pretrained(
                MODEL, device='cpu', dtype='float32', preprocessing=preprocessing
            )
            rows = rows_of(tmp_path / folder / name)
            for row, case in zip(rows, GOLDEN_CASES[:2], strict=True):
                asked = (picture(case), case['instruction'], 'bridge_orig')
                assert row['token_ids'] == policy.predict_action(*asked).tokens.ids.tolist()


# -- what can't be done ----------------------------------------------------------------------------


def test_there_is_no_such_bag(tmp_path: Path, refused: Callable[..., str]) -> None:
    out = ('scripted', '--output', tmp_path / 'out')
    assert f'bag {tmp_path / "none"} does not exist' in refused(tmp_path / 'none', *out)
    (tmp_path / 'empty').mkdir()
    assert 'has no metadata.yaml' in refused(tmp_path / 'empty', *out)
    (tmp_path / 'text.txt').write_text('no bag')
    assert 'cannot be read' in refused(tmp_path / 'text.txt', *out)
    assert not (tmp_path / 'out').exists()


EVIL = 'one\x1b[2J\x07two\u202e'


def test_texts_of_a_recording_are_printable_on_the_terminal(
    tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with recording(tmp_path / 'topics', 'mcap') as bag:
        for topic in (f'/{EVIL}', '/other'):
            bag.image(topic, 0.0, RED)
    with recording(tmp_path / 'encodings', 'mcap') as bag:
        bag.image(IMAGE, 0.0, RED, encoding=EVIL)
    out = (*('scripted', '--output', tmp_path / 'out'), '--instruction', 'go')
    assert '/one\\x1b[2J\\x07two\\u202e' in refused(tmp_path / 'topics', *out)
    assert call(tmp_path / 'encodings', *out) == 1
    said = capsys.readouterr().err
    assert 'is skipped, unusable_image' in said
    assert said.replace('\n', '').isprintable()


@shows(
    'Recordings',
    'rejected',
    'messages without a topic, time or data; a damaged page',
    'cut off within a record; damaged; an index that does not fit',
)
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('kept', [0.0, 0.02, 0.5, 0.9])
def test_a_damaged_bag(
    storage: str, kept: float, tmp_path: Path, refused: Callable[..., str]
) -> None:
    bag = record_red(tmp_path / 'bag', 40, storage)
    (file,) = set(bag.iterdir()) - {bag / 'metadata.yaml'}
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    told = refused(bag, 'scripted', '--output', tmp_path / 'out')
    assert f'bag {bag} ' in told
    assert 'cannot be read' in told or 'is damaged' in told


@shows('Recordings', 'rejected', 'metadata.yaml is absent or damaged')
def test_a_damaged_metadata_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    bag = record_red(tmp_path / 'bag')
    for content in ('{', 'rosbag2_bagfile_information: {}', '', '[]'):
        (bag / 'metadata.yaml').write_text(content)
        told = refused(bag, 'scripted', '--output', tmp_path / 'out')
        assert f'bag {bag} cannot be read' in told


def test_a_bag_without_messages(tmp_path: Path, refused: Callable[..., str]) -> None:
    for storage in STORAGES:
        with recording(tmp_path / storage, storage):
            pass
        told = refused(tmp_path / storage, 'scripted', '--output', tmp_path / 'out')
        assert 'has 0 topics of images (none)' in told or 'cannot be read' in told


def with_two_cameras(recorder: Recorder) -> None:
    recorder.image('/left/image', 0.0, RED)
    recorder.image('/right/image', 0.0, RED)
    recorder.string('/instruction', 0.0, 'go')


def with_two_instructions(recorder: Recorder) -> None:
    recorder.image(IMAGE, 0.0, RED)
    recorder.string('/left/instruction', 0.0, 'go')
    recorder.string('/right/instruction', 0.0, 'go')


def with_words_only(recorder: Recorder) -> None:
    recorder.string('/instruction', 0.0, 'go')


def with_pictures_only(recorder: Recorder) -> None:
    recorder.image(IMAGE, 0.0, RED)
    recorder.string('/chatter', 0.0, 'hello')


def with_depth_only(recorder: Recorder) -> None:
    recorder.string('/instruction', 0.0, 'go')
    recorder.image(IMAGE, 1.0, RED[..., :2], '16UC1')


def with_late_words(recorder: Recorder) -> None:
    recorder.image(IMAGE, 0.0, RED)
    recorder.string('/instruction', 1.0, 'go')


@pytest.mark.parametrize(
    ('content', 'options', 'told'),
    [
        (with_two_cameras, (), '2 topics of images (/left/image, /right/image); name one with'),
        (with_two_cameras, ('--image', '/image'), '/image is not a topic of images'),
        (with_two_cameras, ('--image', '/instruction'), '/instruction is not a topic of images'),
        (with_words_only, (), '0 topics of images (none)'),
        (with_two_instructions, (), '2 topics of instructions (/left/instruction, /right/instr'),
        (with_pictures_only, (), '0 topics of instructions (none); name one with'),
        (with_pictures_only, ('--instruction-topic', '/x'), 'its topics of instructions: /chatter'),
        (with_pictures_only, ('--instruction', ' '), 'no_instruction'),
        (with_pictures_only, ('--instruction', 'a\nb'), 'has the control character'),
        (
            with_pictures_only,
            ('--instruction', 'go', '--dtype', 'int3'),
            'has no device, dtype, ',
        ),
        (with_depth_only, (), "1 unusable_image (image encoding '16UC1' looks like a depth"),
        (with_late_words, (), 'no image on /camera/image of bag'),
    ],
)
def test_what_the_bag_lacks(
    content: Callable[[Recorder], None],
    options: tuple[str, ...],
    told: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    with recording(tmp_path / 'bag') as recorder:
        content(recorder)
    assert told in refused(tmp_path / 'bag', 'scripted', '--output', tmp_path / 'out', *options)


def test_what_the_policy_refuses(tmp_path: Path, refused: Callable[..., str]) -> None:
    bag = record_red(tmp_path / 'bag', 2)
    out = ('--output', tmp_path / 'out')
    assert "unnorm_key 'moon' is not in" in refused(bag, MODEL, *out, '--unnorm-key', 'moon')
    assert 'is not a folder' in refused(bag, tmp_path / 'no_model', *out)
    assert 'dtype' in refused(bag, MODEL, *out, '--dtype', 'float32,int3')
    assert 'the self-check failed' in refused(bag, 'scripted:self_check@warmup', *out)
    assert '2 failed (RuntimeError: failed' in refused(bag, 'scripted:raise', *out)


def test_outputs_are_not_mixed_up(tmp_path: Path, run: Run, refused: Callable[..., str]) -> None:
    bag = record_red(tmp_path / 'bag', 2)
    out = ('--output', tmp_path / 'out')
    run(bag, 'scripted', *out)
    assert 'holds a replay already' in refused(bag, 'scripted', *out)
    (tmp_path / 'out' / 'summary.json').unlink()  # one that was interrupted
    run(bag, 'scripted', *out)
    other = ('--output', tmp_path / 'other', '--compare')
    assert 'name the --output folder of' in refused(bag, 'scripted', *other, tmp_path)
    shutil.copytree(tmp_path / 'out', tmp_path / 'broken')
    (tmp_path / 'broken' / JSONL_NAME).write_text('{"frame": 1}\n')
    assert 'was not written by vla_replay' in refused(bag, 'scripted', *other, tmp_path / 'broken')


@pytest.mark.parametrize(
    'options',
    [('--every', '0'), ('--rate', 'x'), ('--every', '2', '--rate', '3'), ('--limit', '-')],
)
def test_unusable_arguments(options: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        call(tmp_path, 'scripted', '--output', tmp_path / 'out', *options)
    assert ended.value.code == 2
