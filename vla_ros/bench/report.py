"""Report of a benchmark, as one JSON object and as tables of its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from vla_ros.bench.ceilings import Ceilings
from vla_ros.bench.measure import Measurement
from vla_ros.measure.statistics import Summary, percentiles, table
from vla_ros.openvla.costs import Costs


def summarize(measurements: Sequence[Measurement], ceilings: Sequence[Ceilings]) -> list[Summary]:
    """Return one object for each combination, with a comparison with the first one."""
    first = measurements[0]
    return [
        _summary(measurement, limits, first)
        for measurement, limits in zip(measurements, ceilings, strict=True)
    ]


def _summary(measurement: Measurement, ceilings: Ceilings, first: Measurement) -> Summary:
    latency_s = percentiles(measurement.latencies_s)
    stages_s = {
        stage: percentiles([timings[stage] for timings in measurement.timings])
        for stage in measurement.timings[0]
    }
    decode_steps = measurement.action_dim - 1  # the prefill gives the first token
    decode_step_s = None
    if decode_steps and measurement.combination.draft == 'none':
        decode_step_s = stages_s['decode']['p50'] / decode_steps
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
        'speedup_over_first': first_action_s / action_s,
        'stages_s': stages_s,
        'timings_s': measurement.timings,
        'decode_steps': decode_steps,
        'decode_step_s': decode_step_s,
        'valid_actions': measurement.valid,
        'drafted': drafted,
        'accepted': measurement.accepted,
        'acceptance': measurement.accepted / drafted if drafted else None,
        'beside_first': _agreement(measurement, first),
        'positions': measurement.costs.positions,
        'flops': measurement.costs.flops,
        'decode_step_bytes': measurement.costs.decode_step_bytes,
        'model_bytes': measurement.costs.model_bytes,
        'ceilings': asdict(ceilings),
        'reached': _reached(measurement.costs, ceilings, stages_s, decode_step_s),
    }


def _agreement(measurement: Measurement, first: Measurement) -> Summary:
    """Compare the actions with the first combination's, for images that both had."""
    actions = [
        (own, other)
        for batch, first_batch in zip(measurement.token_ids, first.token_ids, strict=True)
        for own, other in zip(batch, first_batch, strict=False)
    ]
    pairs = [pair for own, other in actions for pair in zip(own, other, strict=False)]
    tokens = sum(max(len(own), len(other)) for own, other in actions)
    bins = measurement.action_ids  # neighbouring bins have neighbouring ids
    distances = [abs(a - b) for a, b in pairs if a in bins and b in bins]
    return {
        'actions': len(actions),
        'equal_actions': sum(own == other for own, other in actions),
        'equal_bins': sum(a == b for a, b in pairs) / tokens,
        'largest_bin_distance': max(distances, default=0),
    }


def _reached(
    costs: Costs,
    ceilings: Ceilings,
    stages_s: Mapping[str, Mapping[str, float]],
    decode_step_s: float | None,
) -> Summary:
    """Return the rates of the medians, and their fractions of the ceilings."""
    rates = {
        stage: costs.flops[stage] / stages_s[stage]['p50'] / 1e9
        for stage in ('vision', 'projector', 'prefill')
    }
    read = costs.decode_step_bytes / decode_step_s / 1e9 if decode_step_s else None
    return {
        'gflop_per_s': rates,
        'fraction_of_gemm': {
            stage: rate / ceilings.gemm_gflop_per_s for stage, rate in rates.items()
        },
        'decode_gb_per_s': read,
        'decode_fraction_of_row': read / ceilings.row_gb_per_s if read else None,
        'decode_fraction_of_stream': read / ceilings.stream_gb_per_s if read else None,
    }


def tables(summaries: Sequence[Summary]) -> str:
    """Return tables for the user; columns without another name are medians."""
    names = [summary['name'] for summary in summaries]
    return '\n\n'.join(
        [
            table('seconds', names, [_whole(summary) for summary in summaries]),
            table('actions', names, [_actions(summary) for summary in summaries]),
            table('milliseconds', names, [_stages(summary) for summary in summaries]),
            table('reached, of ceiling', names, [_rates(summary) for summary in summaries]),
        ]
    )


def _whole(summary: Summary) -> dict[str, str]:
    loading = summary['loading'] or {}

    def once(name: str, unit: float = 1.0) -> str:
        return f'{loading[name] / unit:.2f}' if loading.get(name) is not None else '-'

    row = {'load': once('load_s'), 'warm-up': once('warmup_s'), 'first': once('first_s')}
    row |= {name: f'{seconds:.4f}' for name, seconds in summary['latency_s'].items()}
    row['an action'] = f'{summary["action_s"]:.4f}'
    row['speed-up'] = f'{summary["speedup_over_first"]:.2f}x'
    row['peak RAM GB'] = once('peak_resident_bytes', 1e9)
    row['added'] = once('added_resident_bytes', 1e9)
    row['on device'] = once('added_device_bytes', 1e9)
    return row


def _actions(summary: Summary) -> dict[str, str]:
    beside = summary['beside_first']
    accepted, valid = summary['acceptance'], summary['valid_actions']
    return {
        'valid': f'{valid}/{summary["repeats"] * summary["batch_size"]}',
        'draft accepted': '-' if accepted is None else f'{accepted:.0%}',
        'same actions': f'{beside["equal_actions"]}/{beside["actions"]}',
        'equal bins': f'{beside["equal_bins"]:.1%}',
        'largest distance': str(beside['largest_bin_distance']),
    }


def _stages(summary: Summary) -> dict[str, str]:
    row = {stage: f'{1e3 * times["p50"]:.2f}' for stage, times in summary['stages_s'].items()}
    step_s = summary['decode_step_s']
    row['each decode step'] = '-' if step_s is None else f'{1e3 * step_s:.2f}'
    return row


def _rates(summary: Summary) -> dict[str, str]:
    ceilings, reached = summary['ceilings'], summary['reached']
    row = {'GEMM GFLOP/s': f'{ceilings["gemm_gflop_per_s"]:.0f}'}
    for stage, rate in reached['gflop_per_s'].items():
        row[stage] = f'{rate:.0f} {reached["fraction_of_gemm"][stage]:4.0%}'
    read = reached['decode_gb_per_s']
    row['decode step GB/s'] = '-' if read is None else f'{read:.1f}'
    for name in ('row', 'stream'):
        fraction = reached[f'decode_fraction_of_{name}']
        share = '-' if fraction is None else f'{fraction:.0%}'
        row[f'of {name} GB/s'] = f'{ceilings[f"{name}_gb_per_s"]:.1f} {share:>4}'
    return row
