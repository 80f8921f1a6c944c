# SPDX-License-Identifier: Apache-2.0
"""A world with a Franka Panda at a table, where the task is to pick up the red or the blue block.

An episode begins with a reset; one step is one action and a fifth of a second. The same seed gives
the same start, to the last pixel, for every instruction. The camera ``front`` looks at the robot,
``wrist`` looks out of its hand.

Independent of torch and ROS. MuJoCo is imported when a world is made. A world must be used by the
thread that made it: an OpenGL context belongs to a thread.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import shipped_displacements
from vla_ros.simulation.arm import Arm, rotation, rotation_vector
from vla_ros.simulation.scene import (
    BLOCK_HALF_SIZE,
    COLOURS,
    IMAGE_SIZE,
    TIMESTEP_S,
    SimulationError,
    build_model,
    import_mujoco,
    no_opengl,
    scene_options,
)
from vla_ros.simulation.world import Closable, Sensors, check_instruction, checked_action
from vla_ros.types import Observation, PolicyError, PolicySpec

INSTRUCTIONS = {f'pick up the {colour} block': colour for colour in COLOURS}
MAX_STEPS = 40  # actions of an episode; the expert needs 10
LIFTED_M = 0.05  # minimum height of a lifted block's lowest corner over the table
HELD_M = 0.04  # maximum distance of the tool from a held block's centre: half its diagonal

# The arm makes the displacement within the period: an action's numbers are metres and radians.
CONTRACT = shipped_displacements('vla_ros_blocks')
MAX_TRANSLATION_M = CONTRACT.max_linear_m_s * CONTRACT.period_s  # 0.05
MAX_TURN_RAD = CONTRACT.max_angular_rad_s * CONTRACT.period_s  # 0.15

_ASTRAY_M = 0.02  # maximum distance of the tool from where twists lead it
_TURN_M_RAD = 0.1  # way that is as far as a turn of 1 rad

# The world's cameras and those of the scene, whose second one is part of the robot's model.
_CAMERAS = {'front': 'front', 'wrist': 'eye_in_hand'}
SENSORS = Sensors(
    cameras=tuple(_CAMERAS),
    state_dim=8,
    state="the tool's position (x, y, z, metres) and quaternion (x, y, z, w), and the opening of "
    'the fingers (0 to 1)',
)

# Bounds of the uniform starts of episodes. Each block gets one half of the table, in random order:
# only the image tells which block is on the left.
_TOOL_LOW, _TOOL_HIGH = (0.40, -0.08, 0.17), (0.50, 0.08, 0.25)
_TOOL_YAW_RAD = 0.2
_BLOCK_LOW, _BLOCK_HIGH = (0.43, 0.06), (0.55, 0.14)
_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # fingers move along y


@dataclass(frozen=True)
class Pose:
    """The pose of an object in the base's frame.

    :param position: float64 [3], metres.
    :param rotation: float64 [3, 3], from the object's frame to the base's.
    """

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """The exact state of the world, for the expert and for measurements.

    :param tool: pose between the fingertips; the fingers move along its x, and its z points out of
        the hand.
    :param opening: opening of the fingers: 0 closed, 1 open.
    :param blocks: poses of the blocks' centres, by colour.
    """

    tool: Pose
    opening: float
    blocks: Mapping[str, Pose]


class BlocksWorld(Closable):
    """The world of the two blocks.

    It holds an OpenGL context: close it, or use it as a context manager.

    :raises SimulationError: if MuJoCo, robosuite or OpenGL is missing; says what to install.
    """

    instructions: tuple[str, ...] = tuple(INSTRUCTIONS)
    contract = CONTRACT
    max_steps = MAX_STEPS
    node_parameters: Mapping[str, str] = MappingProxyType({})  # images need no change
    table_friction: float | None = None

    def __init__(self) -> None:
        self._mujoco = import_mujoco()
        self._model = build_model(self.table_friction)
        self._data = self._mujoco.MjData(self._model)
        self._options = scene_options(self._mujoco)
        self._arm = Arm(self._mujoco, self._model, self._data)
        self._instruction: str | None = None
        self._selection = SENSORS.main_camera
        self._owed_s = 0.0  # time that has passed but is not simulated yet
        self._led: Pose | None = None  # where the last twist leads; None: the last motion was none
        self._renderer = self._make_renderer()
        # At the latest when the process ends, and before MuJoCo ends OpenGL.
        atexit.register(self._renderer.close)

    def _make_renderer(self) -> Any:
        try:
            return self._mujoco.Renderer(self._model, IMAGE_SIZE, IMAGE_SIZE)
        except Exception as error:  # of PyOpenGL, of MuJoCo, or an AttributeError of either
            raise SimulationError(no_opengl(error)) from error

    def close(self) -> None:
        """Free the OpenGL context."""
        atexit.unregister(self._renderer.close)
        self._renderer.close()

    def equip(self, spec: PolicySpec) -> None:
        """Let observations have the images and the state that a policy needs.

        :raises PolicyError: if it needs another camera than ``front`` and ``wrist``, or another
            state than that of :data:`SENSORS`, or gives actions of another size than 7.
        """
        self._selection = SENSORS.select(spec)

    def reset(self, seed: int, instruction: str) -> Observation:
        """Begin an episode.

        :param seed: seed of the start, not negative. The start is the same for all instructions.
        :param instruction: one of :attr:`instructions`.
        :returns: images of uint8 [224, 224, 3].
        :raises PolicyError: if there is no such instruction.
        """
        check_instruction(instruction, self.instructions)
        self._instruction, self._owed_s, self._led = instruction, 0.0, None
        random = np.random.default_rng(seed)
        self._mujoco.mj_resetData(self._model, self._data)
        yaw = random.uniform(-_TOOL_YAW_RAD, _TOOL_YAW_RAD)
        self._arm.place(random.uniform(_TOOL_LOW, _TOOL_HIGH), _about_z(yaw) @ _DOWN)
        sides = random.permutation([-1.0, 1.0])
        for side, colour in zip(sides, COLOURS, strict=True):
            x, y = random.uniform(_BLOCK_LOW, _BLOCK_HIGH)
            self._data.joint(colour).qpos[:3] = x, side * y, BLOCK_HALF_SIZE[2]
        self._mujoco.mj_forward(self._model, self._data)
        return self.look()

    def step(self, action: NDArray[np.float64]) -> Observation:
        """Execute one action for a period of the contract, and return the next observation.

        A displacement beyond the contract's limits is shortened and keeps its direction.

        :param action: float64 [7]: metres and axis-angle radians along the base's axes, and the
            gripper, which opens above 0.5 and closes otherwise.
        :returns: images of uint8 [224, 224, 3], after the action.
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """
        self.begin(action)
        self.advance(CONTRACT.period_s)
        return self.look()

    def begin(self, action: NDArray[np.float64], start: Pose | None = None) -> None:
        """Begin one action; :meth:`advance` executes it.

        :param start: pose that the displacement starts from; None: the tool's current pose.
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """
        if self._instruction is None:
            raise PolicyError('no episode has begun', 'call reset first')
        action = checked_action(action)
        self._led = None
        translation, turn = action[:3], action[3:6]
        if start is not None:
            translation = start.position + translation - self._arm.position
            turn = rotation_vector(rotation(turn) @ start.rotation @ self._arm.rotation.T)
        self._arm.begin(
            shorten(translation, MAX_TRANSLATION_M),
            shorten(turn, MAX_TURN_RAD),
            bool(action[6] > 0.5),
            CONTRACT.period_s,
        )

    def drive(self, twist: NDArray[np.float64], gripper_open: bool, seconds: float) -> None:
        """Move the tool with a velocity for a duration.

        :param twist: float64 [6]: metres and radians per second along the base's axes.
        :raises PolicyError: if no episode has begun.
        """
        if self._instruction is None:
            raise PolicyError('no episode has begun', 'call reset first')
        pose = self.pose
        # A tool that cannot follow, at the end of its reach, does not go on later.
        led = pose if self._led is None or self.apart(self._led, pose) > _ASTRAY_M else self._led
        turn = rotation(twist[3:] * seconds)
        self._led = Pose(led.position + twist[:3] * seconds, turn @ led.rotation)
        self._arm.lead(self._led.position, self._led.rotation, gripper_open, seconds)
        self.advance(seconds)

    def apart(self, one: Pose, other: Pose) -> float:
        """Return how far two poses are apart [m]; a turn counts as the way of the fingers."""
        turn = rotation_vector(one.rotation @ other.rotation.T)
        way = float(np.linalg.norm(one.position - other.position))
        return way + _TURN_M_RAD * float(np.linalg.norm(turn))

    def moved(self, pose: Pose, action: NDArray[np.float64]) -> Pose:
        """Return the tool's pose at the end of an action that starts from a pose."""
        return moved_pose(pose, action)

    def advance(self, seconds: float) -> None:
        """Simulate a duration; a remainder below one tick is kept for the next call.

        An arm that has completed its action rests.
        """
        self._owed_s += seconds
        ticks = round(self._owed_s / TIMESTEP_S)
        self._owed_s -= ticks * TIMESTEP_S
        self._arm.advance(ticks)
        self._mujoco.mj_forward(self._model, self._data)

    def look(self) -> Observation:
        """Return the current images, uint8 [224, 224, 3], and the state if it is needed.

        :raises PolicyError: if no episode has begun.
        """
        if self._instruction is None:
            raise PolicyError('no episode has begun', 'call reset first')
        images = {name: self._draw(camera) for name, camera in self._selection.cameras.items()}
        return Observation(
            images,
            self._instruction,
            dict.fromkeys(images, round(self._data.time * 1e9)),
            self._robot_state() if self._selection.state else None,
        )

    def _draw(self, camera: str) -> NDArray[np.uint8]:
        self._renderer.update_scene(self._data, camera=_CAMERAS[camera], scene_option=self._options)
        return np.array(self._renderer.render(), dtype=np.uint8)

    def _robot_state(self) -> NDArray[np.float64]:
        """Return the state that :data:`SENSORS` describes, float64 [8]."""
        quaternion = np.empty(4)  # w, x, y, z
        self._mujoco.mju_mat2Quat(quaternion, self._arm.rotation.ravel())
        # A rotation has two quaternions. This one does not change its sign near a downward tool.
        quaternion *= np.sign(quaternion[np.abs(quaternion).argmax()])
        return np.array([*self._arm.position, *quaternion[1:], quaternion[0], self._arm.opening])

    @property
    def pose(self) -> Pose:
        """The tool's current pose, a copy."""
        return Pose(self._arm.position, self._arm.rotation)

    @property
    def state(self) -> State:
        """The current state, a copy."""
        bodies = {colour: self._data.body(colour) for colour in COLOURS}
        return State(
            tool=self.pose,
            opening=self._arm.opening,
            blocks={
                colour: Pose(np.array(body.xpos), np.array(body.xmat).reshape(3, 3))
                for colour, body in bodies.items()
            },
        )

    @property
    def success(self) -> bool:
        """Whether the task of the episode's instruction is done now."""
        return self._instruction is not None and self._is_done(self._instruction, self.state)

    def _is_done(self, instruction: str, state: State) -> bool:
        return is_picked_up(INSTRUCTIONS[instruction], state)


def is_picked_up(asked: str, state: State) -> bool:
    """Return whether the block of a colour, and only this one, is lifted and held by the hand."""
    way = state.blocks[asked].position - state.tool.position
    return float(np.linalg.norm(way)) < HELD_M and all(
        (lowest_point_m(pose) > LIFTED_M) == (colour == asked)
        for colour, pose in state.blocks.items()
    )


def moved_pose(pose: Pose, action: NDArray[np.float64]) -> Pose:
    """Return the tool's pose at the end of an action that starts from a pose."""
    turn = rotation(shorten(action[3:6], MAX_TURN_RAD))
    return Pose(pose.position + shorten(action[:3], MAX_TRANSLATION_M), turn @ pose.rotation)


def lowest_point_m(block: Pose) -> float:
    """Return the height of a block's lowest corner over the table."""
    return float(block.position[2] - np.abs(block.rotation[2]) @ BLOCK_HALF_SIZE)


def shorten(vector: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    """Return the vector, shortened to a length of at most ``longest``."""
    length = float(np.linalg.norm(vector))
    return vector * (longest / length) if length > longest else vector


def _about_z(angle: float) -> NDArray[np.float64]:
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
