# SPDX-License-Identifier: Apache-2.0
"""Description of the machine that a figure was measured on: CPU, GPUs, memory and versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vla_ros.measure.memory import machine_bytes
from vla_ros.openvla.placement import available_devices

# The instructions that determine a CPU's speed in small dtypes.
_X86_FLAGS = ('avx2', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'avx_vnni', 'amx_bf16', 'amx_int8')
_ARM_FLAGS = ('asimd', 'bf16', 'i8mm', 'sve')


def describe_machine() -> dict[str, Any]:
    """Return the facts about this machine that a figure depends on."""
    cuda = range(torch.cuda.device_count())
    flags = _cpuinfo('flags', 'Features').split()
    return {
        'cpu': _cpu_name(),
        'cores': os.cpu_count(),
        'cpu_flags': [flag for flag in (*_X86_FLAGS, *_ARM_FLAGS) if flag in flags],
        'memory_gb': round(machine_bytes() / 1e9, 1),
        'devices': available_devices(),
        'gpus': [torch.cuda.get_device_name(index) for index in cuda],
        'system': platform.platform(),
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def _cpu_name() -> str:
    if sys.platform == 'darwin':
        command = ['sysctl', '-n', 'machdep.cpu.brand_string']
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return _cpuinfo('model name') or platform.processor() or platform.machine()


def _cpuinfo(*names: str) -> str:
    """Return the first value in /proc/cpuinfo under one of the names; empty if there is none."""
    path = Path('/proc/cpuinfo')
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(':')
        if name.strip() in names:
            return value.strip()
    return ''
