# SPDX-License-Identifier: Apache-2.0
"""The topics ``twist`` and ``gripper``: one robot's motion, for MoveIt Servo or a driver.

Used by the executor's thread. A timer sends the twist of the moment, whatever the inference does. A
hold stops the robot immediately.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from geometry_msgs.msg import TwistStamped, Vector3
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64

from vla_ros.graph.stamps import to_time
from vla_ros.motion import Box, Capture, Guide, Motion, PoseHistory, Twist
from vla_ros.parameters.check import motion_limits, workspace
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause
from vla_ros.ros.log import Log
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import Admitted, Output, OutputSetup
from vla_ros.ros.pose_input import PoseInput

_ZERO_S = 0.2  # zero is repeated before the silence: one message may get lost
_STANDSTILL_S = 0.3  # of simulated time: longer than between two ticks of a simulation's
_MIN_LIFESPAN_S = 0.1  # of a twist; MoveIt Servo, too, ignores older ones
_MAX_DELAY_S = 0.02  # from a twist's stamp to its sending; more means that the process was stopped


class MotionOutput(Output):
    """A stream of twists, silent until :meth:`publish` and some zeros after the end of a motion.

    The motion runs by the monotonic clock: a system clock that is set back moves no robot further.
    With simulated time it runs by that, as the simulation does.
    """

    def __init__(self, setup: OutputSetup) -> None:
        """Create the publishers and the timer."""
        node, parameters, prefix = setup.node, setup.parameters, setup.prefix
        self._guide = guide = _guide(setup)
        self.motion = Motion(
            setup.contracts, motion_limits(parameters), parameters.unnorm_key, guide
        )
        self._first_camera = setup.first_camera
        self._node = node
        self._clock = clock = setup.shared.clock
        self._frame_id = setup.frame_id
        self._most_zeros = math.ceil(_ZERO_S * parameters.control_rate_hz)
        self._zeros_left = 0  # to be sent when the motion is over
        self._period_s = 1 / parameters.control_rate_hz
        self._simulated = clock.is_simulated
        self._sent_s = 0.0  # when the last twist was, monotonic
        self._ticked_ns = 0  # the node's time at the last tick
        self._advanced_s = 0.0  # when that last changed, monotonic
        lifespan = Duration(seconds=max(_MIN_LIFESPAN_S, 2 * self._period_s))
        self._twists = node.create_publisher(
            TwistStamped, f'{prefix}twist', QoSProfile(depth=1, lifespan=lifespan)
        )
        self._grippers = node.create_publisher(Float64, f'{prefix}gripper', 1)
        self.topics = (self._twists.topic_name,)
        self.counters: tuple[Any, ...] = (self.motion.counters,)
        self._pose_inputs: list[PoseInput] = []  # one at most
        if guide is not None:
            self.counters += (guide.poses.counters,)
            pose_input = PoseInput(node, clock, prefix, guide.poses, self._interrupt)
            self._pose_inputs.append(pose_input)
        self._timer = node.create_timer(
            self._period_s,
            self._on_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # simulated time may stop
        )
        self._log_contract(setup.shared.log)

    @property
    def cause(self) -> Cause | None:
        """Why the last action moved nothing, or the next will not; None if it does."""
        return self.motion.cause

    def publish(self, admitted: Admitted) -> None:
        """Begin the motion of a chunk."""
        self._follow_clock()
        prediction, published = admitted.result.predicted(), admitted.published
        start_s = self._motion_s(published)
        remaining_s = (admitted.valid_until_ns - published.node_ns) / 1e9
        moves = self.motion.execute(
            prediction.actions,
            prediction.unnorm_key,
            start_s,
            start_s + remaining_s,
            admitted.description.action_space,
            admitted.description.period_s,
            due_s=start_s - (published.node_ns - admitted.due_ns) / 1e9,
            capture=Capture(
                admitted.result.observation.stamps_ns[self._first_camera], published.node_ns
            ),
        )
        if not moves:
            self.hold()
            return
        self._zeros_left = self._most_zeros
        self._tell_gripper()

    def hold(self) -> None:
        """Send zero, now and for a while, if the robot may be moving."""
        moved = self._zeros_left == self._most_zeros
        self.motion.stop()
        if moved and self._node.context.ok():
            self._tick()

    @property
    def limited(self) -> str:
        """The workspace, if the last motion would have left it."""
        return 'workspace_m' if self.motion.leaves_workspace else ''

    def forget_stamps(self) -> None:
        """Forget the poses."""
        if self._guide is not None:
            self._guide.poses.forget()

    def adjust(self, setup: OutputSetup) -> None:
        """Apply limits and contracts from now on; a motion in another frame ends immediately."""
        if setup.frame_id != self._frame_id:
            self.hold()
            self._frame_id = setup.frame_id
        if self._guide is not None:
            self._guide.poses.adjust(_span_s(setup.parameters))
            self._guide = replace(self._guide, frame_id=setup.frame_id)
        self.motion.adjust(setup.contracts, motion_limits(setup.parameters), self._guide)

    def forget(self) -> None:
        """Stop, and forget the state of the gripper."""
        self.hold()
        self.motion.forget_gripper()

    def catch_up(self) -> None:
        """Send the twist that is due, if other callbacks have delayed the timer."""
        if self._clock.monotonic_s() - self._sent_s >= self._period_s:
            self._tick()

    @property
    def rest_s(self) -> float:
        """Time between two of the zeros that end a motion [s]; 0: all were sent, or cannot be."""
        return self._period_s if self._zeros_left > 0 and self._node.context.ok() else 0.0

    def say_end(self) -> None:
        """Send the next of the zeros that end a motion."""
        self._tick()

    def close(self, flush_s: float) -> None:
        """Destroy timer and publishers, once all listeners have the last twist."""
        self._node.destroy_timer(self._timer)
        for pose_input in self._pose_inputs:
            pose_input.close()
        if self._node.context.ok():
            self._twists.wait_for_all_acked(Duration(seconds=flush_s))
        self._node.destroy_publisher(self._twists)
        self._node.destroy_publisher(self._grippers)

    def _log_contract(self, log: Log) -> None:
        contract = self.motion.contract
        if self.motion.cause:
            log.warning(f'no motion: {self.motion.cause.message}')
        elif contract is not None:
            log.info(
                f'motion by {contract.unnorm_key}: {self._frame_id} is to be the {contract.frame} '
                f'of a {contract.robot}, {contract.rate_hz:.3g} actions a second'
            )

    def _on_timer(self) -> None:
        # After a late tick or a stop the timer may be due again immediately.
        if self._clock.monotonic_s() - self._sent_s >= self._period_s / 2:
            self._tick()

    def _tick(self) -> None:
        if not self._zeros_left:
            return
        self._follow_clock()
        now = self._clock.now()
        if self._simulated:
            self._stop_at_standstill(now)
        now_s = self._motion_s(now)
        if not self.motion.is_over(now_s) and (lost := self.motion.why_lost(now.node_ns)):
            self.motion.interrupt(lost)
        message = TwistStamped()
        message.header.stamp = to_time(now.node_ns)
        message.header.frame_id = self._frame_id
        message.twist.linear, message.twist.angular = _vectors(self.motion.twist(now_s))
        if self._clock.monotonic_s() - now.monotonic_s > _MAX_DELAY_S:
            return  # it was right a while ago; the timer sends what is right by now
        self._twists.publish(message)
        if self.motion.begin_rows(now_s):
            self._tell_gripper()
        self._sent_s = now.monotonic_s
        self._zeros_left -= self.motion.is_over(now_s)

    def _interrupt(self, cause: Cause) -> None:
        """Stop the motion that the tool's pose no longer supports."""
        if not self.motion.is_over(self._motion_s(self._clock.now())):
            self.motion.interrupt(cause)
            self.hold()

    def _tell_gripper(self) -> None:
        if self.motion.gripper is not None:
            self._grippers.publish(Float64(data=self.motion.gripper))

    def _motion_s(self, moment: Moment) -> float:
        """Return the moment by the clock that the motion runs by."""
        return moment.node_ns / 1e9 if self._simulated else moment.monotonic_s

    def _follow_clock(self) -> None:
        """Stop if the clock has changed: a motion ends with the clock that it runs by."""
        if self._clock.is_simulated != self._simulated:
            self._simulated = self._clock.is_simulated
            self.motion.stop()

    def _stop_at_standstill(self, now: Moment) -> None:
        if now.node_ns != self._ticked_ns:
            self._ticked_ns, self._advanced_s = now.node_ns, now.monotonic_s
        elif now.monotonic_s - self._advanced_s > _STANDSTILL_S:
            self.motion.stop()  # by that clock no motion would ever end


def _guide(setup: OutputSetup) -> Guide | None:
    """Return what the motions must know of the tool; None if they need no pose."""
    parameters = setup.parameters
    from_image = parameters.chunk_timing == 'from_pose'
    numbers = workspace(setup.workspace)
    if not from_image and not numbers:
        return None
    poses = PoseHistory(_span_s(parameters), parameters.max_pose_age_s)
    return Guide(poses, setup.frame_id, from_image, Box.of(numbers) if numbers else None)


def _span_s(parameters: Parameters) -> float:
    """Return for how long poses are kept: until no chunk can be of an image before them."""
    return parameters.max_action_age_s + 2 * parameters.max_pose_age_s


def _vectors(twist: Twist) -> list[Vector3]:
    return [Vector3(x=x, y=y, z=z) for x, y, z in twist.reshape(2, 3).tolist()]
