# SPDX-License-Identifier: Apache-2.0
"""What vla_doctor says of installed packages, devices and the middleware."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

from support.doctor_setups import about, assert_sound
from support.places import ROOT
from vla_ros.doctor import devices, middleware, versions
from vla_ros.doctor.facts import Facts, Setup
from vla_ros.doctor.findings import Finding, Level, fail, ok, run_checks, warn

PROFILE = ROOT / 'config' / 'fastdds.xml'

# -- versions ----------------------------------------------------------------------------------


REQUIRED = {one.name: one for one in versions.read_requirements(ROOT / 'requirements/runtime.txt')}


def install(monkeypatch: pytest.MonkeyPatch, **other: str | None) -> None:
    """Pretend that these packages have other versions, or are missing."""
    real = versions.installed_version
    monkeypatch.setattr(
        versions, 'installed_version', lambda name: other[name] if name in other else real(name)
    )


def test_versions_as_tested() -> None:
    (found,) = versions.check_versions(about())
    assert found.level is Level.OK
    assert f'torch {versions.installed_version("torch")}' in found.text
    assert {one.partition(' ')[0] for one in found.text.split(', ')} == {'Python', *REQUIRED}


def test_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = str(REQUIRED['torch'].specifier).removeprefix('==')
    install(monkeypatch, torch='9.9.0')
    assert warn(
        f'torch is 9.9.0, {tested} was tested: actions may differ, or all may fail',
        f'pip install "torch=={tested}"',
    ) in versions.check_versions(about())


def test_a_torch_that_torchvision_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch='1.0.0')
    needed = versions.needs('torchvision', 'torch')
    assert needed is not None
    torchvision = versions.installed_version('torchvision')
    assert fail(
        f'torchvision {torchvision} needs torch{needed.specifier}, installed is 1.0.0',
        f'install a pair that belongs together: pip install -r {ROOT / "requirements/runtime.txt"}',
    ) in versions.check_versions(about())


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, timm=None, pillow='9.0')
    told = list(versions.check_versions(about()))
    assert told[:2] == [
        fail('timm is not installed', f'pip install -r {ROOT / "requirements/runtime.txt"}'),
        fail('pillow is 9.0, but >=10.1 is needed', 'pip install "pillow>=10.1"'),
    ]


def test_ros_is_there() -> None:
    assert_sound(versions.check_ros(about()))


def test_ros_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, 'find_spec', lambda name: None)
    (found,) = versions.check_ros(about())
    assert found == warn(
        'ROS 2 is not available: rclpy is neither installed in this Python nor sourced',
        'source /opt/ros/DISTRO/setup.bash first; the node does not start without it',
    )


# -- devices -----------------------------------------------------------------------------------


def test_sound_devices() -> None:
    facts = about(device='cpu')
    assert_sound(devices.check_devices(facts))
    assert str(facts.device) == 'cpu'


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    told = run_checks({'devices': devices.check_devices}, about(device='cuda'), lambda _: None)
    assert told[-1].level is Level.FAIL
    assert f"device 'cuda' is not available: torch {torch.__version__} finds" in told[-1].text
    assert told[-1].advice == 'use one of these, or auto'


def test_a_dtype_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: False)
    assert warn(
        'dtype bfloat16 is slow on cpu, which has no kernels for it',
        'set dtype to auto, here float32',
    ) in devices.check_devices(about(device='cpu', dtype='bfloat16'))
    assert_sound(devices.check_devices(about(device='cpu')))


def test_a_driver_that_torch_complains_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def complain() -> int:
        warnings.warn('CUDA initialization: the driver is\ntoo old (found 12000)', stacklevel=1)
        return 0

    monkeypatch.setattr(torch.cuda, 'device_count', complain)
    assert next(devices.check_devices(about())) == warn(
        'torch warns about the GPU: CUDA initialization: the driver is too old (found 12000)',
        'install the torch build for this GPU and driver (pytorch.org/get-started)',
    )


def test_a_driver_whose_gpu_torch_does_not_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, '_NVIDIA_DRIVER', tmp_path)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    found = next(devices.check_devices(about()))
    assert found.level is Level.WARN
    assert 'there is an NVIDIA driver, but torch' in found.text
    assert found.advice.startswith('install the torch build for this GPU')


def test_a_gpu_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*_: object, **__: object) -> None:
        raise RuntimeError('CUDA error: no kernel image is available for execution\nCompile with')

    monkeypatch.setattr(torch, 'ones', ones)
    found = list(devices.check_devices(about(device='cpu', dtype='float32')))[-1]
    assert found == fail(
        'cpu does not multiply in torch.float32: CUDA error: no kernel image is available for '
        'execution Compile with',
        'install the torch build for this GPU and driver (pytorch.org/get-started)',
    )


# -- the middleware ----------------------------------------------------------------------------


def advised(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(middleware, 'ros_distro', lambda: 'jazzy')
    return f'before the camera starts: export FASTRTPS_DEFAULT_PROFILES_FILE={PROFILE}'


def look_at(**environment: str) -> list[Finding]:
    return list(middleware.check_middleware(Facts(Setup()), environment))


def test_a_sound_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    advised(monkeypatch)
    assert_sound(iter(look_at(FASTRTPS_DEFAULT_PROFILES_FILE=str(PROFILE), ROS_DOMAIN_ID='7')))


def test_no_profile_for_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        warn(
            'FASTRTPS_DEFAULT_PROFILES_FILE is not set: an image of 640x480 has 921600 bytes, the '
            'shared memory of a publisher 524288, so it arrives late or not at all',
            advised(monkeypatch),
        )
        in look_at()
    )
    small = Facts(Setup(), image_bytes=100_000)
    assert_sound(middleware.check_middleware(small, {}))


def test_a_profile_under_the_name_of_another_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = advised(monkeypatch)
    found = look_at(FASTDDS_DEFAULT_PROFILES_FILE=str(PROFILE))[1]
    assert found.level is Level.WARN
    assert found.text.startswith(
        'FASTRTPS_DEFAULT_PROFILES_FILE is not set (FASTDDS_DEFAULT_PROFILES_FILE is, which ROS 2 '
        'jazzy does not read)'
    )
    assert found.advice == advice


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        (None, '{} does not exist'),
        ('named pipe', '{} is a named pipe; expected a regular file'),
        ('no xml', 'it is not XML (syntax error: line 1, column 0)'),
        ('<robot/>', 'it is not a profile of Fast DDS, but <robot>'),
        ('<a\u0300\u2060/>', 'it is not XML (not well-formed (invalid token): line 1, column 3)'),
        ('<?xml version="1.0" encoding="none"?><a/>', 'it is not XML (unknown encoding: none)'),
        ('<profiles><segment_size>a</segment_size></profiles>', "segment_size is 'a'"),
        (
            f'<profiles><segment_size>{"9" * 5000}</segment_size></profiles>',
            f"segment_size is '{'9' * 37}...{'9' * 38}'",
        ),
    ],
)
def test_a_profile_that_has_no_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, why: str
) -> None:
    file = tmp_path / 'profile.xml'
    if text == 'named pipe':
        os.mkfifo(file)
    elif text is not None:
        file.write_text(text)
    assert fail(
        f'FASTRTPS_DEFAULT_PROFILES_FILE is {file}, which has no effect: {why.format(file)}',
        advised(monkeypatch),
    ) in look_at(FASTRTPS_DEFAULT_PROFILES_FILE=str(file))


def test_a_profile_with_too_small_a_segment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / 'profile.xml'
    file.write_text(PROFILE.read_text().replace('33554432', '600000'))
    assert warn(
        f'{file} gives a publisher 600000 bytes of shared memory, an image has 921600',
        f'raise segment_size in it, or {advised(monkeypatch)}',
    ) in look_at(FASTRTPS_DEFAULT_PROFILES_FILE=str(file))


def test_variables_of_ros() -> None:
    assert look_at(ROS_DOMAIN_ID='300')[0] == fail(
        "ROS_DOMAIN_ID is '300'", 'set it to 0 to 101, or unset it'
    )
    assert look_at(ROS_AUTOMATIC_DISCOVERY_RANGE='OFF')[1].level is Level.WARN
    assert look_at(ROS_AUTOMATIC_DISCOVERY_RANGE='LOCAL')[1] == fail(
        "ROS_AUTOMATIC_DISCOVERY_RANGE is 'LOCAL'",
        'set it to one of: SUBNET, LOCALHOST, OFF, SYSTEM_DEFAULT',
    )
    assert look_at(ROS_LOCALHOST_ONLY='1')[1].level is Level.OK
    assert look_at(RMW_IMPLEMENTATION='rmw_cyclonedds_cpp')[-1] == ok(
        'rmw_cyclonedds_cpp: it does not use config/fastdds.xml'
    )


def test_a_full_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 1000, 1000

    monkeypatch.setattr(middleware.os, 'statvfs', lambda path: Full)
    assert look_at()[-1] == warn(
        '/dev/shm has 1 MB free, a segment takes 0.5',
        'start the node (it removes the segments of dead processes), run fastdds shm clean, '
        'or give the container more: docker run --shm-size=1g',
    )
