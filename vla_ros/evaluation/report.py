# SPDX-License-Identifier: Apache-2.0
"""The results of an evaluation as text: tables of what its JSON object has."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from vla_ros.measure.statistics import Summary, recipe_text, table

# Packages that a world's motion and images depend on, in addition to describe_machine's.
_PACKAGES = ('vla_ros', 'mujoco', 'robosuite', 'numpy', 'pillow')

_LEGEND = """\
steps: mean of the episodes that succeeded. The interval is Wilson's. to the first policy:
difference in points, with the same starts, and its 95 % interval.
image to action: from the capture of an image to the arrival of its action. unanswered: images that
no action came to in time, in step. skipped: images that this machine was too slow to draw,
free-running. equal bins: tokens equal to those of the first policy, on the same images."""


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that a result depends on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def report_text(report: Summary) -> str:
    """Return the whole report for the user.

    :param report: its recipe (``command``, ``date``, ``machine``, ``versions``, ``world``,
        ``model``, ``seeds``: the first and the last) and ``conditions``, summarized.
    """
    first, last = report['seeds']
    packages = ', '.join(f'{name} {version}' for name, version in report['versions'].items())
    return (
        f'{recipe_text(report)}\n{packages}\n'
        f'world {report["world"]}, seeds {first} to {last}, {report["model"]}\n\n'
        f'{tables(report["conditions"])}\n\n{_LEGEND}'
    )


def tables(summaries: Sequence[Summary]) -> str:
    """Return the table of success rates by condition and instruction, and that of the rest."""
    return '\n\n'.join([_success_table(summaries), _rest_table(summaries)])


def _success_table(summaries: Sequence[Summary]) -> str:
    compares = any(summary['difference'] for summary in summaries)
    names: list[str] = []
    rows: list[dict[str, str]] = []
    for summary in summaries:
        names += [summary['name'], *(f'  {name}' for name in summary['instructions'])]
        rows += [
            _success(one, compares) for one in (summary['all'], *summary['instructions'].values())
        ]
        if compares:
            rows[-1 - len(summary['instructions'])]['to the first policy'] = _difference(summary)
    return table('success', names, rows)


def _difference(summary: Summary) -> str:
    if summary['difference'] is None:
        return '-'
    rate, (low, high) = (summary['difference'][name] for name in ('rate', 'interval'))
    return f'{100 * rate:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})'


def _success(one: Summary, compares: bool) -> dict[str, str]:
    low, high = one['interval']
    steps = one['mean_steps']
    row = {
        'episodes': str(one['episodes']),
        'succeeded': str(one['successes']),
        'rate': f'{one["success_rate"]:.1%}',
        '95 % interval': f'{100 * low:.1f} to {100 * high:.1f}%',
        'steps': '-' if steps is None else f'{steps:.1f}',
    }
    return row | ({'to the first policy': ''} if compares else {})


def _rest_table(summaries: Sequence[Summary]) -> str:
    names = [summary['name'] for summary in summaries]
    return table('image to action', names, [_rest(summary) for summary in summaries])


def _rest(summary: Summary) -> dict[str, str]:
    latency_s, accepted = summary['latency_s'], summary['acceptance']
    agreement = summary['agreement']
    row = {
        name: f'{1e3 * latency_s[name]:.1f} ms' if latency_s else '-'
        for name in ('p50', 'p95', 'p99')
    }
    row['unanswered'] = str(summary['unanswered'])
    row['skipped'] = str(summary['skipped'])
    row['draft accepted'] = '-' if accepted is None else f'{accepted:.0%}'
    row['equal bins'] = '-' if agreement is None else f'{agreement["equal_bins"]:.1%}'
    row['largest distance'] = '-' if agreement is None else str(agreement['largest_bin_distance'])
    return row
