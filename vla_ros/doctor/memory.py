# SPDX-License-Identifier: Apache-2.0
"""Checks whether the policy fits into memory, by the shapes of its weights. Loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, gigabytes, ok
from vla_ros.policies import resolve
from vla_ros.policy_request import Inspection, PolicyRequest
from vla_ros.types import PolicyError


def check_memory(facts: Facts) -> Iterator[Finding]:
    """Compare what loading and running take with what is free."""
    inspection = facts.inspection if facts.is_whole else None
    if inspection is None or facts.device is None or facts.dtype is None:
        return
    from vla_ros.measure.memory import available_bytes

    device, dtype = str(facts.device), str(facts.dtype).removeprefix('torch.')
    request = replace(facts.request, device=device, dtype=dtype)
    robots = 1 if facts.parameters is None else len(facts.parameters.robot_names)
    needed, free = inspection.needed_bytes(request, robots), available_bytes(device)
    if needed is None:
        return
    chosen = request.quantization
    what = dtype if chosen == 'none' else f'{dtype} with quantization {chosen}'
    what += f' for {robots} robots' if robots > 1 else ''
    found = (
        f'{what} takes about {gigabytes(needed)}, loading included; {gigabytes(free)} are free on '
        f'{device}'
    )
    facts.fits = needed <= free
    yield ok(found) if facts.fits else fail(found, _advice(inspection, request, robots, free))


def _advice(inspection: Inspection, request: PolicyRequest, robots: int, free: int) -> str:
    for smaller in _smaller(request):
        needed = inspection.needed_bytes(smaller, robots)
        if needed is not None and needed <= free:
            return (
                f'set quantization to {smaller.quantization} ({gigabytes(needed)}), or end what '
                'uses the memory'
            )
    return 'free memory (does a node already run?), or use a larger machine'


def _smaller(request: PolicyRequest) -> Iterator[PolicyRequest]:
    """Yield the request with each smaller quantization that is available here."""
    from vla_ros.openvla.placement import QUANTIZATIONS

    for quantization in QUANTIZATIONS[1 + QUANTIZATIONS.index(request.quantization) :]:
        try:
            yield resolve(replace(request, quantization=quantization))
        except PolicyError:
            continue
