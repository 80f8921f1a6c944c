# SPDX-License-Identifier: Apache-2.0
"""``vla_bench --pipeline``: a short run of the real thing, whose figures must fit together."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.places import ROOT
from vla_ros.cli import bench
from vla_ros.pipeline.summary import BOTH, CAMERA_ALONE, KINDS, POLICY_ALONE, Frames, Turn
from vla_ros.pipeline.summary import summarize_turns as summarize

Bench = Callable[..., tuple[int, str, str]]

RATE_HZ, SECONDS = 30.0, 1.0


@pytest.fixture
def vla_bench(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Runs it with these arguments; the exit code, and what it and its processes printed."""
    monkeypatch.chdir(ROOT)  # its processes find the source tree there

    def run(*arguments: object) -> tuple[int, str, str]:
        code = bench.main([*map(str, arguments), '--pipeline'])
        return code, *capfd.readouterr()

    return run


def test_the_report_fits_together(tiny_checkpoint: Path, vla_bench: Bench) -> None:
    code, printed, said = vla_bench(
        *(tiny_checkpoint, '--device', 'cpu', '--dtype', 'float32', '--threads', 1),
        *('--rate', RATE_HZ, '--repeats', 2, '--seconds', SECONDS),
    )
    assert code == 0, said
    assert 'repetition 2 of 2: camera alone' in said
    report = json.loads(printed.splitlines()[-1])
    assert report['command'] in printed and report['machine']['cores'] > 0
    pipeline = report['pipeline']
    node = pipeline['node']
    assert (node['device'], node['dtype'], node['unnorm_key']) == ('cpu', 'float32', 'random')
    assert node['steady_inference_s'] > 0 and pipeline['threads'] == 1
    assert [turn['kind'] for turn in pipeline['turns']] == 2 * list(KINDS)
    for kind in KINDS:
        assert kind in printed
        _check_kind(kind, pipeline['kinds'][kind])
    alone, both = (pipeline['kinds'][kind]['inference_s'] for kind in (POLICY_ALONE, BOTH))
    costs = pipeline['camera_costs_policy']
    assert costs['p50'] == pytest.approx(1 - alone['p50'] / both['p50'])
    assert len(costs['each_repeat']) == 2
    for kind, lost in pipeline['policy_costs_camera'].items():
        frames = pipeline['kinds'][kind]['frames']
        assert lost['lost_by_node'] == frames['published'] - frames['received']
        assert lost['lost_by_listener'] == frames['published'] - frames['heard']
        assert lost['missed'] == frames['due'] - frames['published']


def _check_kind(kind: str, one: dict[str, Any]) -> None:
    frames, counters = one['frames'], one['counters']
    assert one['turns'] == 2
    assert frames['due'] >= frames['published'] >= frames['received'] > 0 < frames['heard']
    if kind == POLICY_ALONE:
        assert frames['published'] <= counters['taken'] + counters['superseded'] + 2
    else:
        assert frames['due'] >= 2 * RATE_HZ * SECONDS
    assert one['interval_s']['p50'] <= one['interval_s']['p99']
    known = ('superseded', 'stale', 'idle', 'taken')
    # Each turn ends with a reset: a picture that waits then is dropped when its turn comes.
    assert sum(counters[name] for name in known) == frames['received']
    ends = ('published', 'overrun', 'invalid', 'cancelled', 'failed')
    assert counters['taken'] == sum(counters[name] for name in ends)
    if sys.platform == 'linux':
        assert one['cpu_cores']['node main'] > 0 and one['cpu_cores']['camera main'] > 0
    if kind == CAMERA_ALONE:
        assert (one['actions'], one['inference_s'], one['busy']) == (0, None, None)
        assert counters['idle'] == frames['received']
        return
    assert counters['failed'] == counters['invalid'] == counters['overrun'] == 0
    # The first of each turn is not counted, and one may have come when the turn was over.
    assert 0 < one['actions'] <= counters['published'] - 2
    assert one['busy'] > 0  # above 1 where the first action of a turn came late to the listener
    assert 0 <= one['draft_acceptance'] <= 1
    for statistic in ('p50', 'p95', 'p99', 'mean'):
        assert 0 < one['inference_s'][statistic] < one['latency_s'][statistic]
    assert one['rest_s']['mean'] == pytest.approx(
        one['latency_s']['mean'] - one['inference_s']['mean']
    )


