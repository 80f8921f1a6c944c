# SPDX-License-Identifier: Apache-2.0
"""Report of a benchmark, as one JSON object and as tables of its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median

from vla_ros.bench.ceilings import Ceilings
from vla_ros.bench.measure import Measurement
from vla_ros.bench.openvla import ModelFacts
from vla_ros.measure.statistics import Summary, percentiles, recipe_text, table
from vla_ros.openvla.costs import Costs

_LEGEND = """\
load, warm-up, first: once for each policy. p50 to p99: one batch, always with new images.
an action: the median divided by the batch size. rows: actions of one inference.
peak RAM: of the process while loading and warming up, with mapped files. added: by this policy."""
_MODEL_LEGEND = """\
same actions, equal bins: compared with the first combination.
Each ceiling is the fastest of several runs. GEMM: [288, 4096] x [4096, 11008].
row: reads such weights for a single row. stream: sums 500 MB (CUDA: 4 GB).
Share of the limit: a stage takes at least the time of its operations at the fastest product, or
of its weights at the fastest access to memory. whole: the sum of these times over the median."""
_NOT_IN_TURNS = """\
The policies do not fit into memory together. They were measured one after the other, NOT in turns,
so other load of the machine may have affected one and not the other."""

_NOTHING = '-'  # a cell without a value
_COSTS = (
    *('positions', 'flops', 'weight_bytes', 'model_bytes', 'ceilings', 'reached'),
    'limits',
)


def summarize(
    measurements: Sequence[Measurement], ceilings: Sequence[Ceilings] = ()
) -> list[Summary]:
    """Return one object for each combination, with a comparison with the first one.

    The keys are the same for every policy; what a policy does not give is None or empty.

    :param ceilings: the machine's limits for each combination; empty if the costs are unknown.
    """
    first = measurements[0]
    limits: Sequence[Ceilings | None] = ceilings or [None] * len(measurements)
    return [_summary(*pair, first) for pair in zip(measurements, limits, strict=True)]


def _summary(measurement: Measurement, ceilings: Ceilings | None, first: Measurement) -> Summary:
    latency_s = percentiles(measurement.latencies_s)
    stages_s = {
        stage: percentiles([timings[stage] for timings in measurement.timings])
        for stage in measurement.timings[0]
    }
    model, rows = measurement.model, measurement.spec.horizon
    # The prefill gives the first token. A head gives all values without decoding.
    passes = median(measurement.passes) if measurement.passes and 'decode' in stages_s else None
    decode_step_s = stages_s['decode']['p50'] / passes if passes else None
    action_s = latency_s['p50'] / measurement.combination.batch_size
    first_action_s = percentiles(first.latencies_s)['p50'] / first.combination.batch_size
    drafted = measurement.drafted
    return {
        'name': str(measurement.combination),
        **measurement.combination.as_json(),
        'loading': None if measurement.loading is None else asdict(measurement.loading),
        'repeats': len(measurement.latencies_s),
        'latency_s': latency_s,
        'latencies_s': measurement.latencies_s,
        'action_s': action_s,
        'rows': rows,
        'row_s': action_s / rows,
        'speedup_over_first': first_action_s / action_s,
        'stages_s': stages_s,
        'timings_s': measurement.timings,
        'decode_steps': passes,
        'decode_step_s': decode_step_s,
        'valid_actions': measurement.valid,
        'drafted': drafted,
        'accepted': measurement.accepted,
        'acceptance': measurement.accepted / drafted if drafted else None,
        'beside_first': None
        if model is None or not measurement.spec.emits_tokens or _differ(measurement, first)
        else _agreement(measurement, first, model.action_ids),
        'energy': None if measurement.energy is None else asdict(measurement.energy),
        **_costs(model, ceilings, stages_s, latency_s['p50'], passes or 0),
    }


def _differ(measurement: Measurement, first: Measurement) -> bool:
    """Return whether the weights differ: each kind of device draws others."""
    kinds = {one.combination.policy.device.partition(':')[0] for one in (measurement, first)}
    return measurement.is_random and len(kinds) > 1


def _agreement(measurement: Measurement, first: Measurement, bins: range) -> Summary:
    """Compare the actions with the first combination's, for images that both had."""
    actions = [
        (own, other)
        for batch, first_batch in zip(measurement.token_ids, first.token_ids, strict=False)
        for own, other in zip(batch, first_batch, strict=False)
    ]
    pairs = [pair for own, other in actions for pair in zip(own, other, strict=False)]
    tokens = sum(max(len(own), len(other)) for own, other in actions)
    # Neighbouring bins have neighbouring ids.
    distances = [abs(a - b) for a, b in pairs if a in bins and b in bins]
    return {
        'actions': len(actions),
        'equal_actions': sum(own == other for own, other in actions),
        'equal_bins': sum(a == b for a, b in pairs) / tokens,
        'largest_bin_distance': max(distances, default=0),
    }


