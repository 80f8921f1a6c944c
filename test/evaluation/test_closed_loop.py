# SPDX-License-Identifier: Apache-2.0
"""The simulated arm does what it is told, through the node, in processes as on a robot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image as PilImage

from support.forked import running_forked
from support.places import ROOT
from vla_ros.cli.eval import main
from vla_ros.simulation import BlocksWorld


class Told(NamedTuple):
    """What ``vla_eval`` answered."""

    code: int
    out: str
    err: str

    @property
    def conditions(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Of the JSON line, by control, pace, added latency and where deltas start."""
        assert self.code == 0, self.err
        report = json.loads(self.out.splitlines()[-1])
        keys = ('control', 'pace', 'added_latency_s', 'deltas_from')
        return {tuple(one[key] for key in keys): one for one in report['conditions']}


@pytest.fixture
def evaluate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Told]:
    """``vla_eval`` in this process, with its nodes in others."""
    monkeypatch.setattr('vla_ros.evaluation.closed_loop.running', running_forked)

    def run(*arguments: str) -> Told:
        code = main(list(arguments))
        return Told(code, *capsys.readouterr())

    return run


def test_it_picks_up_what_it_is_told_and_nothing_else(
    evaluate: Callable[..., Told], tmp_path: Path
) -> None:
    """In step. What is random is fixed by the seeds, but for how a processor rounds."""
    gif, sheet, plot = (tmp_path / name for name in ('film.gif', 'sheet.png', 'plot.png'))
    files = ('--gif', str(gif), '--sheet', str(sheet), '--plot', str(plot))
    some = ('--episodes', '2', '--time-limit', '3', '--control', 'none,swapped,black')
    done = evaluate(*some, *files).conditions
    told = done['none', 'step', 0.0, 'now']
    assert told['all']['episodes'] == 4
    assert told['all']['successes'] >= 3
    assert set(told['instructions']) == set(BlocksWorld.instructions)
    assert done['swapped', 'step', 0.0, 'now']['all']['successes'] <= 1
    assert done['black', 'step', 0.0, 'now']['all']['successes'] <= 1
    assert told['latency_s']['p50'] > 0
    assert 0 < told['acceptance'] < 1
    assert told['unanswered'] == 0
    with PilImage.open(gif) as film:
        assert film.format == 'GIF' and film.n_frames > 4 * 5
    for picture in (sheet, plot):
        with PilImage.open(picture) as file:
            assert file.format == 'PNG'


def test_the_demo_films_it(tmp_path: Path) -> None:
    files = {
        name: tmp_path / f'{name}.{kind}'
        for name, kind in (('gif', 'gif'), ('sheet', 'png'), ('view', 'png'))
    }
    options = [word for name, file in files.items() for word in (f'--{name}', str(file))]
    command = [sys.executable, '-m', 'vla_ros.cli.demo', '--episodes', '2', *options]
    demo = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240.0)
    assert demo.returncode == 0, demo.stderr
    assert demo.stdout.count('pick up the ') == 2
    assert 'of 2 episodes succeeded' in demo.stdout
    for file in files.values():
        with PilImage.open(file) as picture:
            assert picture.width > 300


def test_it_can_run_freely_and_late(evaluate: Callable[..., Told]) -> None:
    done = evaluate(
        *('--episodes', '1', '--pace', 'free', '--added-latency', '0.3', '--time-limit', '3'),
        *('--deltas-from', 'now,image'),
    ).conditions
    assert list(done) == [('none', 'free', 0.3, 'now'), ('none', 'free', 0.3, 'image')]
    for one in done.values():
        assert one['latency_s']['p50'] > 0.3
        longest_s = 3 + (1 + one['skipped']) / 30  # it ends with an image
        assert all(episode['duration_s'] <= longest_s for episode in one['episodes'])
        assert all(episode['steps'] > 0 for episode in one['episodes'])


def test_world_time_counts_the_worlds_latency_alone(evaluate: Callable[..., Told]) -> None:
    """Through the actions and through the node's twists, from the pose."""
    done = evaluate(
        *('--episodes', '1', '--pace', 'world', '--added-latency', '0.4', '--time-limit', '12'),
        *('--deltas-from', 'image', '--motion', 'action,twist', '--dtype', 'float32'),
    )
    assert done.code == 0, done.err
    results = json.loads(done.out.splitlines()[-1])['conditions']
    assert [one['motion'] for one in results] == ['action', 'twist']
    for one in results:
        assert [one['latency_s'][name] for name in ('p50', 'p99')] == pytest.approx([0.4, 0.4])
        assert one['all']['successes'] >= 1
        assert one['unanswered'] == one['skipped'] == 0
        assert not any(episode['failure'] for episode in one['episodes'])


def test_fewer_bits_are_held_against_all_of_them(evaluate: Callable[..., Told]) -> None:
    """In step, so that no machine is too slow to see pictures on which they differ."""
    done = evaluate(
        *('--episodes', '1', '--time-limit', '1'),
        *('--dtype', 'float32', '--quantization', 'none,int8,int4'),
    )
    assert done.code == 0, done.err
    results = json.loads(done.out.splitlines()[-1])['conditions']
    assert [one['quantization'] for one in results] == ['none', 'int8', 'int4']
    exact, int8, int4 = (one['agreement']['equal_bins'] for one in results)
    assert exact == 1.0
    assert int8 > 0.9
    assert 0.3 < int4 < 1.0


def test_the_clock_can_be_the_simulations(evaluate: Callable[..., Told]) -> None:
    [told] = evaluate('--episodes', '1', '--sim-time').conditions.values()
    assert told['all']['successes'] >= 1


@pytest.mark.parametrize(
    ('arguments', 'why'),
    [
        (('--pace', 'free', '--sim-time'), '--sim-time goes with --pace step only'),
        (('--added-latency', '0.1'), '--added-latency and --deltas-from need --pace free or world'),
        (('--pace', 'fast'), "'fast' is not allowed; allowed: step, free, world"),
        (('--quantization', 'none,int5'), "'int5' is not allowed; allowed: none, int8, int4"),
        (('--world', 'libero_10'), '--world libero_10 needs --model'),
        (('--world', 'moon'), "invalid choice: 'moon'"),
        (('--motion', 'twist'), '--motion twist needs --pace world'),
        (('-p', 'model'), "'model' is not of the form NAME:=VALUE"),
        (('-p', 'dtype:=float16'), '-p dtype has an option of its own: --dtype'),
    ],
)
def test_what_can_not_be_asked_for(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    with pytest.raises(SystemExit, match='2'):
        main(list(arguments))
    assert why in capsys.readouterr().err


def test_a_picture_that_can_not_be_written_is_told_before_anything_is_played(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(['--plot', '/nowhere/plot.png']) == 1
    assert "No such file or directory: '/nowhere/plot.png'" in capsys.readouterr().err


def test_a_model_that_is_not_there_ends_it(evaluate: Callable[..., Told]) -> None:
    done = evaluate('--model', '/nowhere/at/all')
    assert done.code == 1
    assert 'the node is in ERROR: ' in done.err
    assert 'Traceback' not in done.err
