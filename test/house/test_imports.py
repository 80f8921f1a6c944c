# SPDX-License-Identifier: Apache-2.0
"""The arrows of imports, read from the sources; heavy ones also in fresh interpreters.

A room is a folder of ``vla_ros`` or a file beside them.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest

from support.places import ROOT

PACKAGE = ROOT / 'vla_ros'

# From top to bottom. A room imports rooms of lower floors and none of its own floor.
FLOORS = (
    {'cli'},
    {'demo'},
    {'doctor', 'evaluation', 'operating', 'pipeline', 'replay'},
    {'bench', 'client', 'ros', 'serving', 'web'},
    {
        *('convert', 'graph', 'measure', 'parameters', 'policies', 'simulation', 'synthetic'),
        *('recording', 'view'),
    },
    {'remote'},
    {'motion', 'openvla', 'scheduling', 'scripted'},
    {'policy_request', 'wire'},
    {'drawing', 'images', 'types'},
    {
        'clock',
        'console',
        'files',
        'hosts',
        'launching',
        'reasons',
        'release',
        'share',
        'shared_memory',
        'watchdog',
        'yaml_text',
    },
    {'errors'},
    {'text'},
)

# No import of ROS in these, not even in a function.
WITHOUT_ROS = {
    *('bench', 'convert', 'measure', 'motion', 'openvla', 'parameters', 'policies', 'remote'),
    *('recording', 'replay', 'scheduling', 'serving'),
    *('policy_request', 'scripted', 'simulation', 'synthetic', 'types', 'view', 'watchdog', 'web'),
    'wire',
}
ROS = {
    *('builtin_interfaces', 'cv_bridge', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs'),
    *('rcl_interfaces', 'rclpy', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs'),
    'trajectory_msgs',
}

POLICY = ['torch', 'transformers', 'timm', 'vla_ros.openvla']
HEAVY = [*POLICY, 'PIL', 'rclpy', 'huggingface_hub', 'vla_ros.ros']


@functools.cache
def imports() -> list[tuple[str, str, str]]:
    """``(file, room, imported module)`` of every import statement, also of those in functions."""
    found = []
    for file in sorted(PACKAGE.rglob('*.py')):
        path = file.relative_to(PACKAGE)
        room = path.parts[0].removesuffix('.py')
        tree = ast.parse(file.read_text())
        found += [(str(path), room, module) for module in imported_modules(tree)]
    return found


def imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, 'imports are absolute here'
            if node.module == 'vla_ros':
                yield from (f'vla_ros.{alias.name}' for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # As in the registry of policies: imported when it is asked for.
            yield from re.findall(r'^(vla_ros(?:\.\w+)+):\w+$', node.value)


def arrows() -> dict[tuple[str, str], set[str]]:
    """``(room, imported room)`` and the files that have the import."""
    found = defaultdict(set)
    for file, room, module in imports():
        package, _, rest = module.partition('.')
        other = rest.partition('.')[0]
        if package == 'vla_ros' and other not in ('', room, 'msg', 'action'):
            found[room, other].add(file)
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {
        file.relative_to(PACKAGE).parts[0].removesuffix('.py') for file in PACKAGE.rglob('*.py')
    }
    floors = [room for floor in FLOORS for room in floor]
    assert sorted(floors) == sorted(rooms - {'__init__', 'msg', 'action'})


def test_imports_point_downwards() -> None:
    floor_of = {room: index for index, floor in enumerate(FLOORS) for room in floor}
    wrong = {
        f'{room} -> {other}': sorted(files)
        for (room, other), files in arrows().items()
        if floor_of[room] >= floor_of[other]
    }
    assert not wrong


def test_rooms_without_ros_do_not_import_it() -> None:
    wrong = {
        file: module
        for file, room, module in imports()
        if room in WITHOUT_ROS and (module.partition('.')[0] in ROS or module == 'vla_ros.msg')
    }
    assert not wrong


def modules_after(statement: str) -> set[str]:
    script = f'import sys\nbefore = set(sys.modules)\n{statement}\n'
    script += 'print(*sorted(set(sys.modules) - before))'
    command = [sys.executable, '-c', script]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(printed.split())


@pytest.mark.parametrize(
    ('modules', 'kept_out'),
    [
        (['vla_ros'], [*HEAVY, 'numpy']),
        (['vla_ros.watchdog'], [*HEAVY, 'numpy']),
        (['vla_ros.parameters.overrides', 'vla_ros.parameters.check'], [*HEAVY, 'numpy']),
        (['vla_ros.scheduling', 'vla_ros.motion', 'vla_ros.types'], HEAVY),
        (['vla_ros.view'], [*POLICY, 'rclpy']),
        (['vla_ros.policy_request', 'vla_ros.policies'], [*HEAVY, 'numpy', 'vla_ros.scripted']),
        (
            ['vla_ros.images.raw', 'vla_ros.images.compressed'],
            [*POLICY, 'cv2', 'cv_bridge', 'rclpy'],
        ),
        # MuJoCo and LIBERO come with the first world, matplotlib with the plot, tkinter with the
        # window, torch with the first policy that needs it, rerun with the first file for it.
        (
            [
                *('vla_ros.evaluation.plot', 'vla_ros.evaluation.window', 'vla_ros.replay.compare'),
                *('vla_ros.replay.run', 'vla_ros.pipeline.summary', 'vla_ros.simulation.expert'),
                'vla_ros.replay.timeline',
            ],
            [
                *(*POLICY, 'rclpy', 'matplotlib', 'mujoco', 'robosuite', 'libero', 'OpenGL'),
                *('tkinter', 'rerun', 'pyarrow'),
            ],
        ),
        (
            ['vla_ros.bench.report', 'vla_ros.cli.bench', 'vla_ros.openvla'],
            ['rclpy', 'vla_ros.msg'],
        ),
        # Ray takes its settings from the environment when it is imported.
        (['vla_ros.cli.serve', 'vla_ros.serving.application'], [*POLICY, 'rclpy', 'ray']),
        (['vla_ros.web.server', 'vla_ros.cli.console'], [*POLICY, 'rclpy', 'vla_ros.ros']),
        # The node answers services while its worker imports torch.
        (['vla_ros.ros.node'], [*POLICY, 'cv_bridge', 'cv2']),
        (
            [
                *('vla_ros.cli.check', 'vla_ros.cli.demo', 'vla_ros.client.listener'),
                *('vla_ros.doctor.graph', 'vla_ros.pipeline.camera'),
            ],
            [*POLICY, 'vla_ros.ros.node'],
        ),
        # The doctor tells of what may be missing or broken.
        (['vla_ros.convert.reading'], [*HEAVY, 'numpy']),  # the process that reads pickles
        (['vla_ros.cli.doctor'], [*HEAVY, 'numpy', 'yaml', 'packaging', 'vla_ros.types']),
        (
            [
                f'vla_ros.doctor.{name}'
                for name in (
                    *('camera', 'checkpoint', 'contract', 'devices', 'measure', 'memory'),
                    *('middleware', 'parameters', 'rate', 'versions'),
                )
            ],
            HEAVY,
        ),
    ],
)
def test_import_loads_nothing_heavy(modules: list[str], kept_out: list[str]) -> None:
    loaded = modules_after('\n'.join(f'import {module}' for module in modules))
    assert set(modules) <= loaded
    assert not [name for name in kept_out if name in loaded]


def test_what_reads_other_machines_imports_no_pickle() -> None:
    rooms = ('remote', 'serving', 'wire')
    wrong = [
        (file, module)
        for file, room, module in imports()
        if room in rooms and module.partition('.')[0] in ('cloudpickle', 'marshal', 'pickle')
    ]
    assert not wrong and {room for _, room, _ in imports()} >= set(rooms)
