# SPDX-License-Identifier: Apache-2.0
"""Compares the installed packages with the tested versions; checks ROS 2."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, ok, one_line, warn
from vla_ros.release import ros_distro
from vla_ros.share import share_file

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def check_versions(facts: Facts) -> Iterator[Finding]:
    """Check the installed packages."""
    file = share_file('requirements/runtime.txt')
    fit = [f'Python {platform.python_version()}']
    for requirement in read_requirements(file):
        name, version = requirement.name, installed_version(requirement.name)
        if version is None:
            yield fail(f'{name} is not installed', f'pip install -r {file}')
        elif requirement.specifier.contains(version, prereleases=True):
            fit.append(f'{name} {version}')
        elif all(one.operator == '==' for one in requirement.specifier):
            tested = str(requirement.specifier).removeprefix('==')
            yield warn(
                f'{name} is {version}, {tested} was tested: actions may differ, or all may fail',
                f'pip install "{requirement}"',
            )
        else:
            yield fail(
                f'{name} is {version}, but {requirement.specifier} is needed',
                f'pip install "{requirement}"',
            )
    yield ok(', '.join(fit))
    yield from _torchvision_fit(file)


def read_requirements(file: Path) -> list[Requirement]:
    """Return the requirements of a pip file that only names packages."""
    from packaging.requirements import Requirement

    lines = (line.partition('#')[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def needs(package: str, other: str) -> Requirement | None:
    """Return an installed package's requirement of another package."""
    from packaging.requirements import Requirement

    for line in metadata.requires(package) or ():
        requirement = Requirement(line)
        if requirement.name == other and requirement.marker is None:
            return requirement
    return None


def _torchvision_fit(file: Path) -> Iterator[Finding]:
    """Check that torchvision was built for this torch; otherwise importing it fails."""
    torch, torchvision = map(installed_version, ('torch', 'torchvision'))
    if torch is None or torchvision is None:
        return
    needed = needs('torchvision', 'torch')
    if needed is not None and not needed.specifier.contains(torch, prereleases=True):
        yield fail(
            f'torchvision {torchvision} needs torch{needed.specifier}, installed is {torch}',
            f'install a pair that belongs together: pip install -r {file}',
        )


def check_ros(facts: Facts) -> Iterator[Finding]:
    """Check ROS 2, our messages, and the converters of images."""
    if find_spec('rclpy') is None:
        yield warn(
            'ROS 2 is not available: rclpy is neither installed in this Python nor sourced',
            'source /opt/ros/DISTRO/setup.bash first; the node does not start without it',
        )
        return
    import rclpy

    yield ok(
        f'ROS 2 {ros_distro() or "of unknown name"}, {rclpy.get_rmw_implementation_identifier()}'
    )
    try:
        import vla_ros.msg  # noqa: F401
    except ImportError as error:
        yield fail(
            f'the messages of this package cannot be loaded: {one_line(error)}',
            "source install/setup.bash of the workspace, built with this Python and ROS 2's",
        )
        return
    from vla_ros.images.raw import backend

    yield ok(f'images are converted by: {backend()}')