def _costs(
    model: ModelFacts | None,
    ceilings: Ceilings | None,
    stages_s: Mapping[str, Mapping[str, float]],
    latency_s: float,
    passes: float,
) -> Summary:
    """Return the costs and what was reached of the ceilings; None where they are unknown."""
    if model is None or ceilings is None:
        return dict.fromkeys(_COSTS)
    costs = model.costs
    return {
        'positions': costs.positions,
        'flops': costs.flops,
        'weight_bytes': costs.weight_bytes,
        'model_bytes': costs.model_bytes,
        'ceilings': asdict(ceilings),
        'reached': _reached(costs, ceilings, stages_s, passes),
        'limits': _limits(costs, ceilings, stages_s, latency_s, passes),
    }


def _limits(
    costs: Costs,
    ceilings: Ceilings,
    stages_s: Mapping[str, Mapping[str, float]],
    latency_s: float,
    passes: float,
) -> Summary:
    """Return the least time of each stage on this machine, and its share of the median.

    A stage takes at least as long as its operations or its weights do, whichever is more. Of an
    inference it is the sum over its stages, as if all else were free.
    """
    least_s = {
        stage: ceilings.limit_s(costs.flops[stage], costs.weight_bytes[stage])
        for stage in costs.flops
        if stage != 'decode_step'
    }
    if 'decode_step' in costs.flops:
        step = costs.flops['decode_step'], costs.weight_bytes['decode_step']
        least_s['decode'] = passes * ceilings.limit_s(*step)
    share = {
        stage: least_s[stage] / stages_s[stage]['p50']
        for stage in least_s
        if least_s[stage] and stages_s.get(stage, {}).get('p50')
    }
    whole_s = sum(least_s.values())
    return {'s': least_s, 'share': share, 'whole_s': whole_s, 'whole_share': whole_s / latency_s}


def _reached(
    costs: Costs,
    ceilings: Ceilings,
    stages_s: Mapping[str, Mapping[str, float]],
    passes: float,
) -> Summary:
    """Return the rates of the medians, and their fractions of the ceilings."""
    rates = {
        stage: costs.flops[stage] / stages_s[stage]['p50'] / 1e9
        for stage in ('vision', 'projector', 'prefill', 'head')
        if stage in costs.flops and stage in stages_s
    }
    decode_s = stages_s['decode']['p50'] if passes else 0.0
    read = passes * costs.decode_step_bytes / decode_s / 1e9 if passes else None
    return {
        'gflop_per_s': rates,
        'fraction_of_gemm': {
            stage: rate / ceilings.gemm_gflop_per_s for stage, rate in rates.items()
        },
        'decode_gb_per_s': read,
        'decode_fraction_of_row': read / ceilings.row_gb_per_s if read else None,
        'decode_fraction_of_stream': read / ceilings.stream_gb_per_s if read else None,
    }


def report_text(report: Summary) -> str:
    """Return the whole report for the user.

    :param report: the recipe's keys, ``model``, ``combinations`` and ``took_turns``.
    """
    summaries = report['combinations']
    positions = summaries[0]['positions']
    model = report['model'] if positions is None else f'{report["model"]}, {positions} positions'
    parts = [f'{recipe_text(report)}\n{model}', tables(summaries), _LEGEND]
    text = '\n\n'.join(parts)
    if positions is not None:
        text += f'\n{_MODEL_LEGEND}'
    return text if report['took_turns'] else f'{text}\n{_NOT_IN_TURNS}'


