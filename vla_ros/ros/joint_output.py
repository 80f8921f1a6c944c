# SPDX-License-Identifier: Apache-2.0
"""The topics ``joint_commands`` and ``joint_trajectory``: one robot's joints, for ros2_control.

Used by the executor's thread.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.graph.stamps import to_duration, to_time
from vla_ros.motion.joint_limits import JointLimit, JointLimits
from vla_ros.motion.joint_profile import Joints, JointSample
from vla_ros.motion.joint_states import JointsHeard
from vla_ros.motion.joints import JointMotion
from vla_ros.parameters.check import joint_limits
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause
from vla_ros.ros.gripper_output import Gripper, GripperCounters, make_gripper
from vla_ros.ros.joint_input import DescriptionInput, JointInput
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import Admitted, OutputSetup
from vla_ros.ros.stream import Stream

# The first point of a trajectory. Until then the controller blends from where it is to where the
# motion is, with its own spline: sooner it would be too fast for joints that lag behind.
_BLEND_S = 0.1


class JointOutput(Stream):
    """Positions of joints; the motion ends where the joints are then.

    Each group of joints has a topic and a controller of its own.
    """

    _max_gap_s = math.inf  # between two positions of a motion

    def __init__(self, setup: OutputSetup, kind: type) -> None:
        """Create the publishers, and listen to the joints."""
        parameters = setup.parameters
        prefixes = parameters.joint_groups or ('',)
        super().__init__(setup, kind, *parameters.moving_topics[1:])
        self._setup = setup
        self._description: Mapping[str, JointLimit] | Cause = setup.description
        self._heard = heard = JointsHeard(parameters.max_joint_age_s)
        self.motion = JointMotion(
            setup.contracts,
            self._limits(parameters),
            parameters.unnorm_key,
            heard,
            prefixes,
            self._max_gap_s,
        )
        self._motion_simulated = self._simulated
        self._grippers: dict[str, Gripper] = {}  # by the name of the topic
        self._goals = GripperCounters()
        self.counters: tuple[Any, ...] = (
            self.motion.counters,
            self.motion.clipped,
            heard.counters,
            self._goals,
        )
        self._inputs: list[JointInput | DescriptionInput] = [
            JointInput(setup.node, self._clock, setup.prefix, heard, self._interrupt)
        ]
        if parameters.robot_description == 'topic':
            self._inputs.append(
                DescriptionInput(setup.node, setup.prefix, setup.shared.log, self._describe)
            )
        self._log_contract()

    # -- an output ---------------------------------------------------------------------------------

    @property
    def cause(self) -> Cause | None:
        """Why the last action moved nothing, or the next will not; None if it does."""
        return self.motion.cause

    @property
    def limited(self) -> str:
        """The joints that the last motion would have led out of their limits."""
        joints = self.motion.limited
        return f'limits of {", ".join(joints)}' if joints else ''

    def forget_stamps(self) -> None:
        """Forget the joints; a motion by simulated time ends where the joints were commanded."""
        self._heard.forget()
        if self._simulated:
            self.motion.freeze()

    def adjust(self, setup: OutputSetup) -> None:
        """Apply limits and contracts from now on; what changes for a motion ends it."""
        super().adjust(setup)
        self._setup = setup
        self._heard.max_age_s = setup.parameters.max_joint_age_s
        stops = self.motion.stops
        self.motion.adjust(setup.contracts, self._limits(setup.parameters), self._now_s())
        if self.motion.stops != stops:
            self.hold()  # the controller learns it immediately

    def forget(self) -> None:
        """Stop, and forget the last command and the grippers."""
        self.hold()
        self.motion.forget()
        for gripper in self._grippers.values():
            gripper.forget()

    def close(self, flush_s: float) -> None:
        """Destroy timer, subscriptions and publishers, once all listeners have the last command."""
        for one in self._inputs:
            one.close()
        super().close(flush_s)
        for gripper in self._grippers.values():
            gripper.close()

    # -- a stream ----------------------------------------------------------------------------------

    def _begin(self, admitted: Admitted, now_s: float) -> bool:
        prediction, published = admitted.result.predicted(), admitted.published
        return self.motion.execute(
            prediction.actions,
            prediction.unnorm_key,
            now_s,
            now_s + (admitted.valid_until_ns - published.node_ns) / 1e9,
            published.node_ns,
            admitted.description.action_space,
            admitted.description.period_s,
            due_s=now_s - (published.node_ns - admitted.due_ns) / 1e9,
        )

    def _stop(self) -> None:
        if self._motion_simulated != self._simulated:
            self._motion_simulated = self._simulated
            self.motion.freeze()
        self.motion.stop(self._now_s())

    def _is_over(self, now_s: float) -> bool:
        return self.motion.is_over(now_s)

    @abstractmethod
    def _commands(self, now: Moment, now_s: float, positions: Joints) -> Sequence[Any]:
        """Return a message for each group; none if nothing is to be sent.

        :param positions: those of the moment.
        """

    def _command(self, now: Moment, now_s: float) -> Sequence[Any]:
        if self.motion.is_moving(now_s) and (lost := self.motion.why_lost(now.node_ns)):
            self.motion.interrupt(lost, now_s)
        positions = self.motion.positions(now_s)
        return () if positions is None else self._commands(now, now_s, positions)

    def _send(self, command: Sequence[Any]) -> None:
        for publisher, message in zip(self._publishers, command, strict=bool(command)):
            publisher.publish(message)

    def _turn_grippers(self, now_s: float) -> None:
        if self.motion.begin_rows(now_s):
            self._send_grippers()
        elif self.motion.is_moving(now_s):
            for gripper in self._grippers.values():
                gripper.retry()

    def _give_up_grippers(self) -> None:
        for gripper in self._grippers.values():
            gripper.give_up()

    # -- the rest ----------------------------------------------------------------------------------

    def _interrupt(self, cause: Cause) -> None:
        """Stop the motion that the joints' positions no longer support."""
        now_s = self._now_s()
        if self.motion.is_moving(now_s):
            self.motion.interrupt(cause, now_s)
            self.hold()

    def _describe(self, description: Mapping[str, JointLimit] | Cause) -> None:
        self._description = description
        self.adjust(self._setup)

    def _limits(self, parameters: Parameters) -> JointLimits:
        return joint_limits(parameters, self._description)

    def _send_grippers(self) -> None:
        """Publish each gripper's opening; a gripper that is the only one has the topic gripper."""
        names = self.motion.grippers
        topics = {name: 'gripper' if len(names) == 1 else name for name in names}
        for topic in self._grippers.keys() - set(topics.values()):
            self._grippers.pop(topic).close()  # of another contract
        for name, opening in self.motion.openings.items():
            topic = topics[name]
            if topic not in self._grippers:
                self._grippers[topic] = make_gripper(self._setup, self._goals, topic)
            self._grippers[topic].send(opening)

    def _log_contract(self) -> None:
        contract, log = self.motion.contract, self._setup.shared.log
        if self.motion.cause:
            log.warning(f'no motion: {self.motion.cause.message}')
        elif contract is not None:
            log.info(
                f'motion by {contract.unnorm_key} ({contract.robot}): '
                f'{len(self.motion.joints)} joints, {contract.rate_hz:.3g} actions a second'
            )


