# SPDX-License-Identifier: Apache-2.0
"""The world ``blocks4``: the table, the robot and the starts of ``blocks``, with four tasks.

A start is the same for all four instructions, and the same as in ``blocks``: only the words tell
what to do.
"""

from __future__ import annotations

import numpy as np

from vla_ros.simulation.blocks import INSTRUCTIONS as PICK_UP
from vla_ros.simulation.blocks import BlocksWorld, Pose, State, is_picked_up, lowest_point_m
from vla_ros.simulation.scene import BLOCK_HALF_SIZE

PUT = 'put the red block on the blue block'
PUSH = 'push the blue block away'
# Of each start, vla_eval's control `swapped` tells the policy the instruction before. The order is
# such that no instruction is done on the way of the one before.
INSTRUCTIONS = (*PICK_UP, PUT, PUSH)

RELEASED_OPENING = 0.9  # minimum opening of fingers that hold nothing
PUSHED_X_M = 0.59  # a block farther from the robot's base than this is away; starts end at 0.55
_ON_ASIDE_M = 0.02  # maximum distance of the centres, seen from above: half a block's width
_ON_GAP_M = 0.006  # maximum gap between the blocks, or the opposite where they touch
_ON_TABLE_M = 0.01  # maximum height of the lowest corner of a block on the table


class Blocks4World(BlocksWorld):
    """The world of the two blocks, with four instructions.

    * *pick up* the red, or the blue block: as in ``blocks``.
    * *put the red block on the blue block*: the red one lies on the blue one, and the fingers are
      open.
    * *push the blue block away*: it stands on the table more than ``PUSHED_X_M`` from the robot's
      base.
    """

    instructions = INSTRUCTIONS
    table_friction = 0.3  # a pushed block slides

    def _is_done(self, instruction: str, state: State) -> bool:
        if instruction in PICK_UP:
            return is_picked_up(PICK_UP[instruction], state)
        return is_put(state) if instruction == PUT else is_pushed(state)


def is_put(state: State) -> bool:
    """Return whether the red block lies on the blue one, and the hand has released it."""
    red, blue = state.blocks['red'], state.blocks['blue']
    gap = lowest_point_m(red) - highest_point_m(blue)
    aside = float(np.linalg.norm((red.position - blue.position)[:2]))
    released = state.opening > RELEASED_OPENING
    return released and aside < _ON_ASIDE_M and abs(gap) < _ON_GAP_M


def is_pushed(state: State) -> bool:
    """Return whether the blue block is away from the robot, on the table."""
    blue = state.blocks['blue']
    return bool(blue.position[0] > PUSHED_X_M) and lowest_point_m(blue) < _ON_TABLE_M


def highest_point_m(block: Pose) -> float:
    """Return the height of a block's highest corner over the table."""
    return float(block.position[2] + np.abs(block.rotation[2]) @ BLOCK_HALF_SIZE)
