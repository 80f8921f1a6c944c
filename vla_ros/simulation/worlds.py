# SPDX-License-Identifier: Apache-2.0
"""The simulated worlds by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from vla_ros.simulation.blocks import BlocksWorld
from vla_ros.simulation.blocks4 import Blocks4World
from vla_ros.simulation.libero import SUITES, LiberoWorld
from vla_ros.simulation.world import World
from vla_ros.types import PolicyError

WORLDS: Mapping[str, Callable[[], World]] = {
    'blocks': BlocksWorld,
    'blocks4': Blocks4World,
    **{suite: partial(LiberoWorld, suite) for suite in SUITES},
}


def make_world(name: str) -> World:
    """Make a world.

    :param name: one of :data:`WORLDS`.
    :raises PolicyError: if there is no such world.
    :raises SimulationError: if it can't be made here; says what to install.
    """
    if name not in WORLDS:
        raise PolicyError(f'there is no world {name!r}', f'there are: {", ".join(WORLDS)}')
    return WORLDS[name]()
