# SPDX-License-Identifier: Apache-2.0
"""Which device and dtype are chosen, on machines that this one only pretends to be."""

from __future__ import annotations

import pytest
import torch

from vla_ros.openvla import PlacementError
from vla_ros.openvla.placement import check_float32, choose_device, choose_dtype
from vla_ros.openvla.vision import PatchConv


class Machine:
    """Pretends to be one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.has(cuda_devices=0, mps=False)

    def has(
        self,
        cuda_devices: int = 0,
        mps: bool = False,
        capability: tuple[int, int] = (8, 0),
        macos: tuple[int, int] = (14, 0),
        cpu_bfloat16: bool = True,
    ) -> None:
        patch = self._monkeypatch.setattr
        patch(torch.cuda, 'device_count', lambda: cuda_devices)
        patch(torch.cuda, 'get_device_capability', lambda device: capability)
        patch(torch.backends.mps, 'is_available', lambda: mps)
        patch(torch.backends.mps, 'is_macos_or_newer', lambda *asked: macos >= asked)
        patch(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: cpu_bfloat16)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_auto_takes_the_best_there_is(machine: Machine) -> None:
    assert choose_device('auto') == torch.device('cpu')
    machine.has(mps=True)
    assert choose_device('auto') == torch.device('mps')
    machine.has(cuda_devices=2, mps=True)
    assert choose_device('auto') == torch.device('cuda:0')


def test_devices_by_name(machine: Machine) -> None:
    machine.has(cuda_devices=2)
    assert choose_device('cuda') == torch.device('cuda:0')
    assert choose_device('cuda:1') == torch.device('cuda:1')
    assert choose_device('cpu') == torch.device('cpu')


@pytest.mark.parametrize('device', ['cuda', 'cuda:0', 'mps'])
def test_a_device_that_is_not_here(machine: Machine, device: str) -> None:
    with pytest.raises(PlacementError, match=rf"'{device}' is not available: .* finds cpu"):
        choose_device(device)


def test_a_cuda_device_too_many(machine: Machine) -> None:
    machine.has(cuda_devices=2)
    with pytest.raises(PlacementError, match=r"'cuda:2' is not available: .* cuda:0, cuda:1, cpu"):
        choose_device('cuda:2')


@pytest.mark.parametrize('device', ['gpu', 'CUDA', 'cuda:', 'cuda:x', 'cuda:-1', '', 'xla'])
def test_a_device_that_does_not_exist(machine: Machine, device: str) -> None:
    with pytest.raises(PlacementError, match=rf"'{device}' is unknown; expected one of auto, cpu"):
        choose_device(device)


def test_dtype_auto(machine: Machine) -> None:
    cuda, mps, cpu = (torch.device(name) for name in ('cuda:0', 'mps', 'cpu'))
    machine.has(cpu_bfloat16=True)
    assert choose_dtype('auto', cpu) == torch.bfloat16
    machine.has(cpu_bfloat16=False)
    assert choose_dtype('auto', cpu) == torch.float32
    machine.has(cuda_devices=1, capability=(8, 6))
    assert choose_dtype('auto', cuda) == torch.bfloat16
    machine.has(cuda_devices=1, capability=(7, 5))
    assert choose_dtype('auto', cuda) == torch.float16
    machine.has(mps=True, macos=(14, 0))
    assert choose_dtype('auto', mps) == torch.bfloat16
    machine.has(mps=True, macos=(13, 6))
    assert choose_dtype('auto', mps) == torch.float16


def test_dtype_by_name() -> None:
    assert choose_dtype('float32', torch.device('cpu')) == torch.float32
    with pytest.raises(PlacementError) as caught:
        choose_dtype('int8', torch.device('cpu'))
    assert caught.value.value == "'int8'"
    assert caught.value.expected == 'one of auto, float32, bfloat16, float16'


@pytest.mark.parametrize(
    ('device', 'backend', 'part', 'value'),
    [
        ('cuda:0', 'cuda', 'matmul', 'tf32'),
        ('cpu', 'mkldnn', 'matmul', 'bf16'),
        ('cpu', 'mkldnn', 'conv', 'tf32'),
    ],
)
def test_float32_that_is_rounded_is_refused(
    device: str, backend: str, part: str, value: str
) -> None:
    switch = getattr(getattr(torch.backends, backend), part)
    before = switch.fp32_precision
    where = torch.device(device)
    try:
        switch.fp32_precision = 'ieee'
        check_float32(where, torch.float32)
        switch.fp32_precision = value
        check_float32(where, torch.bfloat16)
        check_float32(torch.device('mps'), torch.float32)
        with pytest.raises(PlacementError, match=rf'torch.backends.{backend}.{part}.*{value}'):
            check_float32(where, torch.float32)
    finally:
        switch.fp32_precision = before


def test_patches_by_a_product_are_those_of_the_convolution() -> None:
    """CUDA takes the product in float32; the weights are the convolution's own."""
    torch.manual_seed(0)
    for bias in (True, False):
        one = PatchConv(3, 20, 14, 14, bias=bias).requires_grad_(False)
        x = torch.randn(2, 3, 42, 56)
        torch.testing.assert_close(one.product(x), one(x), rtol=1e-5, atol=1e-5)
