# SPDX-License-Identifier: Apache-2.0
"""Compares the rate of actions with the data set's rate and with the node's time limits."""

from __future__ import annotations

from collections.abc import Iterator

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, ok, warn

TOLERANCE = 0.95  # of the data set's rate
_HEADROOM = 0.8  # of a time limit; beyond, a slow moment is late


def check_rate(facts: Facts) -> Iterator[Finding]:
    """Check the policy's own rate; a camera may be slower."""
    if facts.inference_s is None:
        if facts.request.model:
            yield warn(
                'the duration of an action is not known here',
                'measure it with --measure, or start the node and ask again',
            )
        return
    rows = facts.rows
    rate_hz = rows / facts.inference_s
    took = 'an action takes' if rows == 1 else f'a chunk of {rows} actions takes'
    found = f'{_hz(rate_hz)}: {took} {facts.inference_s:.3g} s here ({facts.inference_source})'
    contract = facts.contract
    if contract is None:
        yield ok(f'{found}; the rate of {facts.unnorm_key or "its data set"} is not known')
    elif rate_hz >= TOLERANCE * contract.rate_hz:
        yield ok(f'{found}; {contract.unnorm_key} acted at {_hz(contract.rate_hz)}')
    else:
        yield warn(
            f'{found} on a policy trained at {_hz(contract.rate_hz)}',
            f'{_faster(facts)}accept a robot that is {contract.rate_hz / rate_hz:.1f} times as '
            f'slow: each action is meant for {contract.period_s:g} s',
        )


def _faster(facts: Facts) -> str:
    """Return the ways to be faster that are not used yet."""
    if facts.is_remote:
        return 'make the server or the network faster, or '
    ways = ['set quantization to int8, '] if facts.request.quantization == 'none' else []
    on_cpu = facts.device is None or facts.device.type == 'cpu'
    ways += ['take a machine with a GPU, '] if on_cpu else ['take a faster GPU, ']
    return f'{"".join(ways)}or '


def check_time_limits(facts: Facts) -> Iterator[Finding]:
    """Check whether inferences can finish in time, with actions young enough."""
    parameters, inference_s = facts.parameters, facts.inference_s
    if parameters is None or inference_s is None:
        return
    age_s = inference_s + (facts.image_age_s or 0.0)
    limits = (
        ('inference_timeout_s', parameters.inference_timeout_s, inference_s, 'an action takes'),
        ('max_action_age_s', parameters.max_action_age_s, age_s, 'from image to action it takes'),
    )
    for name, limit_s, needed_s, what in limits:
        found = f'{what} {needed_s:.3g} s, {name} is {limit_s:g}'
        advice = f'set {name} to {2 * needed_s:.2g} or so'
        if needed_s > limit_s:
            yield fail(f'{found}: all would be late', advice)
        elif needed_s > _HEADROOM * limit_s:
            yield warn(f'{found}: some would be late', advice)
        else:
            yield ok(found)


def _hz(rate_hz: float) -> str:
    return f'{rate_hz:.2g} Hz' if rate_hz < 10 else f'{rate_hz:.0f} Hz'
