# SPDX-License-Identifier: Apache-2.0
"""Counters of energy: those of a made-up driver and of a made-up system."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vla_ros.measure.energy import nvml_meter, rapl_meter

UUID = '0f2e-42'
NVML = """
#include <string.h>
static int card;
static unsigned long long energy = 5000000000000ULL;  /* mJ: more than 32 bits */
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = &card;
    return strcmp(uuid, "GPU-0f2e-42") ? 6 : 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out) {
    if (device != &card || OLD) return 3;
    *out = energy += 1500;
    return 0;
}
"""


@pytest.fixture(scope='module', params=[0, 1], ids=['Volta', 'older'])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A driver's library; an older card tells no energy."""
    folder = tmp_path_factory.mktemp('driver')
    (folder / 'nvml.c').write_text(NVML)
    built = folder / 'libnvml.so'
    command = ['cc', '-shared', '-fPIC', f'-DOLD={request.param}', '-o', built, folder / 'nvml.c']
    subprocess.run(command, check=True)
    return f'{built}#{request.param}'


def test_the_counter_of_a_card(library: str) -> None:
    file, _, is_old = library.partition('#')
    meter = nvml_meter(f'GPU-{UUID}', file)
    if is_old == '1':
        assert meter.read is None and meter.source.startswith('not told')
        return
    assert meter.read is not None and meter.source == 'NVML, the whole card'
    first = meter.read()
    assert first > 5e9
    assert meter.read() - first == pytest.approx(1.5)
    assert nvml_meter('another', file).source == 'not told: the driver tells no energy of this card'


def test_no_driver() -> None:
    meter = nvml_meter(UUID, '/nowhere/libnvidia-ml.so.1')
    assert meter.read is None and 'is not here' in meter.source


def test_the_counters_of_a_cpu_begin_anew(tmp_path: Path) -> None:
    energies = []
    for number, start_uj in enumerate((9_000_000, 0)):
        package = tmp_path / f'intel-rapl:{number}'
        package.mkdir()
        (package / 'max_energy_range_uj').write_text('9999999\n')
        (package / 'energy_uj').write_text(f'{start_uj}\n')
        energies.append(package / 'energy_uj')
    inner = tmp_path / 'intel-rapl:0:0'  # the cores, a part of the package
    inner.mkdir()
    (inner / 'energy_uj').write_text('1')
    meter = rapl_meter(tmp_path)
    assert meter.read is not None and meter.source == 'RAPL, the whole CPU'
    assert meter.read() == 0
    energies[0].write_text('500000\n')
    energies[1].write_text('2000000\n')
    assert meter.read() == pytest.approx(1.5 + 2.0)
    energies[0].write_text('500001\n')
    assert meter.read() == pytest.approx(3.500001)


def test_a_cpu_that_tells_nothing(tmp_path: Path) -> None:
    assert rapl_meter(tmp_path).source == 'not told: this system has no counter (RAPL)'
    package = tmp_path / 'intel-rapl:0'
    package.mkdir()
    (package / 'energy_uj').mkdir()  # as unreadable as what only root may read
    (package / 'max_energy_range_uj').write_text('1')
    meter = rapl_meter(tmp_path)
    assert meter.read is None and meter.source.startswith('not told: [Errno')
