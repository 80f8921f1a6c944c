# SPDX-License-Identifier: Apache-2.0
"""The choice of device, dtype and quantization, checked against this machine.

Runs in the thread that builds the policy. Independent of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vla_ros.openvla.errors import PlacementError
from vla_ros.openvla.products import sums_are_exact

DTYPES = {
    'float32': torch.float32,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}
QUANTIZATIONS = ('none', 'int8', 'int4')


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs.

    :param dtype: of the activations, and of all weights that are not quantised.
    :param quantization: one of ``QUANTIZATIONS``.
    :param compile: whether the layers run through torch.compile.
    """

    device: torch.device
    dtype: torch.dtype
    quantization: str = 'none'
    compile: bool = False

    @classmethod
    def choose(cls, device: str, dtype: str, quantization: str, compile: bool) -> Placement:
        """Resolve ``auto``, and check that this machine has it.

        :raises PlacementError: if a name is unknown, or the four do not go together here.
        """
        chosen = choose_device(device)
        placement = cls(chosen, choose_dtype(dtype, chosen), quantization, compile)
        check_quantization(quantization, chosen, placement.dtype, compile)
        check_float32(chosen, placement.dtype)
        return placement

    @property
    def dtype_name(self) -> str:
        """The dtype's name without ``torch.``."""
        return str(self.dtype).removeprefix('torch.')


def available_devices() -> list[str]:
    """Return the devices that torch finds, best first."""
    devices = [f'cuda:{index}' for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append('mps')
    return [*devices, 'cpu']


def choose_device(device: str) -> torch.device:
    """Resolve ``auto``, ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.

    :raises PlacementError: if the name is unknown, or this machine has no such device.
    """
    available = available_devices()
    if device == 'auto':
        return torch.device(available[0])
    if device == 'cuda' and 'cuda:0' in available:
        return torch.device('cuda:0')
    if device in available:
        return torch.device(device)
    well_formed = device in ('cuda', 'mps', 'cpu') or (
        device.startswith('cuda:') and device[5:].isdecimal()
    )
    if not well_formed:
        raise PlacementError(
            f'device {device!r} is unknown',
            value=device,
            expected=f'one of auto, {", ".join(available)}',
        )
    raise PlacementError(
        f'device {device!r} is not available: torch {torch.__version__} finds '
        f'{", ".join(available)} on this machine',
        'use one of these, or auto',
    )


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolve ``auto`` or a name.

    ``auto`` is bfloat16, the dtype OpenVLA was trained and published in, except where the device
    lacks it: float16 on CUDA before compute capability 8.0 and macOS before 14, float32 on a CPU
    whose products of bfloat16 would be slower (x86 without AVX512, ARM without bf16).

    :raises PlacementError: if the name is unknown.
    """
    if dtype == 'auto':
        if has_bfloat16(device):
            return torch.bfloat16
        return torch.float32 if device.type == 'cpu' else torch.float16
    if dtype not in DTYPES:
        raise PlacementError(
            f'dtype {dtype!r} is unknown',
            value=dtype,
            expected=f'one of auto, {", ".join(DTYPES)}',
        )
    return DTYPES[dtype]


def check_quantization(
    quantization: str, device: torch.device, dtype: torch.dtype, compile: bool = False
) -> None:
    """Check the quantization together with the other settings.

    :raises PlacementError: if it is unknown, or not available with the others.
    """
    if quantization not in QUANTIZATIONS:
        raise PlacementError(
            f'quantization {quantization!r} is unknown',
            value=quantization,
            expected=f'one of {", ".join(QUANTIZATIONS)}',
        )
    if quantization == 'int4' and device.type == 'cuda' and not sums_are_exact(device):
        capability = torch.cuda.get_device_capability(device)
        if dtype != torch.bfloat16 or capability < (8, 0):
            raise PlacementError(
                f'quantization int4 on {device} needs products of int8, which torch does not have '
                'or gets wrong there, or dtype bfloat16 and compute capability 8.0; these are '
                f'{str(dtype).removeprefix("torch.")} and {".".join(map(str, capability))}',
                'take int8',
            )
    if quantization != 'none' and device.type == 'cpu' and compile:
        raise PlacementError(
            f'quantization {quantization} on the cpu does not go with compile',
            'set compile to false',
        )


def check_float32(device: torch.device, dtype: torch.dtype) -> None:
    """Check that products of float32 are exact on the device, if that is the dtype.

    Others who use torch in this process may have it round factors to TF32 or bfloat16. The switch
    belongs to the whole process, so the policy does not set it.

    :raises PlacementError: if they are rounded.
    """
    if dtype != torch.float32 or (switch := _rounding_switch(device)) is None:
        return
    name, value = switch
    raise PlacementError(
        f'dtype float32 on {device} is not exact in this process: {name} is {value!r}',
        'set the switch, or take dtype bfloat16',
        value=value,
        expected="'ieee' or 'none'",
    )


def _rounding_switch(device: torch.device) -> tuple[str, str] | None:
    """Return the name and the value of a switch that rounds float32 factors; None if none does.

    Convolutions on CUDA are not among them: :class:`.PatchConv` makes none.
    """
    backends: dict[str, tuple[str, ...]] = {'cuda': ('matmul',), 'cpu': ('matmul', 'conv')}
    library = 'mkldnn' if device.type == 'cpu' else device.type
    for part in backends.get(device.type, ()):
        value = getattr(getattr(torch.backends, library), part).fp32_precision
        if value not in ('none', 'ieee'):
            return f'torch.backends.{library}.{part}.fp32_precision', value
    return None


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queue, so that times include it."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def to_device(
    tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return a tensor of the CPU on the device; on CUDA without a wait for what is queued there."""
    if device.type != 'cuda':
        return tensor.to(device=device, dtype=dtype)
    return tensor.to(dtype=dtype).pin_memory().to(device, non_blocking=True)


def empty_cache(device: torch.device) -> None:
    """Give the memory that torch keeps in reserve back to the device."""
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    elif device.type == 'mps':
        torch.mps.empty_cache()


def has_bfloat16(device: torch.device) -> bool:
    """Return whether products of bfloat16 are fast on the device; on a CPU oneDNN makes them."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == 'mps':
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