def tables(summaries: Sequence[Summary]) -> str:
    """Return tables for the user; columns without another name are medians.

    A column without any value does not appear.
    """
    names = [summary['name'] for summary in summaries]
    titles = {
        'seconds': _whole,
        'actions': _actions,
        'milliseconds': _stages,
        'reached, of ceiling': _rates,
        "share of the machine's limit": _shares,
    }
    found = []
    for title, row_of in titles.items():
        rows = [row_of(summary) for summary in summaries]
        columns = [
            name
            for name in dict.fromkeys(name for row in rows for name in row)
            if any(row.get(name, _NOTHING) != _NOTHING for row in rows)
        ]
        if columns:
            cells = [{name: row.get(name, _NOTHING) for name in columns} for row in rows]
            found.append(table(title, names, cells))
    return '\n\n'.join(found)


def _whole(summary: Summary) -> dict[str, str]:
    loading = summary['loading'] or {}

    def once(name: str, unit: float = 1.0) -> str:
        return f'{loading[name] / unit:.2f}' if loading.get(name) is not None else _NOTHING

    row = {'load': once('load_s'), 'warm-up': once('warmup_s'), 'first': once('first_s')}
    row |= {name: f'{seconds:.4f}' for name, seconds in summary['latency_s'].items()}
    row['an action'] = f'{summary["action_s"]:.4f}'
    row['speed-up'] = f'{summary["speedup_over_first"]:.2f}x'
    row['peak RAM GB'] = once('peak_resident_bytes', 1e9)
    row['added'] = once('added_resident_bytes', 1e9)
    row['on device'] = once('added_device_bytes', 1e9)
    return row


def _actions(summary: Summary) -> dict[str, str]:
    accepted, valid, rows = summary['acceptance'], summary['valid_actions'], summary['rows']
    row = {
        'valid': f'{valid}/{summary["repeats"] * summary["batch_size"]}',
        'rows': str(rows) if rows > 1 else _NOTHING,
        'ms per row': f'{1e3 * summary["row_s"]:.2f}' if rows > 1 else _NOTHING,
        'draft accepted': _NOTHING if accepted is None else f'{accepted:.0%}',
    }
    beside = summary['beside_first']
    if beside is not None:
        row['same actions'] = f'{beside["equal_actions"]}/{beside["actions"]}'
        row['equal bins'] = f'{beside["equal_bins"]:.1%}'
        row['largest distance'] = str(beside['largest_bin_distance'])
    return row


def _stages(summary: Summary) -> dict[str, str]:
    row = {stage: f'{1e3 * times["p50"]:.2f}' for stage, times in summary['stages_s'].items()}
    step_s = summary['decode_step_s']
    row['each decode step'] = _NOTHING if step_s is None else f'{1e3 * step_s:.2f}'
    return row


def _shares(summary: Summary) -> dict[str, str]:
    limits, ceilings, energy = summary['limits'], summary['ceilings'], summary['energy']
    row = {}
    if limits is not None:
        rate = max(ceilings['gemm_gflop_per_s'], ceilings['square_gflop_per_s'])
        row['GFLOP/s'] = f'{rate:.0f}'
        row['copy GB/s'] = f'{ceilings["copy_gb_per_s"]:.1f}'
        row |= {stage: f'{share:.0%}' for stage, share in limits['share'].items()}
        row['limit, ms'] = f'{1e3 * limits["whole_s"]:.2f}'
        row['whole'] = f'{limits["whole_share"]:.0%}'
    row['J'] = _NOTHING if energy is None else f'{energy["joules"]:.2f}'
    row['W'] = _NOTHING if energy is None else f'{energy["watts"]:.0f}'
    return row


def _rates(summary: Summary) -> dict[str, str]:
    ceilings, reached = summary['ceilings'], summary['reached']
    if reached is None:
        return {}
    row = {'GEMM GFLOP/s': f'{ceilings["gemm_gflop_per_s"]:.0f}'}
    for stage, rate in reached['gflop_per_s'].items():
        row[stage] = f'{rate:.0f} {reached["fraction_of_gemm"][stage]:4.0%}'
    read = reached['decode_gb_per_s']
    row['decode step GB/s'] = _NOTHING if read is None else f'{read:.1f}'
    for name in ('row', 'stream'):
        fraction = reached[f'decode_fraction_of_{name}']
        share = _NOTHING if fraction is None else f'{fraction:.0%}'
        row[f'of {name} GB/s'] = f'{ceilings[f"{name}_gb_per_s"]:.1f} {share:>4}'
    return row
