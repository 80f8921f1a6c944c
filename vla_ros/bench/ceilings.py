# SPDX-License-Identifier: Apache-2.0
"""The machine's limits: its speed of matrix products, and of reading and copying memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.bench.combinations import Combination
from vla_ros.console import Say
from vla_ros.openvla.placement import DTYPES, synchronize
from vla_ros.openvla.quantization import choose_linear

# openvla-7b's largest product in the prefill of a short prompt.
_POSITIONS, _HIDDEN, _INTERMEDIATE = 288, 4096, 11008
_WEIGHTS = 4  # matrices read in turn: together 360 MB in bfloat16, more than a cache holds
_STREAMED_BYTES = {'cpu': 500_000_000, 'mps': 500_000_000, 'cuda': 4_000_000_000}
_SQUARE = {'cpu': 2048, 'mps': 4096, 'cuda': 8192}  # rows and columns of the largest product
_MIN_SECONDS, _MIN_RUNS = 1.0, 3
_LAUNCHES = 1000
_RUN_S = 0.01  # between two waits for the device, so that these take little of the time


@dataclass(frozen=True)
class Ceilings:
    """The machine's limits, each from the fastest of several runs.

    :param gemm_gflop_per_s: speed of a product [288, 4096] x [4096, 11008] in the dtype, or of the
        quantised layer that replaces it.
    :param row_gb_per_s: speed of reading weights in products of one row with such matrices.
    :param stream_gb_per_s: speed of reading a large tensor in a sum.
    :param copy_gb_per_s: speed of copying it, read and written.
    :param square_gflop_per_s: speed of a large square product in the dtype, or of 8-bit numbers
        where a quantised model may use it and it is faster.
    :param launch_us: time that the CPU takes to launch a small operation.
    """

    gemm_gflop_per_s: float
    row_gb_per_s: float
    stream_gb_per_s: float
    copy_gb_per_s: float
    square_gflop_per_s: float
    launch_us: float

    @property
    def gflop_per_s(self) -> float:
        """The fastest product that was seen."""
        return max(self.gemm_gflop_per_s, self.square_gflop_per_s)

    @property
    def gb_per_s(self) -> float:
        """The fastest access to memory that was seen."""
        return max(self.row_gb_per_s, self.stream_gb_per_s, self.copy_gb_per_s)

    def limit_s(self, flops: float, weight_bytes: float) -> float:
        """Return the time that operations, or the reading of weights, take at least."""
        return max(flops / self.gflop_per_s, weight_bytes / self.gb_per_s) / 1e9


Known = dict[tuple[str, str, str, int], Ceilings]  # by Combination.ceilings_key


def measure_ceilings(
    combinations: Sequence[Combination], say: Say, known: Known | None = None
) -> list[Ceilings]:
    """Return the limits for each combination.

    Combinations with the same device, dtype, quantization and threads share them. torch's number of
    threads is restored at the end.

    :param known: limits that were measured before; those that are measured are added.
    """
    threads = torch.get_num_threads()
    known = {} if known is None else known
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
    streamed = torch.ones(_STREAMED_BYTES[device.type] // 4, device=device)
    copy = torch.empty_like(streamed)
    gemm_s = _fastest_s(lambda: layers[0](x), device)
    row_s = _fastest_s(lambda: [layer(x[:1]) for layer in layers], device)
    stream_s = _fastest_s(streamed.sum, device)
    copy_s = _fastest_s(lambda: copy.copy_(streamed), device)
    return Ceilings(
        gemm_gflop_per_s=2 * _POSITIONS * _HIDDEN * _INTERMEDIATE / gemm_s / 1e9,
        row_gb_per_s=sum(weight_bytes) / row_s / 1e9,
        stream_gb_per_s=streamed.nbytes / stream_s / 1e9,
        copy_gb_per_s=2 * streamed.nbytes / copy_s / 1e9,
        square_gflop_per_s=_square_gflop_per_s(
            device, dtype, combination.policy.quantization != 'none'
        ),
        launch_us=_launch_us(device),
    )


def _launch_us(device: torch.device) -> float:
    small = torch.zeros(8, device=device)
    synchronize(device)
    started = time.monotonic()
    for _ in range(_LAUNCHES):
        small.add_(1)
    seconds = time.monotonic() - started  # the device may still be busy
    synchronize(device)
    return 1e6 * seconds / _LAUNCHES


def _square_gflop_per_s(device: torch.device, dtype: torch.dtype, in_8_bits: bool) -> float:
    """Return the speed of the faster product, in the dtype or of 8-bit numbers."""
    size = _SQUARE[device.type]
    x = torch.full((size, size), 0.01, dtype=dtype, device=device)
    seconds = [_fastest_s(lambda: x @ x, device)]
    if in_8_bits:
        ones = torch.ones(size, size, dtype=torch.int8, device=device)
        whole_s = _whole_product_s(ones, device)
        seconds += [] if whole_s is None else [whole_s]
    return 2 * size**3 / min(seconds) / 1e9


def _whole_product_s(x: Tensor, device: torch.device) -> float | None:
    """Return the time of a product of whole numbers; None if the device has none."""
    try:
        return _fastest_s(lambda: torch._int_mm(x, x.T), device)
    except (NotImplementedError, RuntimeError):  # of MPS; of old GPUs
        return None


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
    """Return the shortest duration of a run, of at least ``_MIN_RUNS`` and ``_MIN_SECONDS``.

    A first run is not counted. Short runs are measured several at a time.
    """
    run()
    synchronize(device)
    seconds = [_seconds(run, 1, device)]
    count = max(1, min(1000, round(_RUN_S / max(seconds[0], 1e-9))))
    total = seconds[0]
    while len(seconds) < _MIN_RUNS or total < _MIN_SECONDS:
        taken = _seconds(run, count, device)
        seconds.append(taken / count)
        total += taken
    return min(seconds)


def _seconds(run: Callable[[], object], count: int, device: torch.device) -> float:
    started = time.monotonic()
    for _ in range(count):
        run()
    synchronize(device)
    return time.monotonic() - started
