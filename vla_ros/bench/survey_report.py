# SPDX-License-Identifier: Apache-2.0
"""The report of a survey as Markdown, for docs/benchmarks.md or an issue."""

from __future__ import annotations

from collections.abc import Sequence

from vla_ros.measure.statistics import Summary, recipe_text

_LEGEND = """\
`first` is the first inference after loading, [s]; `ms`, `over plain` and the stages are medians of
inferences with new images, for one action, or for one chunk of `rows`. The plain path is the
reference's: eager modules, one token after the other. In a section without it, `over plain` goes by
that of another section. `of the limit`, and the shares behind the stages: the time that the
operations take at the fastest product seen, or the weights at the fastest access to memory,
divided by the median. `GB` is the peak on the device; on the CPU that of the process. Weights are
random."""
_STAGES = ('preprocess', 'vision', 'projector', 'prefill', 'decode', 'head', 'postprocess')


def survey_text(report: Summary) -> str:
    """Return the whole report.

    :param report: what :func:`.survey` found, with the recipe's keys.
    """
    sections = report['sections']
    parts = [f'```\n{recipe_text(report)}\n```', _golden(report['golden']), _machine(sections)]
    plain_s = {_place(one): _plain_s(one) for one in sections if _plain_s(one) is not None}
    for place in dict.fromkeys(map(_place, sections)):
        members = [one for one in sections if _place(one) == place]
        found = [summary for one in members for summary in one['combinations']]
        if found:
            parts += [_actions(place, found, plain_s.get(place)), _stages(place, found)]
    parts += [_LEGEND, _energy(report['energy']), _missing(sections)]
    return '\n\n'.join(filter(None, parts))


def _place(section: Summary) -> tuple[str, str]:
    return section['shape'], section['device']


def _plain_s(section: Summary) -> float | None:
    return next((one['action_s'] for one in section['combinations'] if one['is_plain']), None)


def _golden(golden: Sequence[Summary]) -> str:
    rows = [
        [
            f'{one["device"]} {one["dtype"]}',
            f'{one["equal_actions"]} of {one["actions"]}',
            f'{one["equal_tokens"]} of {one["tokens"]}',
            f'{one["logit_difference"]:.1e}',
        ]
        for one in golden
    ]
    titles = ['golden cases', 'actions equal', 'tokens equal', 'logits, largest difference']
    return _markdown(titles, rows) if rows else ''


def _machine(sections: Sequence[Summary]) -> str:
    rows = {}
    for one in (summary for section in sections for summary in section['combinations']):
        limits = one['ceilings']
        rows[one['device'], one['dtype'], one['quantization']] = [
            f'{limits["square_gflop_per_s"]:.0f}',
            f'{limits["gemm_gflop_per_s"]:.0f}',
            f'{limits["stream_gb_per_s"]:.1f}, {limits["copy_gb_per_s"]:.1f}',
            f'{limits["row_gb_per_s"]:.1f}',
            f'{limits["launch_us"]:.1f}',
        ]
    titles = [
        *('limits seen', 'GFLOP/s', '288 rows', 'read, copy GB/s', 'one row GB/s'),
        'launch, us',
    ]
    cells = [[' '.join(key).removesuffix(' none'), *row] for key, row in rows.items()]
    return _markdown(titles, cells) if cells else ''


def _actions(place: tuple[str, str], found: Sequence[Summary], plain_s: float | None) -> str:
    shape, device = place
    rows = []
    for one in found:
        loading, energy = one['loading'] or {}, one['energy']
        peak = loading.get('added_device_bytes') or loading.get('peak_resident_bytes')
        rows.append(
            [
                _name(one),
                '' if loading.get('first_s') is None else f'{loading["first_s"]:.2f}',
                _ms(one['action_s']),
                '' if plain_s is None else f'{plain_s / one["action_s"]:.2f}',
                f'{one["limits"]["whole_share"]:.0%}',
                '' if energy is None else f'{energy["joules"] / one["batch_size"]:.1f}',
                '' if peak is None else f'{peak / 1e9:.1f}',
            ]
        )
    title = f'{shape} on {device}, rows: {found[0]["rows"]}'
    return _markdown([title, 'first', 'ms', 'over plain', 'of the limit', 'J', 'GB'], rows)


def _stages(place: tuple[str, str], found: Sequence[Summary]) -> str:
    stages = [stage for stage in _STAGES if any(stage in one['stages_s'] for one in found)]
    rows = [[_name(one), *(_stage(one, stage) for stage in stages)] for one in found]
    return _markdown([f'{" on ".join(place)}, a batch, ms', *stages], rows)


def _stage(summary: Summary, stage: str) -> str:
    if stage not in summary['stages_s']:
        return ''
    share = summary['limits']['share'].get(stage)
    return _ms(summary['stages_s'][stage]['p50']) + ('' if share is None else f' ({share:.0%})')


def _energy(sources: Summary) -> str:
    return 'Energy: ' + '; '.join(f'{device}: {source}' for device, source in sources.items()) + '.'


def _missing(sections: Sequence[Summary]) -> str:
    lines = [f'- `vla_bench {one["options"]}`: {one["said"]}' for one in sections if one['said']]
    return '\n'.join(['Not measured, or not as it should be:', '', *lines]) if lines else ''


def _name(summary: Summary) -> str:
    return str(summary['name']).removeprefix(summary['device']).strip()


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f'{milliseconds:.0f}' if milliseconds >= 100 else f'{milliseconds:.1f}'


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ['---'] * len(titles), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
