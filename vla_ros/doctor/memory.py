"""Whether the policy fits, from the shapes of its weights: nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, gigabytes, ok
from vla_ros.types import PolicyError

# Peak of loading, warming up and inferring, less the weights: 1.1 GB was measured in bfloat16, 1.2
# in int8, 1.1 in int4 (docs/benchmarks.md).
_BESIDE_WEIGHTS_BYTES = 1_200_000_000


def check_memory(facts: Facts) -> Iterator[Finding]:
    if facts.directory is None or facts.device is None:
        return
    from vla_ros.measure.memory import available_bytes

    chosen, device = facts.choice.quantization, str(facts.device)
    needed, free = _needed_bytes(facts, chosen), available_bytes(device)
    dtype = str(facts.dtype).removeprefix('torch.')
    what = dtype if chosen == 'none' else f'{dtype} with quantization {chosen}'
    found = (
        f'{what} takes about {gigabytes(needed)}, loading included; {gigabytes(free)} are free on '
        f'{device}'
    )
    facts.fits = needed <= free
    yield ok(found) if facts.fits else fail(found, _advice(facts, free))


def _advice(facts: Facts, free: int) -> str:
    for quantization in _smaller(facts):
        needed = _needed_bytes(facts, quantization)
        if needed <= free:
            return (
                f'set quantization to {quantization} ({gigabytes(needed)}), or end what uses the '
                'memory'
            )
    return 'end what uses the memory (a node that runs already?), or take a larger machine'


def _smaller(facts: Facts) -> Iterator[str]:
    """The quantizations below the chosen one that can be had here."""
    from vla_ros.openvla.placement import QUANTIZATIONS, check_quantization

    assert facts.device is not None and facts.dtype is not None
    for quantization in QUANTIZATIONS[1 + QUANTIZATIONS.index(facts.choice.quantization) :]:
        try:
            check_quantization(quantization, facts.device, facts.dtype, facts.choice.compile)
        except PolicyError:
            continue
        yield quantization


def _needed_bytes(facts: Facts, quantization: str) -> int:
    from vla_ros.openvla.costs import model_bytes

    assert facts.config is not None and facts.dtype is not None
    weights = model_bytes(facts.config, facts.dtype, quantization, str(facts.device))
    return weights + _BESIDE_WEIGHTS_BYTES
