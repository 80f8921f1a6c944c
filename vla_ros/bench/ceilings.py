# SPDX-License-Identifier: Apache-2.0
"""The machine's limits: its speed of matrix products and of reading weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vla_ros.bench.combinations import Combination
from vla_ros.console import Say
from vla_ros.openvla.placement import DTYPES, synchronize
from vla_ros.openvla.quantization import choose_linear

# openvla-7b's largest product in the prefill of a short prompt.
_POSITIONS, _HIDDEN, _INTERMEDIATE = 288, 4096, 11008
_WEIGHTS = 4  # matrices read in turn: together 360 MB in bfloat16, more than a cache holds
_STREAMED_BYTES = 500_000_000
_MIN_SECONDS, _MIN_RUNS = 1.0, 3


@dataclass(frozen=True)
class Ceilings:
    """The machine's limits, each from the fastest of several runs.

    :param gemm_gflop_per_s: speed of a product [288, 4096] x [4096, 11008] in the dtype, or of the
        quantised layer that replaces it.
    :param row_gb_per_s: speed of reading weights in products of one row with such matrices.
    :param stream_gb_per_s: speed of reading a large tensor in a sum.
    """

    gemm_gflop_per_s: float
    row_gb_per_s: float
    stream_gb_per_s: float


def measure_ceilings(combinations: Sequence[Combination], say: Say) -> list[Ceilings]:
    """Return the limits for each combination.

    Combinations with the same device, dtype, quantization and threads share them. torch's number of
    threads is restored at the end.
    """
    threads = torch.get_num_threads()
    known: dict[tuple[str, str, str, int], Ceilings] = {}
    try:
        for combination in combinations:
            key = combination.ceilings_key
            if key not in known:
                *words, count = key
                say(f'measuring the ceilings of {" ".join(words)}, threads {count}')
                torch.set_num_threads(combination.threads)
                known[key] = _ceilings(combination)
    finally:
        torch.set_num_threads(threads)
    return [known[combination.ceilings_key] for combination in combinations]


@torch.inference_mode()
def _ceilings(combination: Combination) -> Ceilings:
    device, dtype = torch.device(combination.policy.device), DTYPES[combination.policy.dtype]
    layers, weight_bytes = zip(*(_layer(combination) for _ in range(_WEIGHTS)), strict=True)
    x = torch.full((_POSITIONS, _HIDDEN), 0.01, dtype=dtype, device=device)
    streamed = torch.ones(_STREAMED_BYTES // 4, device=device)
    gemm_s = _fastest_s(lambda: layers[0](x), device)
    row_s = _fastest_s(lambda: [layer(x[:1]) for layer in layers], device)
    stream_s = _fastest_s(streamed.sum, device)
    return Ceilings(
        gemm_gflop_per_s=2 * _POSITIONS * _HIDDEN * _INTERMEDIATE / gemm_s / 1e9,
        row_gb_per_s=sum(weight_bytes) / row_s / 1e9,
        stream_gb_per_s=streamed.nbytes / stream_s / 1e9,
    )


def _layer(combination: Combination) -> tuple[nn.Module, int]:
    """Return a layer like the language model's, and the bytes of its weight."""
    device, dtype = torch.device(combination.policy.device), DTYPES[combination.policy.dtype]
    if combination.policy.quantization == 'none':
        linear = nn.Linear(_HIDDEN, _INTERMEDIATE, bias=False, device=device, dtype=dtype)
        return linear, linear.weight.nbytes
    meta = nn.Linear(_HIDDEN, _INTERMEDIATE, bias=False, device='meta')
    quantized = choose_linear(combination.policy.quantization, device, meta)
    quantized.quantize(torch.randn(_INTERMEDIATE, _HIDDEN), device, dtype)
    return quantized, quantized.weight_bytes


def _fastest_s(run: Callable[[], object], device: torch.device) -> float:
    """Return the shortest duration of at least ``_MIN_RUNS`` runs and ``_MIN_SECONDS``.

    A first run is not counted.
    """
    seconds: list[float] = []
    run()
    synchronize(device)
    while len(seconds) < _MIN_RUNS or sum(seconds) < _MIN_SECONDS:
        started = time.monotonic()
        run()
        synchronize(device)
        seconds.append(time.monotonic() - started)
    return min(seconds)
