# SPDX-License-Identifier: Apache-2.0
"""A simulated robot at a table, with a camera and a scripted expert.

For training and judging a policy without a robot. Only making a world needs
requirements/simulation.txt, or LIBERO. Independent of torch and ROS.
"""

from vla_ros.simulation.blocks import (
    CONTRACT,
    INSTRUCTIONS,
    MAX_STEPS,
    BlocksWorld,
    Pose,
    State,
)
from vla_ros.simulation.blocks4 import Blocks4World
from vla_ros.simulation.libero import LiberoWorld
from vla_ros.simulation.scene import SimulationError
from vla_ros.simulation.world import FreeWorld, World
from vla_ros.simulation.worlds import WORLDS, make_world

__all__ = [
    'CONTRACT',
    'INSTRUCTIONS',
    'MAX_STEPS',
    'WORLDS',
    'Blocks4World',
    'BlocksWorld',
    'FreeWorld',
    'LiberoWorld',
    'Pose',
    'SimulationError',
    'State',
    'World',
    'make_world',
]
