# SPDX-License-Identifier: Apache-2.0
"""Memory of the machine and its devices: total, available, and a process's peak."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path('/proc/self/status')  # Linux only
_MEMINFO = Path('/proc/meminfo')
_RESET_PEAK = (Path('/proc/self/clear_refs'), '5')  # man 5 proc_pid_clear_refs


class PeakMemory:
    """The peak memory since this object was made.

    :param device: ``cpu``, ``mps`` or ``cuda:N``.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        path, command = _RESET_PEAK
        try:
            path.write_text(command)
        except OSError:  # no Linux, or not permitted: then it is the peak since the process began
            self._resident_before = 0
        else:
            self._resident_before = _kilobytes(_STATUS, 'VmRSS') * 1024
        if self._device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self._device)
        self._device_before = self._on_device()

    def resident_bytes(self) -> int:
        """Return the process's peak memory, with mapped files."""
        if _STATUS.exists():
            return _kilobytes(_STATUS, 'VmHWM') * 1024
        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def added_resident_bytes(self) -> int:
        """Return the process's peak memory minus its memory when this object was made."""
        return self.resident_bytes() - self._resident_before

    def added_device_bytes(self) -> int | None:
        """Return the device's peak memory minus its memory before; None on the CPU.

        MPS records no peak: there it is the memory that torch holds now.
        """
        return None if self._device.type == 'cpu' else self._on_device() - self._device_before

    def _on_device(self) -> int:
        if self._device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self._device)
        return torch.mps.driver_allocated_memory() if self._device.type == 'mps' else 0


def available_bytes(device: str) -> int:
    """Return the memory that can still be allocated on a device."""
    if device.startswith('cuda'):
        return torch.cuda.mem_get_info(device)[0]
    if device == 'mps':
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if _MEMINFO.exists():
        return _kilobytes(_MEMINFO, 'MemAvailable') * 1024
    return machine_bytes()


def machine_bytes() -> int:
    """Return the machine's total memory."""
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _kilobytes(path: Path, name: str) -> int:
    """Return the number of a line such as ``VmHWM:   123456 kB``."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(f'{name}:'))
    return int(line.split()[1])
