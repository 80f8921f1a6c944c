"""A simulated robot at a table: what a policy sees, what its actions do, and an expert.

For training and judging a policy where there is no robot. Needs requirements/simulation.txt, or
LIBERO, when a world is made, and not before; knows neither torch nor ROS.
"""

from vla_ros.simulation.blocks import (
    CONTRACT,
    INSTRUCTIONS,
    MAX_STEPS,
    BlocksWorld,
    Pose,
    State,
)
from vla_ros.simulation.libero import LiberoWorld
from vla_ros.simulation.scene import SimulationError
from vla_ros.simulation.world import FreeWorld, World
from vla_ros.simulation.worlds import WORLDS, make_world

__all__ = [
    'CONTRACT',
    'INSTRUCTIONS',
    'MAX_STEPS',
    'WORLDS',
    'BlocksWorld',
    'FreeWorld',
    'LiberoWorld',
    'Pose',
    'SimulationError',
    'State',
    'World',
    'make_world',
]
