"""A Franka Panda at a table with a red and a blue block, to pick up the one that is asked for.

An episode begins with a reset; one step is one action and a fifth of a second. The same seed is the
same start, whatever the instruction, to the last pixel.

Knows neither torch nor ROS. MuJoCo is imported when a world is made. One thread, the one that made
it: an OpenGL context belongs to a thread.
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

from vla_ros.motion.contract import load_contracts
from vla_ros.simulation.arm import Arm, rotation, rotation_vector
from vla_ros.simulation.scene import (
    BLOCK_HALF_SIZE,
    COLOURS,
    PICTURE_SIZE,
    TIMESTEP_S,
    SimulationError,
    build_model,
    import_mujoco,
    no_opengl,
    scene_options,
)
from vla_ros.simulation.world import Closable, check_instruction, checked_action
from vla_ros.types import Observation, PolicyError

INSTRUCTIONS = {f'pick up the {colour} block': colour for colour in COLOURS}
MAX_STEPS = 40  # of an episode; the expert needs 10
LIFTED_M = 0.05  # how high over the table all of a block has to be
HELD_M = 0.04  # how near to its centre the tool has to be: half a block's diagonal

# The arm makes the displacement within the period: an action's numbers are metres and radians.
CONTRACT = load_contracts()['vla_ros_blocks']
MAX_TRANSLATION_M = CONTRACT.max_linear_m_s * CONTRACT.period_s  # 0.05
MAX_TURN_RAD = CONTRACT.max_angular_rad_s * CONTRACT.period_s  # 0.15

# Where an episode begins: uniform in between. The blocks have a half of the table each, in
# random order: which is left and which is right only the picture tells.
_TOOL_LOW, _TOOL_HIGH = (0.40, -0.08, 0.17), (0.50, 0.08, 0.25)
_TOOL_YAW_RAD = 0.2
_BLOCK_LOW, _BLOCK_HIGH = (0.43, 0.06), (0.55, 0.14)
_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # fingers move along y


@dataclass(frozen=True)
class Pose:
    """Where something is, in the base's frame.

    :param position: float64 [3], metres.
    :param rotation: float64 [3, 3], from its own frame to the base's.
    """

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """What no picture tells exactly: for the expert, and for measurements.

    :param tool: between the fingertips; the fingers move along its x, and its z points out of the
        hand.
    :param opening: how far the fingers are apart: 0 closed, 1 open.
    :param blocks: by colour; of their centres.
    """

    tool: Pose
    opening: float
    blocks: Mapping[str, Pose]


class BlocksWorld(Closable):
    """Close it, or use it as a context manager: it holds an OpenGL context.

    :raises SimulationError: if MuJoCo, robosuite or OpenGL is missing; says what to install.
    """

    instructions = tuple(INSTRUCTIONS)
    contract = CONTRACT
    max_steps = MAX_STEPS
    node_parameters: Mapping[str, str] = MappingProxyType({})  # its pictures go as they are

    def __init__(self) -> None:
        self._mujoco = import_mujoco()
        self._model = build_model()
        self._data = self._mujoco.MjData(self._model)
        self._options = scene_options(self._mujoco)
        self._arm = Arm(self._mujoco, self._model, self._data)
        self._instruction: str | None = None
        self._owed_s = 0.0  # of the time that has passed
        self._renderer = self._make_renderer()
        # At the latest when the process ends, and before MuJoCo ends OpenGL.
        atexit.register(self._renderer.close)

    def _make_renderer(self) -> Any:
        try:
            return self._mujoco.Renderer(self._model, PICTURE_SIZE, PICTURE_SIZE)
        except Exception as error:  # of PyOpenGL, of MuJoCo, or an AttributeError of either
            raise SimulationError(no_opengl(error)) from error

    def close(self) -> None:
        """Give the OpenGL context back."""
        atexit.unregister(self._renderer.close)
        self._renderer.close()

    def reset(self, seed: int, instruction: str) -> Observation:
        """Begin an episode.

        :param seed: not negative; of the start, which does not depend on the instruction.
        :param instruction: one of :attr:`instructions`.
        :returns: what the camera sees, uint8 [224, 224, 3].
        :raises PolicyError: if there is no such instruction.
        """
        check_instruction(instruction, INSTRUCTIONS)
        self._instruction, self._owed_s = instruction, 0.0
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
        """Do one action, which takes a period of the contract, and look.

        What is longer than the contract's limits is shortened in its direction.

        :param action: float64 [7]: metres and axis-angle radians along the base's axes, and the
            gripper, which opens above 0.5 and closes otherwise.
        :returns: what the camera sees afterwards, uint8 [224, 224, 3].
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """
        self.begin(action)
        self.advance(CONTRACT.period_s)
        return self.look()

    def begin(self, action: NDArray[np.float64], start: Pose | None = None) -> None:
        """Begin one action; :meth:`advance` does it.

        :param start: where the displacement starts from; None: where the tool is now.
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """
        if self._instruction is None:
            raise PolicyError('no episode has begun; call reset first')
        action = checked_action(action)
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

    def advance(self, seconds: float) -> None:
        """Let so much time pass; less than a tick is kept for the next time. An arm that has done
        its action stands still."""
        self._owed_s += seconds
        ticks = round(self._owed_s / TIMESTEP_S)
        self._owed_s -= ticks * TIMESTEP_S
        self._arm.advance(ticks)
        self._mujoco.mj_forward(self._model, self._data)

    def look(self) -> Observation:
        """What the camera sees now: uint8 [224, 224, 3].

        :raises PolicyError: if no episode has begun.
        """
        if self._instruction is None:
            raise PolicyError('no episode has begun; call reset first')
        self._renderer.update_scene(self._data, camera='front', scene_option=self._options)
        image = np.array(self._renderer.render(), dtype=np.uint8)
        return Observation.of_one(image, self._instruction, round(self._data.time * 1e9))

    @property
    def pose(self) -> Pose:
        """Of the tool, now; a copy."""
        return Pose(self._arm.position, self._arm.rotation)

    @property
    def state(self) -> State:
        """A copy, of now."""
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
        """Whether the block that was asked for is in the air and in the hand now, and the other one
        is not in the air."""
        if self._instruction is None:
            return False
        asked, state = INSTRUCTIONS[self._instruction], self.state
        way = state.blocks[asked].position - state.tool.position
        return float(np.linalg.norm(way)) < HELD_M and all(
            (lowest_point_m(pose) > LIFTED_M) == (colour == asked)
            for colour, pose in state.blocks.items()
        )


def lowest_point_m(block: Pose) -> float:
    """Height of a block's lowest corner over the table."""
    return float(block.position[2] - np.abs(block.rotation[2]) @ BLOCK_HALF_SIZE)


def shorten(vector: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    """The vector, or one of its direction that is no longer than that."""
    length = float(np.linalg.norm(vector))
    return vector * (longest / length) if length > longest else vector


def _about_z(angle: float) -> NDArray[np.float64]:
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
