# SPDX-License-Identifier: Apache-2.0
"""`pip install --no-build-isolation --no-deps .`, for a Python that has ROS 2 but no colcon.

CMakeLists.txt installs everything into a staging folder, and pip installs what lies there. colcon
never reads this file. The folder build/pip-... is kept: a second install compiles nothing.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent.resolve()
BUILD = SOURCE / 'build' / f'pip-{sys.implementation.cache_tag}'
STAGE = BUILD / 'stage'

# CMakeLists.txt has the same list for `ros2 run`.
COMMANDS = {
    'vla_node': 'vla_ros.cli.node',
    'vla_check': 'vla_ros.cli.check',
    'vla_doctor': 'vla_ros.cli.doctor',
    'vla_demo': 'vla_ros.cli.demo',
    'vla_camera': 'vla_ros.cli.camera',
    'vla_simulation': 'vla_ros.cli.simulation',
    'vla_bench': 'vla_ros.cli.bench',
    'vla_eval': 'vla_ros.cli.eval',
    'vla_replay': 'vla_ros.cli.replay',
    'vla_serve': 'vla_ros.cli.serve',
    'vla_console': 'vla_ros.cli.console',
    'vla_checkpoint': 'vla_ros.cli.checkpoint',
    'vla_convert': 'vla_ros.cli.convert',
}


class BuildWithCMake(build_py):
    """Stands in for setuptools' copying of Python files."""

    def run(self) -> None:
        # Nothing is sourced when ROS 2 came as wheels: then it lies in the environment itself.
        ros_prefixes = os.environ.get('AMENT_PREFIX_PATH') or sys.prefix
        discard_unfit_build(ros_prefixes)
        run_cmake(ros_prefixes)

        [package] = (file.parent for file in STAGE.rglob('vla_ros/__init__.py'))
        target = Path(self.build_lib) / 'vla_ros'
        shutil.rmtree(target, ignore_errors=True)  # it may hold a module that was deleted since
        shutil.copytree(package, target, ignore=shutil.ignore_patterns('__pycache__', '*.c'))

        libraries_and_shares = sorted(
            file
            for file in STAGE.rglob('*')
            if file.is_file() and package.parent not in file.parents
        )
        self.distribution.data_files = [
            (str(file.parent.relative_to(STAGE)), [str(file.relative_to(SOURCE))])
            for file in libraries_and_shares
        ]


class CompiledDistribution(Distribution):
    """Ties the wheel to this Python and platform: the messages are extension modules."""

    def has_ext_modules(self) -> bool:
        return True


def discard_unfit_build(ros_prefixes: str) -> None:
    """Empty the build folder unless it was made from these messages, in this place, for this ROS.

    CMake can't change the places afterwards, and leaves the Python of a deleted message behind.
    """
    record = BUILD / 'made_for.json'
    files = [*SOURCE.glob('msg/*.msg'), *SOURCE.glob('action/*.action')]
    messages = sorted(file.name for file in files)
    made_for = json.dumps([str(SOURCE), sys.executable, ros_prefixes, messages])
    if not record.exists() or record.read_text() != made_for:
        shutil.rmtree(BUILD, ignore_errors=True)
        BUILD.mkdir(parents=True)
        record.write_text(made_for)


def run_cmake(ros_prefixes: str) -> None:
    """Build, and install into the staging folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    cmake_prefixes = [ros_prefixes, os.environ.get('CMAKE_PREFIX_PATH')]
    environment = {
        **os.environ,
        'PATH': path,  # cmake and ninja may be wheels, and pip does not put those on the path
        'AMENT_PREFIX_PATH': ros_prefixes,
        'CMAKE_PREFIX_PATH': os.pathsep.join(filter(None, cmake_prefixes)),
    }
    tree = str(BUILD / 'cmake')
    configure = ['cmake', '-S', str(SOURCE), '-B', tree, '-DBUILD_TESTING=OFF']
    configure += [f'-DCMAKE_INSTALL_PREFIX={STAGE}', f'-DPython3_EXECUTABLE={sys.executable}']
    if shutil.which('ninja', path=path):
        configure += ['-G', 'Ninja']
    install = ['cmake', '--build', tree, '--target', 'install', '--parallel', str(os.cpu_count())]

    shutil.rmtree(STAGE, ignore_errors=True)
    subprocess.run(configure, env=environment, check=True)
    subprocess.run(install, env=environment, check=True)


manifest = ElementTree.parse(SOURCE / 'package.xml').getroot()
egg_base = SOURCE / 'build'  # keeps vla_ros.egg-info out of the source tree
egg_base.mkdir(exist_ok=True)

setup(
    name=manifest.findtext('name'),
    version=manifest.findtext('version'),
    description=' '.join(manifest.findtext('description').split()),
    license=manifest.findtext('license'),
    python_requires='>=3.10',
    packages=['vla_ros'],
    zip_safe=False,
    distclass=CompiledDistribution,
    cmdclass={'build_py': BuildWithCMake},
    entry_points={
        'console_scripts': [f'{name} = {module}:main' for name, module in COMMANDS.items()]
    },
    options={'egg_info': {'egg_base': str(egg_base)}},
)
