# SPDX-License-Identifier: Apache-2.0
"""Where the tool and the blocks are after an action, without physics.

It is fast and rough: the arm makes every displacement exactly, a held block moves with the hand, a
released one falls straight down, and a closed hand pushes what is in front of it. For looking a few
actions ahead from a true state.

NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vla_ros.simulation.blocks import Pose, State, moved_pose
from vla_ros.simulation.scene import BLOCK_HALF_SIZE, FINGER_TRAVEL_M

HELD_M = 0.025  # a block no farther from the tool, seen from above, is between the fingers
# Distance of the tool from the side of a block that it pushes, in the direction of the push.
PUSHING_M = 0.019
_SLIDING_M = 0.015  # how far a block slides on after a push
_FINGERS_ASIDE_M = 0.022  # half the width of the closed fingers, across a push
_FINGERTIP_M = 0.012  # of the fingertips below the tool
_SUPPORT_M = 0.03  # a block this near above another one falls on it
# Share of the way that the fingers have left after a period in which nothing stops them.
_LEFT_OPENING, _LEFT_CLOSING = 0.15, 0.2


def after(state: State, action: NDArray[np.float64]) -> State:
    """Return the state at the end of one action.

    :param action: float64 [7], of the world of blocks.
    """
    opens = bool(action[6] > 0.5)
    tool = moved_pose(state.tool, action)
    inside = [colour for colour, block in state.blocks.items() if is_inside(state.tool, block)]
    stop = max((width(state.tool, state.blocks[colour]) for colour in inside), default=0.0)
    if opens:
        opening = 1.0 - _LEFT_OPENING * (1.0 - state.opening)
    else:
        opening = max(stop, _LEFT_CLOSING * state.opening)
    held = {colour for colour in inside if not opens and state.opening < stop + 0.05}
    blocks = dict(state.blocks)
    for colour, block in state.blocks.items():
        if colour in held:
            blocks[colour] = _carried(block, state.tool, tool)
        elif opening < 0.9 and colour not in inside:
            blocks[colour] = _pushed(block, state.tool, tool)
    for colour in blocks.keys() - held:
        if colour not in inside or opens:
            blocks[colour] = _fallen(colour, blocks)
    return State(tool, opening, blocks)


def is_inside(tool: Pose, block: Pose) -> bool:
    """Return whether a block is between the fingers, open or closed."""
    way = block.position - tool.position
    return float(np.linalg.norm(way[:2])) < HELD_M and abs(way[2]) < BLOCK_HALF_SIZE[2]


def width(tool: Pose, block: Pose) -> float:
    """Return the opening of fingers that hold a block."""
    across = np.abs(block.rotation.T @ tool.rotation[:, 0])
    return float(min(1.0, float((across * BLOCK_HALF_SIZE).max()) / FINGER_TRAVEL_M))


def _carried(block: Pose, before: Pose, now: Pose) -> Pose:
    turn = now.rotation @ before.rotation.T
    place = now.position + turn @ (block.position - before.position)
    return Pose(place, turn @ block.rotation)


def _pushed(block: Pose, before: Pose, now: Pose) -> Pose:
    """Return a block that the fingers pushed forward, if they did."""
    reach = np.abs(block.rotation) @ BLOCK_HALF_SIZE
    over = now.position[2] - _FINGERTIP_M > block.position[2] + reach[2]
    beside = abs(now.position[1] - block.position[1]) > _FINGERS_ASIDE_M + reach[1]
    touched = now.position[0] + PUSHING_M + reach[0]
    if over or beside or before.position[0] > block.position[0] or touched < block.position[0]:
        return block
    return Pose(np.array([touched + _SLIDING_M, *block.position[1:]]), block.rotation)


def _fallen(colour: str, blocks: Mapping[str, Pose]) -> Pose:
    """Return a block that nothing holds where it comes to rest, on the table or on the other."""
    block = blocks[colour]
    reach = np.abs(block.rotation) @ BLOCK_HALF_SIZE
    floor = 0.0
    for other, below in blocks.items():
        aside = np.linalg.norm((below.position - block.position)[:2])
        if other != colour and aside < _SUPPORT_M and below.position[2] < block.position[2]:
            floor = float(below.position[2] + (np.abs(below.rotation) @ BLOCK_HALF_SIZE)[2])
    return Pose(np.array([*block.position[:2], floor + reach[2]]), block.rotation)