def test_a_policy_without_a_model(vla_bench: Bench) -> None:
    code, printed, said = vla_bench('scripted:slow=0.05', '--repeats', 1, '--seconds', 0.2)
    assert code == 0, said
    report = json.loads(printed.splitlines()[-1])
    assert report['model'] == 'scripted:slow=0.05'
    both = report['pipeline']['kinds'][BOTH]
    assert both['inference_s']['p50'] > 0.05 and both['draft_acceptance'] is None


def test_a_node_that_can_not_go_on(vla_bench: Bench) -> None:
    code, printed, said = vla_bench('scripted:raise@load', '--repeats', 1, '--seconds', 0.2)
    assert code == 1 and printed == ''
    assert 'vla_bench: the node is in ERROR: ' in said


def test_what_the_turns_add_up_to() -> None:
    """Two repetitions; the second is twice as slow, and loses frames."""
    turns = [
        Turn(POLICY_ALONE, [0.0, 1.0, 2.0], [9.0, 0.6, 1.0], [9.5, 0.7, 1.2]),
        Turn(BOTH, [5.0, 6.0, 7.0], [9.0, 0.8, 1.2], [9.5, 0.9, 1.4], Frames(60, 60, 60, 60)),
        Turn(CAMERA_ALONE, frames=Frames(60, 60, 60, 60), intervals_s=[0.5, 0.7]),
        Turn(POLICY_ALONE, [0.0, 2.0], [9.0, 1.6], [9.5, 1.9], counters={'drafted': 4}),
        Turn(BOTH, [0.0, 2.0], [9.0, 2.0], [9.5, 2.5], Frames(60, 59, 57, 58)),
        Turn(CAMERA_ALONE, frames=Frames(60, 60, 60, 60), cpu_cores={'node main': 0.25}),
    ]
    summary = summarize(turns)
    alone, both = summary['kinds'][POLICY_ALONE], summary['kinds'][BOTH]
    assert (alone['actions'], alone['inference_s']['p50']) == (3, 1.0)
    assert alone['actions_per_s'] == pytest.approx(3 / 4)
    assert alone['busy'] == pytest.approx(3.2 / 4)
    assert alone['rest_s']['p50'] == pytest.approx(0.2)
    assert alone['draft_acceptance'] == 0 and both['draft_acceptance'] is None
    costs = summary['camera_costs_policy']
    assert costs['p50'] == pytest.approx(1 - 1.0 / 1.2)
    assert costs['mean'] == pytest.approx(1 - 3.2 / 4.0)
    assert costs['each_repeat'] == pytest.approx([1 - 0.8 / 1.0, 1 - 1.6 / 2.0])
    assert costs['quartiles'] == pytest.approx([0.2, 0.2, 0.2])
    assert summary['policy_costs_camera'][BOTH] == {
        'published': 119,
        'missed': 1,
        'lost_by_node': 2,
        'lost_by_listener': 1,
    }
    assert summary['kinds'][CAMERA_ALONE]['interval_s']['mean'] == pytest.approx(0.6)
    assert len(summary['turns']) == 6


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['--dtype', 'float32,bfloat16'], '--pipeline measures one combination'),
        (['--threads', '1,2'], '--pipeline measures one combination'),
        (['--profile', 'trace.json'], 'do not go with --pipeline'),
        (['--rate', '0'], "'0' is not a number above 0 and at most 1000"),
        (['--seconds', 'x'], "'x' is not a number above 0 and at most 1000"),
    ],
)
def test_unusable_arguments(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(['model', '--pipeline', *arguments])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_without_ros(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, 'vla_ros.pipeline.run', raising=False)
    monkeypatch.setitem(sys.modules, 'vla_ros.client.listener', None)
    assert bench.main([str(tiny_checkpoint), '--pipeline']) == 1
    captured = capsys.readouterr()
    assert captured.out == ''
    assert '--pipeline needs ROS 2 and the messages of this package' in captured.err
