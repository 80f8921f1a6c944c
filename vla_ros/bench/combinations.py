"""What is compared: every combination of the values asked for, checked before anything loads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.openvla.placement import check_quantization, choose_device, choose_dtype
from vla_ros.types import PolicyError

# The action before as a draft: there is none, all of its tokens are right, or none is.
DRAFTS = ('none', 'right', 'wrong')


@dataclass(frozen=True)
class Combination:
    """One way to run the model; nothing in here says ``auto``.

    :param threads: of torch, on the CPU.
    """

    device: str
    dtype: str
    quantization: str
    compile: bool
    batch_size: int
    threads: int
    draft: str = 'none'

    @property
    def policy_key(self) -> tuple[str, str, str, bool]:
        """Combinations that agree in this share one loaded policy."""
        return self.device, self.dtype, self.quantization, self.compile

    @property
    def ceilings_key(self) -> tuple[str, str, str, int]:
        """Combinations that agree in this have the same limits."""
        return self.device, self.dtype, self.quantization, self.threads

    def __str__(self) -> str:
        words = [self.device, self.dtype]
        words += [self.quantization] if self.quantization != 'none' else []
        words += [f'batch {self.batch_size}'] if self.batch_size > 1 else []
        words += [f'{self.threads} thread{"s" if self.threads > 1 else ""}']
        words += ['compiled'] if self.compile else []
        words += [f'{self.draft} draft'] if self.draft != 'none' else []
        return ' '.join(words)


def combine(
    devices: Sequence[str],
    dtypes: Sequence[str],
    quantizations: Sequence[str],
    compiles: Sequence[bool],
    batch_sizes: Sequence[int],
    threads: Sequence[int],
    drafts: Sequence[str] = ('none',),
) -> list[Combination]:
    """All combinations, the first values first. A value that is given twice is measured twice:
    that shows the noise.

    :raises PolicyError: if one of the values can't be had here.
    """
    for draft in drafts:
        if draft not in DRAFTS:
            raise PolicyError(f'draft {draft!r} is unknown; allowed: {", ".join(DRAFTS)}')
    cores = os.cpu_count() or 1
    for count in threads:
        if not 1 <= count <= cores:
            raise PolicyError(f'threads is {count}; allowed: 1 to {cores}, the cores there are')
    placements = []
    for device, dtype_name in itertools.product(map(choose_device, devices), dtypes):
        dtype = choose_dtype(dtype_name, device)
        for quantization, compile in itertools.product(quantizations, compiles):
            check_quantization(quantization, device, dtype, compile)
        placements.append((str(device), str(dtype).removeprefix('torch.')))
    return [
        Combination(*placement, quantization, compile, batch_size, count, draft)
        for placement, quantization, compile, batch_size, count, draft in itertools.product(
            placements, quantizations, compiles, batch_sizes, threads, drafts
        )
    ]
