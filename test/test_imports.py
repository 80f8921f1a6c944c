"""The arrows of imports, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

SCHEDULING = ['torch', 'transformers', 'timm', 'PIL', 'rclpy', 'vla_ros.openvla', 'vla_ros.ros']
PICTURES = ['torch', 'cv2', 'cv_bridge', 'rclpy', 'sensor_msgs', 'vla_ros.ros', 'vla_ros.types']
# Torch comes with the first policy that needs it, matplotlib with the plot.
REPLAY = [
    *('torch', 'matplotlib', 'rclpy', 'sensor_msgs', 'std_msgs', 'vla_ros.msg'),
    *('vla_ros.ros', 'vla_ros.openvla', 'vla_ros.cli'),
]
OPENVLA = ['rclpy', 'std_msgs', 'vla_ros.msg', 'vla_ros.ros', 'vla_ros.scheduling', 'vla_ros.cli']
# MuJoCo and LIBERO come with the first world.
SIMULATION = [*OPENVLA, 'torch', 'mujoco', 'robosuite', 'libero', 'OpenGL', 'vla_ros.openvla']
# matplotlib comes with the plot, tkinter with the window.
EVALUATION = [
    *(*OPENVLA, 'torch', 'matplotlib', 'tkinter', 'mujoco'),
    *('vla_ros.openvla', 'vla_ros.replay', 'vla_ros.simulation'),
]
HEAVY = ['torch', 'timm', 'PIL', 'rclpy', 'huggingface_hub', 'vla_ros.openvla', 'vla_ros.ros']


def modules_after(statement: str) -> set[str]:
    script = f'import sys\nbefore = set(sys.modules)\n{statement}\n'
    script += 'print(*sorted(set(sys.modules) - before))'
    command = [sys.executable, '-c', script]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(printed.split())


def test_the_package_alone_imports_nothing_heavy() -> None:
    heavy = {'numpy', 'torch', 'transformers', 'timm', 'PIL', 'rclpy'}
    assert not modules_after('import vla_ros') & heavy


@pytest.mark.parametrize(
    ('module', 'kept_out'),
    [
        ('vla_ros.watchdog', [*HEAVY, 'numpy', 'vla_ros.cli']),
        ('vla_ros.types', [*SCHEDULING, 'vla_ros.scheduling']),
        ('vla_ros.scheduling', SCHEDULING),
        ('vla_ros.motion', [*SCHEDULING, 'vla_ros.scheduling', 'vla_ros.cli']),
        ('vla_ros.simulation', SIMULATION),
        ('vla_ros.simulation.expert', SIMULATION),
        *(
            (f'vla_ros.evaluation.{name}', EVALUATION)
            for name in ('agreement', 'film', 'plot', 'report', 'window')
        ),
        ('vla_ros.view', [*SCHEDULING[:3], *OPENVLA]),
        ('vla_ros.openvla', OPENVLA),
        ('vla_ros.openvla.random_checkpoint', OPENVLA),
        ('vla_ros.bench.report', OPENVLA),
        ('vla_ros.bench.pipeline', [*OPENVLA, 'torch']),
        ('vla_ros.cli.bench', [name for name in OPENVLA if name != 'vla_ros.cli']),
        ('vla_ros.pictures.images', PICTURES),
        ('vla_ros.pictures.compressed_images', PICTURES),
        ('vla_ros.replay.run', REPLAY),
        ('vla_ros.replay.compare', REPLAY),
        ('vla_ros.cli.replay', [name for name in REPLAY if name != 'vla_ros.cli']),
        # The node answers services while its worker imports torch.
        ('vla_ros.ros.node', ['torch', 'transformers', 'timm', 'cv_bridge', 'cv2', 'vla_ros.cli']),
        ('vla_ros.cli.check', ['torch', 'transformers', 'timm', 'vla_ros.ros.node']),
        ('vla_ros.cli.listener', ['torch', 'transformers', 'timm', 'vla_ros.ros.node']),
        ('vla_ros.cli.steered_camera', ['torch', 'transformers', 'timm', 'vla_ros.ros']),
        # The doctor tells of what may be missing or broken.
        ('vla_ros.cli.doctor', [*HEAVY, 'numpy', 'yaml', 'packaging', 'vla_ros.types']),
        ('vla_ros.doctor.graph', ['torch', 'timm', 'vla_ros.openvla', 'vla_ros.ros.node']),
        *(
            (f'vla_ros.doctor.{name}', HEAVY)
            for name in (
                'camera',
                'checkpoint',
                'contract',
                'devices',
                'measure',
                'memory',
                'middleware',
                'parameters',
                'rate',
                'versions',
            )
        ),
        ('vla_ros.cli.demo', ['torch', 'transformers', 'timm', 'vla_ros.ros.node']),
    ],
)
def test_arrows(module: str, kept_out: list[str]) -> None:
    loaded = modules_after(f'import {module}')
    assert module in loaded
    assert not [name for name in kept_out if name in loaded]
