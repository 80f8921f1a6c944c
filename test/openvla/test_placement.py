# SPDX-License-Identifier: Apache-2.0
"""Which device and dtype are chosen, on machines that this one only pretends to be."""

from __future__ import annotations

import pytest
import torch

from vla_ros.openvla import PlacementError
from vla_ros.openvla.placement import choose_device, choose_dtype


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
