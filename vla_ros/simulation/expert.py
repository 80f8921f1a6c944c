# SPDX-License-Identifier: Apache-2.0
"""A scripted expert that gives the right action for any state of the world of blocks.

It has no memory: after a policy's error or a push it gives the action for the state as it is. So it
can label any state and show recoveries. Its actions depend only on what an image can show: the
poses of the tool and the blocks, and the opening of the fingers.

NumPy only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vla_ros.simulation.arm import rotation_vector
from vla_ros.simulation.blocks import INSTRUCTIONS, Pose, State, shorten
from vla_ros.simulation.scene import BLOCK_HALF_SIZE

STEP_M = 0.04  # maximum translation of an action: 0.2 m/s
TURN_RAD = 0.15
TRAVEL_HEIGHT_M = 0.12  # height of the tool: the fingertips, 12 mm below it, pass over a block
LIFT_HEIGHT_M = 0.16

_GRASP_HEIGHT_M = 0.025
_ALIGNED_M, _ALIGNED_RAD = 0.014, 0.15  # within these errors the tool goes straight down
_FUNNEL_SLOPE, _FUNNEL_SLOPE_M_RAD = 4.0, 0.2  # extra height per error beyond them
_GRASPABLE_M, _GRASPABLE_RAD = 0.018, 0.3  # within these errors the fingers close
_HELD_M = 0.025  # a block no farther from the tool is between the fingers
_HELD_OPENING = (0.35, 0.85)  # a block's 4 or 6 cm of 8, on the way to it
_OPEN = 0.9


def expert_action(state: State, instruction: str) -> NDArray[np.float64]:
    """Return the next action towards the goal of the instruction.

    :param instruction: one of the world's.
    :returns: float64 [7]: metres and axis-angle radians along the base's axes, at most
        ``STEP_M`` and ``TURN_RAD`` long, and the gripper, 1 open or 0 closed.
    """
    block = state.blocks[INSTRUCTIONS[instruction]]
    tool = state.tool.position
    turn = _turn_to_grasp(state.tool.rotation, block)
    way = block.position - tool
    aside, askew = float(np.linalg.norm(way[:2])), float(np.linalg.norm(turn))
    grasp_height = min(_GRASP_HEIGHT_M, float(block.position[2]))

    inside = aside < _HELD_M and abs(way[2]) < BLOCK_HALF_SIZE[2]
    if inside and _HELD_OPENING[0] < state.opening < _HELD_OPENING[1]:
        rise = np.array([0.0, 0.0, max(0.0, LIFT_HEIGHT_M - tool[2])])
        return _action(rise, np.zeros(3), gripper=0.0)
    if state.opening < _OPEN:  # it holds nothing, or the wrong thing
        return _action(np.zeros(3), np.zeros(3), gripper=1.0)
    over = tool[2] - grasp_height
    if max(aside, over) < _GRASPABLE_M and askew < _GRASPABLE_RAD:
        return _action(np.zeros(3), np.zeros(3), gripper=0.0)

    # A funnel over the block: the tool stays high while it is far aside or askew.
    funnel = _FUNNEL_SLOPE * max(0.0, aside - _ALIGNED_M)
    funnel += _FUNNEL_SLOPE_M_RAD * max(0.0, askew - _ALIGNED_RAD)
    height = min(TRAVEL_HEIGHT_M, grasp_height + funnel)
    low = max(0.0, height - tool[2]) / STEP_M
    sideways = way[:2] * max(0.0, 1.0 - low)  # first up where it is too low, then aside
    return _action(np.array([*sideways, height - tool[2]]), turn, gripper=1.0)


def _action(
    translation: NDArray[np.float64], turn: NDArray[np.float64], gripper: float
) -> NDArray[np.float64]:
    return np.concatenate([shorten(translation, STEP_M), shorten(turn, TURN_RAD), [gripper]])


def _turn_to_grasp(tool: NDArray[np.float64], block: Pose) -> NDArray[np.float64]:
    """Return the shortest turn that points the tool down and the fingers at a block's sides.

    :returns: float64 [3], axis times angle, radians.
    """
    axes = block.rotation
    lies = abs(axes[2, 2]) < math.sqrt(0.5)
    along = axes[:2, 2] if lies else axes[:2, int(abs(axes[2, 0]) > abs(axes[2, 1]))]
    sides = math.pi if lies else math.pi / 2  # a turn after which it looks the same
    # The tool's y, across the fingers' way, must lie along the block: along x at yaw 0.
    return turn_to(tool, math.atan2(along[1], along[0]), sides)


def turn_to(tool: NDArray[np.float64], yaw: float, period: float) -> NDArray[np.float64]:
    """Return the shortest turn that points the tool down, with its y at an angle from the base's x.

    :param tool: its rotation, float64 [3, 3].
    :param yaw: angle [rad].
    :param period: turn after which the goal is as good [rad].
    :returns: float64 [3], axis times angle, radians.
    """
    now = math.atan2(tool[1, 1], tool[0, 1])
    yaw = now + (yaw - now + period / 2) % period - period / 2
    sine, cosine = math.sin(yaw), math.cos(yaw)
    wanted = np.array([[-sine, cosine, 0.0], [cosine, sine, 0.0], [0.0, 0.0, -1.0]])
    return rotation_vector(wanted @ tool.T)
