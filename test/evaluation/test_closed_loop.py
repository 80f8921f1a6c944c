"""The simulated arm does what it is told, through the node, in processes as on a robot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage

from support.places import ROOT
from vla_ros.cli.eval import main
from vla_ros.simulation import BlocksWorld


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', f'vla_ros.cli.{module}', *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240.0, check=False
    )


def conditions(*arguments: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Of the JSON line, by control, pace, added latency and where deltas start."""
    done = run('eval', *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    keys = ('control', 'pace', 'added_latency_s', 'deltas_from')
    return {tuple(one[key] for key in keys): one for one in report['conditions']}


def test_it_picks_up_what_it_is_told_and_nothing_else(tmp_path: Path) -> None:
    """In step. What is random is fixed by the seeds, but for how a processor rounds."""
    gif, sheet, plot = (tmp_path / name for name in ('film.gif', 'sheet.png', 'plot.png'))
    files = ('--gif', str(gif), '--sheet', str(sheet), '--plot', str(plot))
    some = ('--episodes', '2', '--time-limit', '4', '--control', 'none,swapped,black')
    done = conditions(*some, *files)
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
    demo = run('demo', '--episodes', '2', *options)
    assert demo.returncode == 0, demo.stderr
    assert demo.stdout.count('pick up the ') == 2
    assert 'of 2 episodes succeeded' in demo.stdout
    for file in files.values():
        with PilImage.open(file) as picture:
            assert picture.width > 300


def test_it_can_run_freely_and_late() -> None:
    done = conditions(
        *('--episodes', '1', '--pace', 'free', '--added-latency', '0.3', '--time-limit', '3'),
        *('--deltas-from', 'now,image'),
    )
    assert list(done) == [('none', 'free', 0.3, 'now'), ('none', 'free', 0.3, 'image')]
    for one in done.values():
        assert one['latency_s']['p50'] > 0.3
        longest_s = 3 + (1 + one['skipped']) / 30  # it ends with an image
        assert all(episode['duration_s'] <= longest_s for episode in one['episodes'])
        assert all(episode['steps'] > 0 for episode in one['episodes'])


def test_fewer_bits_are_held_against_all_of_them() -> None:
    """In step, so that no machine is too slow to see pictures on which they differ."""
    done = run(
        'eval',
        *('--episodes', '1', '--time-limit', '2'),
        *('--dtype', 'float32', '--quantization', 'none,int8,int4'),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])['conditions']
    assert [one['quantization'] for one in results] == ['none', 'int8', 'int4']
    exact, int8, int4 = (one['agreement']['equal_bins'] for one in results)
    assert exact == 1.0
    assert int8 > 0.9
    assert 0.3 < int4 < 1.0


def test_the_clock_can_be_the_simulations() -> None:
    [told] = conditions('--episodes', '1', '--sim-time').values()
    assert told['all']['successes'] >= 1


@pytest.mark.parametrize(
    ('arguments', 'why'),
    [
        (('--pace', 'free', '--sim-time'), '--sim-time goes with --pace step only'),
        (('--added-latency', '0.1'), '--added-latency and --deltas-from need --pace free'),
        (('--pace', 'fast'), "'fast' is not allowed; allowed: step, free"),
        (('--quantization', 'none,int5'), "'int5' is not allowed; allowed: none, int8, int4"),
        (('--world', 'libero_10'), '--world libero_10 needs --model'),
        (('--world', 'moon'), "invalid choice: 'moon'"),
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


def test_a_model_that_is_not_there_ends_it() -> None:
    done = run('eval', '--model', '/nowhere/at/all')
    assert done.returncode == 1
    assert 'the node is in ERROR: ' in done.stderr
    assert 'Traceback' not in done.stderr
