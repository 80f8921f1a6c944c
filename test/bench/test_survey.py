# SPDX-License-Identifier: Apache-2.0
"""vla_bench without a model: it says what it found, and what it did not."""

from __future__ import annotations

import json
import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from vla_ros.bench import ceilings, golden, measure, survey
from vla_ros.bench.combinations import combine, locate
from vla_ros.bench.survey import Deadline, Section, sections_of
from vla_ros.cli import bench
from vla_ros.measure.energy import EnergyMeter


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        *(('_MIN_SECONDS', 0.0), ('_MIN_RUNS', 1), ('_RUN_S', 0.0), ('_HIDDEN', 128)),
        *(('_STREAMED_BYTES', {'cpu': 1_000_000}), ('_SQUARE', {'cpu': 64}), ('_LAUNCHES', 1)),
    ):
        monkeypatch.setattr(ceilings, name, value)
    monkeypatch.setattr(survey, '_REPEATS', {'cpu': 1})
    monkeypatch.setattr(golden, '_CHECKPOINTS', ('openvla_v01_tiny',))


def test_the_important_sections_of_all_devices_come_first() -> None:
    options = [section.options for section in sections_of(['mps', 'cpu'])]
    assert options[:4] == [
        '--random openvla-7b --device mps --batch-size 1,4 --draft none,right --plain',
        '--random openvla-7b --device cpu --draft none,right --plain',
        '--random openvla-7b --device mps --quantization int8 --draft none,right',
        '--random vla-adapter-pro --device cpu --plain',
    ]
    on_cuda = [section.options for section in sections_of(['cuda:0'])]
    assert on_cuda[2] == '--random openvla-7b --device cuda:0 --cuda-graphs false'
    assert on_cuda[-2:] == [
        '--random openvla-7b --device cuda:0 --dtype float32',
        '--random openvla-7b --device cuda:0 --compile true --draft none,right',
    ]
    for words in (*options, *on_cuda):  # each is a command
        assert not bench._parser().parse_args(words.split()).tiny
    shapes = {section.shape for section in sections_of(['cuda:0'], tiny=True)}
    assert shapes == {'tiny', 'vla-adapter-pro-tiny', 'openvla-oft-tiny'}


@pytest.mark.usefixtures('quick')
def test_a_survey(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sections = [
        Section('tiny', 'cpu', 'float32', drafts=('none', 'right'), with_plain=True),
        Section('tiny', 'cpu', 'float8'),
        Section('tiny', 'cpu', 'float32', quantization='int8'),
        Section('vla-adapter-pro-tiny', 'cpu', 'float32'),
    ]
    monkeypatch.setattr(survey, 'sections_of', lambda devices, tiny: sections)
    joules = count(0, 70)
    meter = EnergyMeter('a counter', lambda: float(next(joules)))
    monkeypatch.setattr(survey, 'energy_meter', lambda device: meter)
    monkeypatch.setattr(measure, 'energy_meter', lambda device: meter)
    monkeypatch.setattr(measure, '_MIN_ENERGY_S', 0.0)
    monkeypatch.setattr(measure, '_MIN_ENERGY_RUNS', 2)
    assert bench.main(['--device', 'cpu', '--tiny', '--minutes', '30']) == 0
    text, _, last = capsys.readouterr().out.rstrip().rpartition('\n')
    report = json.loads(last)
    for one in report['golden']:
        assert one['dtype'] != 'float32' or (
            one['equal_actions'] == one['actions'] == 10 and one['logit_difference'] < 1e-4
        )
    first, failed, quantized, chunks = report['sections']
    assert "dtype 'float8' is unknown" in failed['said'] and not failed['combinations']
    assert first['said'] == quantized['said'] == chunks['said'] == ''
    plain, ours, drafted = first['combinations']
    assert (plain['is_plain'], ours['is_plain'], drafted['accepted']) == (True, False, 6)
    assert plain['loading'] is None and ours['loading'] is not None
    assert ours['energy'] == {**ours['energy'], 'joules': 35.0, 'source': 'a counter'}
    over_plain = plain['action_s'] / quantized['combinations'][0]['action_s']
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()]
    start = next(number for number, row in enumerate(rows) if row[:1] == ['tiny on cpu, rows: 1'])
    in_8_bits = rows[start + 5]
    assert 'int8' in in_8_bits[0]
    assert float(in_8_bits[3]) == pytest.approx(over_plain, abs=0.01)
    assert in_8_bits[5] == '35.0'
    assert "- `vla_bench --random tiny --device cpu --dtype float8`: dtype 'float8'" in text
    assert 'Energy: cpu: a counter.' in text and 'aten::mm' in text
    widths = {len(row) for row in rows if row[:1] == ['---'] or row[1:2] == ['---']}
    assert widths == {4, 6, 7}  # tables of any use are whole


@pytest.mark.usefixtures('quick')
def test_without_time_a_survey_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(['--device', 'cpu', '--minutes', '0.2']) == 0
    text, _, last = capsys.readouterr().out.rstrip().rpartition('\n')
    report = json.loads(last)
    assert report['golden'] == []
    assert {one['said'] for one in report['sections']} == {'no time was left'}
    assert '- `vla_bench --random openvla-oft --device cpu --quantization int8`: no time' in text


def test_what_was_measured_before_the_end_counts(tiny_checkpoint: Path) -> None:
    """So does what follows a warm-up that was cut short."""
    combinations = combine(['cpu'], ['float32'], ['none'], [False], [1], [1], with_plain=True)
    cancel = threading.Event()

    def say(text: str) -> None:
        if text == 'repetition 2 of 3':
            cancel.set()

    asked = count()
    cut = SimpleNamespace(is_set=lambda: next(asked) > 20)  # in the second inference, or later
    task = measure.Task('pick up the cup', 3, cancel=cancel, cut_warmup=cut)
    measurements, _ = measure.measure(task, locate(combinations, str(tiny_checkpoint)), say)
    assert [len(one.latencies_s) for one in measurements] == [1, 1]
    plain, ours = (one.loading for one in measurements)
    assert plain is None and ours is not None and not ours.is_warm
    assert ours.first_s is None or 0 < ours.first_s < ours.warmup_s


def test_a_deadline() -> None:
    assert not Deadline(1000).is_set() and Deadline(1000).left_s() > 900
    assert Deadline(-1).is_set()


@pytest.mark.parametrize('options', [['--plain'], ['--repeats', '3'], ['--pipeline']])
def test_options_of_one_model_need_a_model(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(options)
    assert ended.value.code == 2
    assert f'{options[0]}: name a model' in capsys.readouterr().err
