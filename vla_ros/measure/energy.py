# SPDX-License-Identifier: Apache-2.0
"""Energy that a device used, from the counter of the GPU's driver or of the CPU.

A counter covers the whole device: all that ran there, also of other programs.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_POWERCAP = Path('/sys/class/powercap')  # Linux, on Intel's and AMD's CPUs
_NVML = 'nvidia-ml'  # comes with NVIDIA's driver
_NVML_ERROR = 'the driver tells no energy of this card'


@dataclass(frozen=True)
class EnergyMeter:
    """A counter of energy.

    :param source: name of the counter, for the user; where ``read`` is None, why there is none.
    :param read: returns the joules since some moment; None if the device does not tell.
    """

    source: str
    read: Callable[[], float] | None = None


def energy_meter(device: str) -> EnergyMeter:
    """Return the counter of a device.

    :param device: ``cpu``, ``mps`` or ``cuda:N``.
    """
    if device.startswith('cuda'):
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return nvml_meter(uuid)
    if device == 'cpu':
        return rapl_meter()
    return EnergyMeter('not told: macOS tells energy to powermetrics, as root, only')


def nvml_meter(uuid: str, library: str | None = None) -> EnergyMeter:
    """Return the counter of an NVIDIA card, from Volta on.

    :param uuid: with or without the prefix ``GPU-``.
    :param library: file of the driver's management library; None: the system's.
    """
    try:
        nvml = ctypes.CDLL(library or ctypes.util.find_library(_NVML) or f'lib{_NVML}.so.1')
    except OSError:
        return EnergyMeter("not told: the driver's library nvidia-ml is not here")
    handle, name = ctypes.c_void_p(), f'GPU-{uuid.removeprefix("GPU-")}'.encode()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        return EnergyMeter(f'not told: {_NVML_ERROR}')

    def read() -> float:
        """Return the joules; raise OSError if the driver tells none."""
        millijoules = ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
            raise OSError(_NVML_ERROR)
        return millijoules.value / 1e3

    try:
        read()
    except OSError as error:
        return EnergyMeter(f'not told: {error}')
    return EnergyMeter('NVML, the whole card', read)


def rapl_meter(powercap: Path = _POWERCAP) -> EnergyMeter:
    """Return the counter of all packages of the CPU (RAPL); Linux lets root alone read it.

    :param powercap: the system's folder of such counters.
    """
    packages = [
        folder
        for folder in sorted(powercap.glob('intel-rapl:*'))
        if folder.name.count(':') == 1 and (folder / 'energy_uj').exists()
    ]
    if not packages:
        return EnergyMeter('not told: this system has no counter (RAPL)')
    try:
        counters = [_Counter(folder) for folder in packages]
    except OSError as error:
        return EnergyMeter(f'not told: {error}')
    return EnergyMeter('RAPL, the whole CPU', lambda: sum(one.joules() for one in counters))


class _Counter:
    """One package's counter, which begins anew at its range; read at least once in a round."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / 'energy_uj'
        self._range_uj = int((folder / 'max_energy_range_uj').read_text())
        self._last_uj = self._read_uj()
        self._total_uj = 0

    def joules(self) -> float:
        """Return the energy since this object was made."""
        now = self._read_uj()
        self._total_uj += (now - self._last_uj) % (self._range_uj + 1)
        self._last_uj = now
        return self._total_uj / 1e6

    def _read_uj(self) -> int:
        return int(self._file.read_text())
