# SPDX-License-Identifier: Apache-2.0
"""The state of blocks4 from messages equals the world's, which its policy was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from training.gather import SPEC
from vla_ros.motion import load_contracts
from vla_ros.motion.pose import Pose
from vla_ros.motion.state import JointPositions
from vla_ros.motion.state_parts import StateParts
from vla_ros.simulation import Blocks4World
from vla_ros.simulation.blocks4 import INSTRUCTIONS
from vla_ros.simulation.blocks4_expert import expert_chunk
from vla_ros.simulation.scene import FINGER_TRAVEL_M


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_the_state_of_messages_is_that_of_training(sign: float) -> None:
    """Also if a driver sends the other quaternion of the same orientation."""
    parts = load_contracts()['vla_ros_blocks'].state
    with Blocks4World() as world:
        world.equip(SPEC)
        for seed in range(8):
            world.reset(seed, INSTRUCTIONS[0])
            state = world.step(expert_chunk(world.state, INSTRUCTIONS[0], 1)[0]).state
            assert state is not None
            joining = StateParts(parts, 0.05, '')
            names = ['panda_finger_joint2', 'panda_finger_joint1']
            joining.add_joints(JointPositions(names, [state[7] * FINGER_TRAVEL_M] * 2), 0)
            joined = joining.add_pose(Pose(state[:3], sign * state[3:7]), 'base', 0)
            assert joined is not None
            np.testing.assert_allclose(joined.values, state, atol=1e-6)
