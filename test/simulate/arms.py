# SPDX-License-Identifier: Apache-2.0
"""The joints of a robot behind a controller of ros2_control, which complains about wrong commands.

The controllers are those of ``support/controllers.py``. They go by the scheduler's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import JointState

from simulate.graph import BEST_EFFORT, RemotePublisher
from simulate.live_faults import ACCELERATIONS, SPEEDS
from simulate.scheduler import NS
from support.controllers import ForwardController, Hardware, TrajectoryController

if TYPE_CHECKING:
    from simulate.world import World

JOINTS = ('j1', 'j2', 'j3', 'j4', 'j5', 'j6')  # of contracts/joints.yaml, with their limits
_LOW = np.array([-0.03, *[-np.inf] * 3, -0.2, -np.inf])
_HIGH = np.array([0.04, *[np.inf] * 3, 0.15, np.inf])
_SPEED = np.array([0.4, *[max(SPEEDS)] * 5])
_STATES_HZ = 50.0
# A look at the clock takes up to a millisecond, so a command may be that old, or new.
_SPEED_SLACK, _ACCELERATION_SLACK, _POSITION_SLACK = 0.15, 0.5, 5e-3
_UNSURE_S = 1e-3  # for the same reason; it matters between commands that follow closely
_PATH, _GOAL = 0.2, 0.05  # tolerances
_PATIENCE_S = 0.35  # a response to a client that is gone takes 0.1 s, and there may be several
_AT_REST = 2e-3
_FAR_NS = 100 * NS
_CYCLE_NS = 2_000_000  # of the controller: of two commands in one, it takes the last


class JointArm:
    """Follows the commands of its joints. The knobs are the faults'; :meth:`heal` turns them back.

    :ivar complaints: about the commands.
    """

    def __init__(self, world: World, robot: int) -> None:
        self._world = world
        is_forward = world.plan.parameters['motion'] == 'forward'
        self.hardware = Hardware(
            JOINTS,
            np.zeros(len(JOINTS)),
            _LOW,
            _HIGH,
            _SPEED,
            np.full(len(JOINTS), max(ACCELERATIONS)),
            speed_slack=_SPEED_SLACK,
            acceleration_slack=_ACCELERATION_SLACK if is_forward else np.inf,
            position_slack=0.0 if is_forward else _POSITION_SLACK,
            unsure_s=_UNSURE_S,
        )
        period_s = 1 / world.plan.parameters['control_rate_hz']
        self._forward = (
            ForwardController(self.hardware, period_s, _PATIENCE_S) if is_forward else None
        )
        self._trajectories = TrajectoryController(self.hardware, _PATH, _GOAL)
        self._moved_ns = world.scheduler.now_ns
        self._heard_ns = -NS
        topic, node = f'/{world.prefix(robot)}joint_states', (f'arm_{robot}', '/')
        self._publisher = RemotePublisher(world.graph, topic, JointState, node, BEST_EFFORT)
        self.heal()
        world.scheduler.after(world.random.uniform(0, 1 / _STATES_HZ), self._tick)

    @property
    def complaints(self) -> list[str]:
        return self.hardware.complaints

    def heal(self) -> None:
        self.is_silent = False
        self.follows = True  # its commands
        self.delay_s = 0.0  # on its way
        self.restamp: Callable[[int], int] = lambda stamp_ns: stamp_ns
        self.spoil: Callable[[JointState], None] = lambda message: None

    def hear(self, message: Any) -> None:
        """Take a command."""
        now_ns = self._world.scheduler.now_ns
        if self._forward is not None:
            hardware, data = self.hardware, np.array(message.data)
            is_far = np.abs(data - hardware.command).max() > _AT_REST
            if hardware.rests and is_far and np.allclose(data, hardware.position, 0.0, _AT_REST):
                hardware.moved_by_hand(hardware.position)  # a motion begins where it stands
            is_cycle = now_ns - self._heard_ns > _CYCLE_NS
            step = np.abs(data - hardware.command)
            if is_cycle or (step > _SPEED * _CYCLE_NS / NS).any():
                self._forward.hear(message, now_ns / NS)
                self._heard_ns = now_ns
            return
        stamp = message.header.stamp  # as the arm's own clock has it, which never jumps
        stamp_ns = stamp.sec * NS + stamp.nanosec - self._world.scheduler.system_offset_ns
        if abs(stamp_ns - now_ns) > _FAR_NS:
            stamp_ns = now_ns  # by a simulated time that nobody publishes
        before = stamp.sec, stamp.nanosec
        stamp.sec, stamp.nanosec = divmod(stamp_ns, NS)
        self._trajectories.hear(message, now_ns / NS)
        stamp.sec, stamp.nanosec = before

    def process_ended(self) -> None:
        """The stream ends, in the midst of a motion, perhaps."""
        if self._forward is not None:
            self.hardware.rest()

    def _tick(self) -> None:
        world = self._world
        now_ns = world.scheduler.now_ns
        passed_s, self._moved_ns = (now_ns - self._moved_ns) / NS, now_ns
        if self._forward is not None:
            self.hardware.live(passed_s if self.follows else 0.0)
        elif passed_s > 0:
            self._trajectories.update(now_ns / NS, passed_s)
        if not self.is_silent:
            self._tell()
        world.scheduler.after(world.random.uniform(0.9, 1.1) / _STATES_HZ, self._tick)

    def _tell(self) -> None:
        world = self._world
        message = JointState(name=list(JOINTS), position=self.hardware.position.tolist())
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(
            max(0, self.restamp(world.robot_ns())), NS
        )
        self.spoil(message)
        self._publisher.publish(message, world.transport_s() + self.delay_s)
