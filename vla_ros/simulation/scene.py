# SPDX-License-Identifier: Apache-2.0
"""The scene as a MuJoCo model: a Franka Panda at a table, two blocks, a light and a camera.

The robot's model comes from robosuite's files; robosuite itself is not imported, as it would bring
a compiler, a solver and a second OpenCV. The base's frame is the world's: x forward over the table,
y to the robot's left, z up, with the table's top at z = 0.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.types import PolicyError

IMAGE_SIZE = 224  # width and height in pixels, as of OpenVLA's towers
TIMESTEP_S = 0.004
JOINTS = tuple(f'joint{number}' for number in range(1, 8))
TOOL = 'gripper_grip_site'  # between the fingertips
BLOCK_HALF_SIZE = (0.02, 0.02, 0.03)  # metres
FINGER_TRAVEL_M = 0.04  # travel of each of the two fingers

# Saturated and far apart, also for a policy that sees patches of 14 pixels.
COLOURS = {'red': (0.9, 0.05, 0.05, 1.0), 'blue': (0.05, 0.15, 0.95, 1.0)}

_ARM_COLOUR = (0.9, 0.92, 0.93, 1.0)
_FINGER_COLOUR = (0.1, 0.8, 0.2, 1.0)  # unlike every colour behind them
_VISUAL_GROUP = 1  # robosuite's visual geometry, and ours
_CAMERA_POSITION = (1.05, 0.0, 0.62)  # opposite the robot, looking back at it and down
_CAMERA_TARGET = (0.46, 0.0, 0.12)
_CAMERA_FOVY_DEG = 33.0


class SimulationError(PolicyError):
    """A simulation that can't be made here; the text says what to install."""


def import_mujoco() -> Any:
    """Import MuJoCo, set up to draw without a screen.

    ``MUJOCO_GL`` may select ``egl`` or ``osmesa``. Where it is not set, Linux uses EGL, unless
    MuJoCo was imported before.

    :raises SimulationError: if it is not installed, or its OpenGL is not.
    """
    if sys.platform == 'linux':
        os.environ.setdefault('MUJOCO_GL', 'egl')
    if importlib.util.find_spec('mujoco') is None:
        raise SimulationError(_missing('mujoco'))
    try:
        return importlib.import_module('mujoco')
    except Exception as error:  # PyOpenGL says that a library is missing in many ways
        raise SimulationError(no_opengl(error)) from error


def no_opengl(error: Exception) -> str:
    """Return the error text for a user whose machine can't draw."""
    return (
        f'MuJoCo cannot draw here with MUJOCO_GL={os.environ.get("MUJOCO_GL", "")!r} '
        f'({type(error).__name__}: {" ".join(str(error).split()) or "no text"}); for egl: '
        'sudo apt install libegl1 libegl-mesa0 libgl1-mesa-dri; for osmesa: '
        'sudo apt install libosmesa6, or libosmesa6-dev where there is no such package'
    )


def _missing(package: str) -> str:
    return (
        f'the simulation needs the package {package}, which is not installed here: '
        'pip install --no-deps -r requirements/simulation.txt'
    )


def _robosuite_assets() -> Path:
    spec = importlib.util.find_spec('robosuite')  # does not run it
    if spec is None or spec.origin is None:
        raise SimulationError(_missing('robosuite'))
    return Path(spec.origin).parent / 'models' / 'assets'


def build_model(table_friction: float | None = None) -> Any:
    """Return the compiled ``mujoco.MjModel`` of the robot, the table and the blocks.

    :param table_friction: sliding friction on the table; None: that of a block, which is so
        much that a pushed block falls over.
    :raises SimulationError: if MuJoCo or robosuite is missing.
    """
    mujoco = import_mujoco()
    assets = _robosuite_assets()
    spec = mujoco.MjSpec.from_file(str(assets / 'robots' / 'panda' / 'robot.xml'))
    gripper = mujoco.MjSpec.from_file(str(assets / 'grippers' / 'panda_gripper.xml'))
    mount = spec.body('right_hand').add_frame()
    spec.attach(gripper, prefix='gripper_', frame=mount)

    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 20.0  # a held block does not slide out
    spec.visual.global_.offwidth = spec.visual.global_.offheight = IMAGE_SIZE
    spec.visual.quality.shadowsize = 512
    spec.visual.quality.offsamples = 2
    spec.stat.extent = 0.5  # metres around the camera's target: the shadows' grain goes by it
    spec.visual.headlight.ambient = (0.5, 0.5, 0.5)
    spec.visual.headlight.diffuse = (0.3, 0.3, 0.3)
    spec.visual.headlight.specular = (0.0, 0.0, 0.0)
    _simplify_arm(spec)
    _add_surroundings(mujoco, spec)
    if table_friction is not None:
        table = spec.geom('table')
        table.friction, table.priority = (table_friction, 0.005, 0.0001), 1
    for colour, rgba in COLOURS.items():
        _add_block(mujoco, spec, colour, rgba)
    return spec.compile()


def scene_options(mujoco: Any) -> Any:
    """Return options that draw the visual geometry and not the collision geometry."""
    options = mujoco.MjvOption()
    options.geomgroup[:] = 0
    options.geomgroup[_VISUAL_GROUP] = 1
    options.sitegroup[:] = 0
    return options


def _simplify_arm(spec: Any) -> None:
    """Draw the links by their collision meshes, which have a sixth of the triangles."""
    for number in range(8):  # the hand stays as it is
        for geom in list(spec.body(f'link{number}').geoms):
            if geom.group == _VISUAL_GROUP:
                spec.delete(geom)
            else:
                geom.group, geom.rgba = _VISUAL_GROUP, _ARM_COLOUR
    for number in (1, 2):
        spec.geom(f'gripper_finger{number}_visual').rgba = _FINGER_COLOUR


def _add_surroundings(mujoco: Any, spec: Any) -> None:
    """Add the table, the light and the camera.

    The light is straight above, so that shadows show where objects are over the table.
    """
    box = mujoco.mjtGeom.mjGEOM_BOX
    table = spec.worldbody.add_geom(name='table', type=box, group=_VISUAL_GROUP)
    table.size, table.pos = (1.5, 1.5, 0.02), (0.0, 0.0, -0.02)
    table.rgba = (0.78, 0.76, 0.7, 1.0)
    table.friction = (1.0, 0.005, 0.0001)
    light = spec.worldbody.add_light(pos=(0.45, 0.0, 2.0), dir=(0.0, 0.0, -1.0))
    light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    light.diffuse, light.specular = (0.35, 0.35, 0.35), (0.0, 0.0, 0.0)
    light.castshadow = True

    back = np.subtract(_CAMERA_POSITION, _CAMERA_TARGET)  # a camera looks along its -z
    back /= np.linalg.norm(back)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    camera = spec.worldbody.add_camera(name='front', pos=_CAMERA_POSITION, fovy=_CAMERA_FOVY_DEG)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = [*right, *np.cross(back, right)]


def _add_block(mujoco: Any, spec: Any, colour: str, rgba: tuple[float, ...]) -> None:
    body = spec.worldbody.add_body(name=colour, pos=(0.5, 0.0, BLOCK_HALF_SIZE[2]))
    body.add_freejoint(name=colour)
    geom = body.add_geom(name=colour, type=mujoco.mjtGeom.mjGEOM_BOX, group=_VISUAL_GROUP)
    geom.size, geom.rgba, geom.mass = BLOCK_HALF_SIZE, rgba, 0.08
    geom.friction, geom.condim = (1.5, 0.01, 0.0001), 4
