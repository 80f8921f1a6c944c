# SPDX-License-Identifier: Apache-2.0
"""Checks the available devices, the chosen one, and whether it computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, ok, one_line, warn

if TYPE_CHECKING:
    import torch

_NVIDIA_DRIVER = Path('/proc/driver/nvidia/version')
_GET_TORCH = 'install the torch build for this GPU and driver (pytorch.org/get-started)'

# As torch.cpu names them: instructions that multiply such types, not only convert them.
_BFLOAT16 = ('amx_bf16', 'avx512_bf16', 'bf16', 'sve_bf16')
_INT8 = ('amx_int8', 'avx512_vnni', 'avx_vnni')


def check_devices(facts: Facts) -> Iterator[Finding]:
    """Check the device and the dtype.

    :raises PlacementError: if the requested one is not available.
    """
    if facts.is_remote:
        yield ok('the policy runs on a server')
        return
    import torch

    from vla_ros.openvla.placement import (
        available_devices,
        check_quantization,
        choose_device,
        choose_dtype,
    )

    request = facts.request
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        available = available_devices()
    yield from _driver(caught, available)
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    facts.device, facts.dtype = device, dtype
    check_quantization(request.quantization, device, dtype, request.compile)
    name = str(dtype).removeprefix('torch.')
    if device.type == 'cuda':
        name = f'{name} ({torch.cuda.get_device_name(device)})'
    yield ok(f'torch sees {", ".join(available)}; {request.device} takes {device} in {name}')
    yield from _dtype(device, dtype)
    if device.type == 'cpu':
        yield _kernels(torch.cpu.get_capabilities())
    yield from _trial(device, dtype)


def _driver(caught: list[warnings.WarningMessage], available: list[str]) -> Iterator[Finding]:
    """Yield the warnings of torch while it looked for GPUs."""
    import torch

    for text in dict.fromkeys(' '.join(str(one.message).split()) for one in caught):
        yield warn(f'torch warns about the GPU: {text}', _GET_TORCH)
    if not caught and available == ['cpu'] and _NVIDIA_DRIVER.exists():
        built = torch.version.cuda
        why = f'it was built for CUDA {built}' if built else 'it was built without CUDA'
        yield warn(
            f'there is an NVIDIA driver, but torch {torch.__version__} finds no GPU; {why}',
            _GET_TORCH,
        )


def _dtype(device: torch.device, dtype: torch.dtype) -> Iterator[Finding]:
    """Warn if the device only emulates the dtype."""
    import torch

    from vla_ros.openvla.placement import choose_dtype

    best = choose_dtype('auto', device)
    name, better = (str(one).removeprefix('torch.') for one in (dtype, best))
    advice = f'set dtype to auto, here {better}'
    lacking = dtype == torch.bfloat16 != best
    if dtype == torch.float16 and device.type == 'cpu':
        lacking = not torch.ops.mkldnn._is_mkldnn_fp16_supported()
    if lacking and device.type == 'mps':
        yield fail(f'dtype {name} needs macOS 14', advice)
    elif lacking:
        yield warn(f'dtype {name} is slow on {device}, which has no kernels for it', advice)


def _kernels(capabilities: Mapping[str, Any]) -> Finding:
    """Return a finding about the CPU's instructions; their speed is not measured."""
    words = []
    for name, instructions in (('bfloat16', _BFLOAT16), ('int8', _INT8)):
        found = [one for one in instructions if capabilities.get(one)]
        words.append(f'{name} fast ({", ".join(found)})' if found else f'{name} not fast')
    return ok(f"the CPU's kernels: {'; '.join(words)}")


def _trial(device: torch.device, dtype: torch.dtype) -> Iterator[Finding]:
    """Multiply small matrices: the only way to detect a GPU for which torch has no kernels."""
    import torch

    try:
        ones = torch.ones(8, 8, device=device, dtype=dtype)
        total = float((ones @ ones).sum())
    except (RuntimeError, NotImplementedError) as error:
        first = one_line(error).partition('. ')[0]
        yield fail(f'{device} does not multiply in {dtype}: {first}', _GET_TORCH)
        return
    if total != 8**3:
        yield fail(f'{device} multiplies wrongly: {total:g} instead of {8**3}', _GET_TORCH)
