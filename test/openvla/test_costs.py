# SPDX-License-Identifier: Apache-2.0
"""What a block of tokens costs, by what multiplies it."""

from __future__ import annotations

import math

import pytest
import torch

from vla_ros.openvla import costs
from vla_ros.openvla.costs import Kernel, block_cost
from vla_ros.openvla.placement import DTYPES, QUANTIZATIONS, Placement

CPU, GPU = torch.device('cpu'), torch.device('cuda:0')


@pytest.mark.parametrize('onednn', [True, False])
@pytest.mark.parametrize('device', [CPU, GPU, torch.device('mps')], ids=str)
def test_every_placement_has_a_cost(
    device: torch.device, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, 'has_bfloat16', lambda device: onednn)
    for dtype in DTYPES.values():
        for quantization in QUANTIZATIONS:
            cost = block_cost(Placement(device, dtype, quantization))
            assert cost == 1 if device != CPU else 1 <= cost < math.inf


@pytest.mark.parametrize(
    ('dtype', 'quantization', 'onednn', 'kernel'),
    [
        ('float32', 'none', True, Kernel.CPU_FLOAT32),
        ('bfloat16', 'none', True, Kernel.CPU_BFLOAT16_ONEDNN),
        ('bfloat16', 'none', False, Kernel.CPU_BFLOAT16),
        ('float16', 'none', True, Kernel.CPU_FLOAT16),
        ('bfloat16', 'int8', True, Kernel.CPU_INT8),
        ('float32', 'int4', False, Kernel.CPU_INT4),
    ],
)
def test_the_kernel_of_a_placement(
    dtype: str, quantization: str, onednn: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, 'has_bfloat16', lambda device: onednn)
    assert Kernel.of(Placement(CPU, DTYPES[dtype], quantization)) is kernel
    assert Kernel.of(Placement(GPU, DTYPES[dtype], quantization)) is Kernel.GPU
