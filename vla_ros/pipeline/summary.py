# SPDX-License-Identifier: Apache-2.0
"""The summary of the turns of ``vla_bench --pipeline``, as a JSON object and as tables.

Independent of ROS and of how the turns are run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.measure.statistics import Summary, percentiles, table
from vla_ros.scheduling.accounts import EQUATIONS, GAUGES

POLICY_ALONE = 'policy alone'
BOTH = 'policy and camera'
CAMERA_ALONE = 'camera alone'
KINDS = (POLICY_ALONE, BOTH, CAMERA_ALONE)

# Counters of images that became no action.
_UNUSED = tuple(
    name
    for name in itertools.chain(*EQUATIONS.values())
    if name not in ('taken', 'published', *GAUGES)
)
COUNTED = ('taken', 'published', 'drafted', 'accepted', *_UNUSED)  # by VlaStatus


class PipelineError(VlaError):
    """A measurement through ROS that failed."""


@dataclass(frozen=True)
class Frames:
    """Numbers of images.

    :param due: images that the camera had to publish by its rate.
    :param published: images that it published.
    :param received: number of these that the node received.
    :param heard: number of these that the listener received.
    """

    due: int = 0
    published: int = 0
    received: int = 0
    heard: int = 0


@dataclass(frozen=True)
class Turn:
    """One turn.

    :param kind: one of KINDS.
    :param published_s: time at which each action was published, in the node's clock [s].
    :param inference_s: duration of its inference [s].
    :param latency_s: time from the capture of its image to its publishing [s].
    :param intervals_s: times between the images that the listener received [s].
    :param counters: increases of VlaStatus's counters during the turn.
    :param cpu_cores: mean number of busy cores, by :func:`cpu_seconds`' names of threads.
    """

    kind: str
    published_s: Sequence[float] = ()
    inference_s: Sequence[float] = ()
    latency_s: Sequence[float] = ()
    frames: Frames = field(default_factory=Frames)
    intervals_s: Sequence[float] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    cpu_cores: Mapping[str, float] = field(default_factory=dict)


def summarize_turns(turns: Sequence[Turn]) -> Summary:
    """Return a summary of each kind of turn, the costs, and a summary of each turn."""
    kinds = {kind: _summary([turn for turn in turns if turn.kind == kind]) for kind in KINDS}
    singles = [{'kind': turn.kind, **_summary([turn])} for turn in turns]
    policy_costs = {
        kind: {
            'published': frames['published'],
            'missed': frames['due'] - frames['published'],
            'lost_by_node': frames['published'] - frames['received'],
            'lost_by_listener': frames['published'] - frames['heard'],
        }
        for kind in (CAMERA_ALONE, BOTH)
        for frames in [kinds[kind]['frames']]
    }
    each_repeat = [
        _cost(alone, both, 'p50')
        for alone, both in zip(
            [one for one in singles if one['kind'] == POLICY_ALONE],
            [one for one in singles if one['kind'] == BOTH],
            strict=True,
        )
    ]
    return {
        'camera_costs_policy': {
            **{name: _cost(kinds[POLICY_ALONE], kinds[BOTH], name) for name in ('p50', 'mean')},
            'each_repeat': each_repeat,
            'quartiles': np.percentile(each_repeat, [25, 50, 75]).tolist(),
        },
        'policy_costs_camera': policy_costs,
        'kinds': kinds,
        'turns': singles,
    }


def _cost(alone: Summary, both: Summary, name: str) -> float:
    """Return the share of its rate that the policy loses; the rate is one over the duration."""
    return float(1 - alone['inference_s'][name] / both['inference_s'][name])


def _summary(turns: Sequence[Turn]) -> Summary:
    """Return the summary of turns of one kind.

    The first action of a turn is in none of the times: it had no draft, and came after a pause.
    """
    inference_s = np.concatenate([turn.inference_s[1:] for turn in turns])
    latency_s = np.concatenate([turn.latency_s[1:] for turn in turns])
    intervals_s = np.concatenate([turn.intervals_s for turn in turns])
    acting_s = sum(turn.published_s[-1] - turn.published_s[0] for turn in turns if turn.published_s)
    counters = {name: sum(turn.counters.get(name, 0) for turn in turns) for name in COUNTED}
    drafted = counters['drafted']
    return {
        'turns': len(turns),
        'actions': len(inference_s),
        'actions_per_s': len(inference_s) / acting_s if acting_s else None,
        'busy': float(inference_s.sum()) / acting_s if acting_s else None,
        'inference_s': _statistics(inference_s),
        'latency_s': _statistics(latency_s),
        'rest_s': _statistics(latency_s - inference_s),
        'draft_acceptance': counters['accepted'] / drafted if drafted else None,
        'frames': {
            name: sum(getattr(turn.frames, name) for turn in turns)
            for name in Frames.__dataclass_fields__
        },
        'interval_s': _statistics(intervals_s),
        'counters': counters,
        'cpu_cores': {
            name: float(np.mean([turn.cpu_cores.get(name, 0.0) for turn in turns]))
            for name in dict.fromkeys(name for turn in turns for name in turn.cpu_cores)
        },
    }


def _statistics(seconds: NDArray[np.float64]) -> dict[str, float] | None:
    return {**percentiles(seconds), 'mean': float(seconds.mean())} if len(seconds) else None


# -- for the user --------------------------------------------------------------------------------


def pipeline_tables(summary: Summary) -> str:
    """Return the tables of a summary, and the costs as sentences."""
    kinds = summary['kinds']
    acting = {kind: kinds[kind] for kind in (POLICY_ALONE, BOTH)}
    return '\n\n'.join(
        [
            table('actions', list(acting), [_actions(one) for one in acting.values()]),
            _times_table(acting),
            table('images', list(kinds), [_frames(one) for one in kinds.values()]),
            table('counted', list(kinds), _counted(kinds)),
            *_cpu_table(kinds),
            _verdict(summary),
        ]
    )


def _actions(one: Summary) -> dict[str, str]:
    return {
        'actions': f'{one["actions"]}',
        'per second': _number(one['actions_per_s'], '.2f'),
        'busy': _number(one['busy'], '.0%'),
        'drafts accepted': _number(one['draft_acceptance'], '.0%'),
    }


def _times_table(kinds: Mapping[str, Summary]) -> str:
    rows = {
        f'{kind}: {name}': {
            statistic: f'{1e3 * seconds:.2f}' for statistic, seconds in one[f'{name}_s'].items()
        }
        for name in ('inference', 'latency', 'rest')
        for kind, one in kinds.items()
    }
    return table('milliseconds', list(rows), list(rows.values()))


def _frames(one: Summary) -> dict[str, str]:
    row = {name: f'{count}' for name, count in one['frames'].items()}
    interval_s = one['interval_s']
    for name in ('p50', 'p95', 'p99'):
        row[f'interval {name}'] = f'{1e3 * interval_s[name]:.1f} ms' if interval_s else '-'
    return row


def _counted(kinds: Mapping[str, Summary]) -> list[dict[str, str]]:
    """Return a row for each kind, without counters that are zero in all."""
    counters = [one['counters'] for one in kinds.values()]
    counted = [name for name in _UNUSED if any(one[name] for one in counters)]
    return [{name: f'{one[name]}' for name in ('taken', 'published', *counted)} for one in counters]


def _cpu_table(kinds: Mapping[str, Summary]) -> list[str]:
    """Return the table of the threads' load, if it could be measured."""
    names = [*dict.fromkeys(name for one in kinds.values() for name in one['cpu_cores'])]
    rows = [
        {kind: f'{one["cpu_cores"].get(name, 0.0):.1%}' for kind, one in kinds.items()}
        for name in names
    ]
    return [table('of one core', names, rows)] if names else []


def _verdict(summary: Summary) -> str:
    costs = summary['camera_costs_policy']
    low, median, high = costs['quartiles']
    lines = [
        f'The camera costs the policy {median:.1%} of its rate, the median of the repetitions '
        f'(quartiles {low:.1%} and {high:.1%});',
        f'of all inferences {costs["p50"]:.1%} by the median, {costs["mean"]:.1%} by the mean.',
    ]
    for kind, lost in summary['policy_costs_camera'].items():
        lines.append(
            f'{kind}: of {lost["published"]} images the node lost {lost["lost_by_node"]}, the '
            f'listener {lost["lost_by_listener"]}; {lost["missed"]} were due but not published.'
        )
    return '\n'.join(lines)


def _number(value: float | None, form: str) -> str:
    return '-' if value is None else f'{value:{form}}'
