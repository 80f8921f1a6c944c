# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for the world ``blocks4``, for single actions and for chunks.

It has no memory: it gives the right action for any state, from what an image can show. Rows of a
chunk are its actions for the states that :mod:`vla_ros.simulation.kinematics` expects.

NumPy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.simulation.blocks import INSTRUCTIONS as PICK_UP
from vla_ros.simulation.blocks import State, lowest_point_m, shorten
from vla_ros.simulation.blocks4 import PUSHED_X_M, PUT, highest_point_m
from vla_ros.simulation.expert import (
    LIFT_HEIGHT_M,
    STEP_M,
    TRAVEL_HEIGHT_M,
    TURN_RAD,
    expert_action,
    turn_to,
)
from vla_ros.simulation.kinematics import PUSHING_M, after, is_inside, width
from vla_ros.simulation.scene import BLOCK_HALF_SIZE

ROWS = 8  # of a chunk: 1.6 s

_OPEN = 0.9
_PICK_UP_RED = 'pick up the red block'
# Putting: a funnel over the blue block, as that of the expert for picking up.
_CLEARANCE_M = 0.03  # height of the carried block over the other one, on the way
_PUT_GAP_M, _PUT_ASIDE_M = 0.003, 0.006
_RELEASE_GAP_M, _RELEASE_ASIDE_M = 0.008, 0.01
_SLOPE = 4.0
_ON_GAP_M, _ON_ASIDE_M = 0.006, 0.016
# Pushing: the closed fingers come down behind the block, and go forward, low, so that it slides.
_PUSH_HEIGHT_M = 0.016
_BEHIND_M = 0.03  # of the tool behind the place where it touches the block
_BEYOND_M = 0.02  # how far the block is pushed beyond the goal
_CLOSED = 0.3
_LOW_M = 0.02  # height of the tool over that of the push, at most, while it pushes
_ALIGNED_M, _ALIGNED_RAD = 0.012, 0.15


def blocks4_action(state: State, instruction: str) -> NDArray[np.float64]:
    """Return the next action towards the goal of an instruction of ``blocks4``.

    :returns: float64 [7]: metres and axis-angle radians along the base's axes, at most
        ``STEP_M`` and ``TURN_RAD`` long, and the gripper, 1 open or 0 closed.
    """
    if instruction in PICK_UP:
        return expert_action(state, instruction)
    return _put(state) if instruction == PUT else _push(state)


def expert_chunk(state: State, instruction: str, rows: int = ROWS) -> NDArray[np.float64]:
    """Return the expert's next actions: float64 [rows, 7].

    :param rows: at least 1.
    """
    chunk = np.empty((rows, 7))
    for row in range(rows):
        chunk[row] = blocks4_action(state, instruction)
        state = after(state, chunk[row])
    return chunk


def _put(state: State) -> NDArray[np.float64]:
    """Return the next action towards the red block on the blue one."""
    tool, red, blue = state.tool.position, state.blocks['red'], state.blocks['blue']
    way = (blue.position - red.position)[:2]
    aside, gap = float(np.linalg.norm(way)), lowest_point_m(red) - highest_point_m(blue)
    if aside < _ON_ASIDE_M and abs(gap) < _ON_GAP_M:
        rise = max(0.0, LIFT_HEIGHT_M - tool[2]) if state.opening > _OPEN else 0.0
        return _action((0.0, 0.0, rise), gripper=1.0)
    size = width(state.tool, red)
    if not (is_inside(state.tool, red) and abs(state.opening - size) < 0.15):
        return expert_action(state, _PICK_UP_RED)
    if aside < _RELEASE_ASIDE_M and abs(gap) < _RELEASE_GAP_M:
        return _action((0.0, 0.0, 0.0), gripper=1.0)
    height = _PUT_GAP_M + min(_CLEARANCE_M, _SLOPE * max(0.0, aside - _PUT_ASIDE_M))
    low = max(0.0, height - gap) / STEP_M
    x, y = way * max(0.0, 1.0 - low)  # first up where it is too low, then aside
    return _action((x, y, height - gap), gripper=0.0)


def _push(state: State) -> NDArray[np.float64]:
    """Return the next action towards a blue block that is far from the robot's base."""
    tool, blue = state.tool.position, state.blocks['blue']
    if any(is_inside(state.tool, block) for block in state.blocks.values()):
        rise = max(0.0, TRAVEL_HEIGHT_M - tool[2]) if state.opening > _OPEN else 0.0
        return _action((0.0, 0.0, rise), gripper=1.0)
    if blue.position[0] > PUSHED_X_M + _BEYOND_M / 2:
        return _action((0.0, 0.0, max(0.0, TRAVEL_HEIGHT_M - tool[2])), gripper=0.0)
    turn = turn_to(state.tool.rotation, yaw=0.0, period=np.pi)
    reach = float(np.abs(blue.rotation[0]) @ BLOCK_HALF_SIZE)
    ahead = blue.position[0] - reach - PUSHING_M - tool[0]  # way until the fingers touch it
    aside = blue.position[1] - tool[1]
    low_m = lowest_point_m(blue) + _PUSH_HEIGHT_M
    askew = float(np.linalg.norm(turn))
    beside = abs(aside) < 2 * _ALIGNED_M and askew < 2 * _ALIGNED_RAD
    if tool[2] < low_m + _LOW_M and -_ALIGNED_M < ahead < 3 * _BEHIND_M and beside:
        rest = PUSHED_X_M + _BEYOND_M - blue.position[0] + ahead
        return _action((rest, aside / 2, low_m - tool[2]), turn, gripper=0.0)
    x = ahead - _BEHIND_M
    error = max(float(np.hypot(x, aside)) - _ALIGNED_M, askew - _ALIGNED_RAD, 0.0)
    closed = state.opening < _CLOSED
    height = min(TRAVEL_HEIGHT_M, low_m + _SLOPE * error) if closed else TRAVEL_HEIGHT_M
    low = max(0.0, height - tool[2]) / STEP_M
    sideways = max(0.0, 1.0 - low)
    return _action((x * sideways, aside * sideways, height - tool[2]), turn, gripper=0.0)


def _action(
    translation: tuple[float, float, float],
    turn: NDArray[np.float64] | None = None,
    *,
    gripper: float,
) -> NDArray[np.float64]:
    turned = np.zeros(3) if turn is None else shorten(turn, TURN_RAD)
    return np.concatenate([shorten(np.array(translation), STEP_M), turned, [gripper]])