class ForwardOutput(JointOutput):
    """A stream of positions for forward_command_controller."""

    _max_gap_s = 0.11

    def __init__(self, setup: OutputSetup) -> None:
        """Create the publishers."""
        super().__init__(setup, Float64MultiArray)

    def _commands(self, now: Moment, now_s: float, positions: Joints) -> list[Float64MultiArray]:
        return [Float64MultiArray(data=positions[group].tolist()) for group in self.motion.groups]


class TrajectoryOutput(JointOutput):
    """Trajectories for joint_trajectory_controller: one for each chunk, and two at each hold.

    A trajectory tells the whole motion, so nothing is sent while it goes on. Its stamp is the
    node's time: what arrives late is played from where the motion is by then, and is rejected by
    the controller when it would be over.
    """

    def __init__(self, setup: OutputSetup) -> None:
        """Create the publishers."""
        super().__init__(setup, JointTrajectory)
        self._is_new = False  # a chunk that was not sent yet
        self._stops = 0  # those that were sent
        self._says_again = False  # that the joints were stopped: a message may get lost

    def publish(self, admitted: Admitted) -> None:
        """Send the motion of a chunk immediately."""
        super().publish(admitted)
        if self._is_new:
            self._tick()

    def _begin(self, admitted: Admitted, now_s: float) -> bool:
        self._is_new = super()._begin(admitted, now_s)
        return self._is_new

    def _commands(self, now: Moment, now_s: float, positions: Joints) -> list[JointTrajectory]:
        is_stopped = self.motion.stops != self._stops
        is_last = self._ending_left == 1 and self.motion.is_over(now_s)
        if not (self._is_new or is_stopped or (self._says_again and is_last)):
            return []
        samples = self.motion.samples(now_s, self._period_s)
        later = [one for one in samples if one.at_s >= _BLEND_S]
        samples = later or [samples[-1]._replace(at_s=_BLEND_S)]
        joints, groups = self.motion.joints, self.motion.groups
        return [_trajectory(joints, group, samples, now) for group in groups]

    def _send(self, command: Sequence[JointTrajectory]) -> None:
        super()._send(command)
        if command:
            self._says_again = self.motion.stops != self._stops
            self._is_new, self._stops = False, self.motion.stops


def _trajectory(
    joints: Sequence[str], group: list[int], samples: Sequence[JointSample], now: Moment
) -> JointTrajectory:
    message = JointTrajectory(
        joint_names=[joints[index] for index in group],
        points=[
            JointTrajectoryPoint(
                positions=one.positions[group].tolist(),
                velocities=one.velocities[group].tolist(),
                time_from_start=to_duration(one.at_s),
            )
            for one in samples
        ],
    )
    message.header.stamp = to_time(now.node_ns)
    return message
