# SPDX-License-Identifier: Apache-2.0
"""The motion of one robot, from the chunks of actions that were published for it.

Independent of ROS and of threads. Its only inputs are chunks and the time, so every motion ends in
time, whatever the policy does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import ActionContract, Contract
from vla_ros.motion.displacement import ACTION_DIM, action_twist
from vla_ros.motion.gripper import GripperSwitch
from vla_ros.motion.orientation import Vector, rotated
from vla_ros.motion.pose import Pose, PoseHistory
from vla_ros.motion.profile import Clipped, MotionLimits, Twist, TwistProfile
from vla_ros.motion.refused import NoMotion, known, no_contract, row_0_ends_s, rows_past
from vla_ros.motion.route import Box, Planned, Progress, distance, inward, path_of, plan, rows_done
from vla_ros.motion.rows import Due
from vla_ros.motion.target import Target
from vla_ros.reasons import Cause, Reason
from vla_ros.types import ActionSpace

# From a contract's frame, ``base`` or ``end_effector``, to the quaternion that turns its axes into
# those of the twists, or to the reason why it is unknown.
Axes = Callable[[str], Vector | Cause]


def _same_axes(_: str) -> Vector:
    return np.array([0.0, 0.0, 0.0, 1.0])


@dataclass
class MotionCounters:
    """The counters of one robot's motions.

    :param motions: published actions that became a motion; a chunk counts as one.
    :param motions_refused: published actions that did not, for lack of a contract or because they
        are not a motion.
    :param rows_skipped: rows that were not played, since their time was past or they were done.
    :param motions_interrupted: motions that ended early, since the pose of the tool was lost, or
        the tool did not follow.
    :param clipped_linear: motions that were shortened, since their linear speed was too high.
    :param clipped_angular: motions that were shortened, since their angular speed was too high.
    :param clipped_workspace: motions that were shortened, since they led out of the workspace.
    """

    motions: int = 0
    motions_refused: int = 0
    rows_skipped: int = 0
    motions_interrupted: int = 0
    clipped_linear: int = 0
    clipped_angular: int = 0
    clipped_workspace: int = 0


@dataclass(frozen=True)
class Guide:
    """What a motion is to know of the tool.

    :param poses: what was heard of it.
    :param frame_id: frame of the twists; the poses must be in it if it is the base.
    :param from_image: whether the displacements of a chunk are counted from the pose that its image
        shows; otherwise they follow from wherever the tool is.
    :param box: where the tool may go, in the frame of the poses; None: anywhere.
    :param max_lead_m: how far a target may be ahead of the tool, with a radian as 0.1 m; None:
        there is no target, and a robot follows the twists.
    """

    poses: PoseHistory
    frame_id: str
    from_image: bool
    box: Box | None
    max_lead_m: float | None = None


class Capture(NamedTuple):
    """The image of a chunk, by the robot's clock in nanoseconds.

    :param stamp_ns: of the policy's first camera.
    :param now_ns: when the chunk begins.
    """

    stamp_ns: int
    now_ns: int


class Motion:
    """The motion of one robot. Times are seconds of the robot's clock.

    :param contracts: action contracts by unnorm_key.
    :param limits: limits of the robot; lower limits of a contract take precedence.
    :param unnorm_key: data set of the actions to come; empty: that of the first action.
    :param guide: the pose of the tool, where the motion depends on it.
    :param axes: how the axes of the contract's frame lie to those of the twists.
    """

    def __init__(
        self,
        contracts: Mapping[str, Contract],
        limits: MotionLimits,
        unnorm_key: str,
        guide: Guide | None = None,
        axes: Axes = _same_axes,
    ) -> None:
        self.counters = MotionCounters()
        self.leaves_workspace = False  # the last motion would have, and was shortened
        self._guide, self._axes = guide, axes
        self._target: Target | None = None  # of the last motion
        self.cause: Cause | None = None  # why actions cause no motion
        self._contracts = contracts
        self._limits = limits
        self._gripper = GripperSwitch()
        self._profile = TwistProfile(limits)
        self._contract: ActionContract | None = None
        if unnorm_key:
            self._choose(unnorm_key)

    @property
    def contract(self) -> ActionContract | None:
        """The current contract; None if there is none, or before the first action."""
        return self._contract

    @property
    def gripper(self) -> float | None:
        """State of the gripper: 1 open, 0 closed; None if unknown."""
        return self._gripper.opening

    def execute(
        self,
        actions: NDArray[np.float64],
        unnorm_key: str,
        now_s: float,
        valid_until_s: float,
        space: ActionSpace = ActionSpace.UNKNOWN,
        period_s: float | None = None,
        due_s: float | None = None,
        capture: Capture | None = None,
    ) -> bool:
        """Begin a chunk, and return whether it is a motion.

        The chunk replaces the rest of the previous one. Row k begins k periods after row 0 is due.
        It makes its displacement in one period and the ramps, or a part of it if its validity ends
        sooner. Of rows that were due before now, only what is left of their time is made.
        A chunk that is not a motion is counted, stops the robot, and sets ``cause``.

        :param actions: float64 [K, D], un-normalised; [D] is a chunk of one row.
        :param valid_until_s: time by which the motion of row 0 must end; that of row k may end k
            periods later.
        :param space: action space; UNKNOWN: the contract's, which has displacements.
        :param period_s: time between two rows; None: the contract's.
        :param due_s: time at which row 0 is due, at the latest now; None: now.
        :param capture: needed with a guide.
        """
        if self._contract is None or self._contract.unnorm_key != unnorm_key:
            self._choose(unnorm_key)
        elif self._profile.is_over(now_s):
            self._profile.limits = _within(self._limits, self._contract)
        if space not in (ActionSpace.POSE_DELTA, ActionSpace.UNKNOWN):
            self.cause = _not_a_displacement(space)
        elif self._contract is not None:
            period_s = period_s or self._contract.period_s
            contract = replace(self._contract, period_s=period_s)
            capture = capture or Capture(0, 0)
            due_s = now_s if due_s is None else min(due_s, now_s)
            due = Due(due_s, now_s, valid_until_s)
            self.leaves_workspace = False
            try:
                self._begin(np.atleast_2d(actions), contract, due, capture)
                self.cause = None
            except NoMotion as refused:
                self.cause = refused.cause
        if self.cause:
            self.stop()
            self.counters.motions_refused += 1
        return not self.cause

    def interrupt(self, cause: Cause) -> None:
        """Stop immediately, since the tool's pose is lost; actions may move it again later."""
        self.stop()
        self.cause = cause
        self.counters.motions_interrupted += 1

    def why_lost(self, now_ns: int) -> Cause | None:
        """Return why the tool's pose is lost, if a motion needs it, or that it does not follow.

        :returns: None if all is well.
        """
        if self._guide is None:
            return None
        newest = self._guide.poses.newest(now_ns)
        return newest if isinstance(newest, Cause) else self._why_behind(self._guide, newest.pose)

    def adjust(
        self,
        contracts: Mapping[str, Contract],
        limits: MotionLimits,
        guide: Guide | None = None,
        axes: Axes = _same_axes,
    ) -> None:
        """Apply other contracts and limits from now on, also to the current motion.

        Lower speeds shorten it. It ends immediately if its contract has changed, or if ramps become
        longer: by the longer ramp it would be another motion.

        :param guide: with the poses of the one before.
        """
        before, in_force = self._contract, self._profile.limits
        self._contracts, self._limits, self._guide = contracts, limits, guide
        self._profile.kept_s = self._kept_s
        self._axes = axes
        if before is None:
            self.cause = None  # the next action finds its contract, or none
            return
        if contracts.get(before.unnorm_key) != before:
            self.stop()
            self._choose(before.unnorm_key)
            return
        limits = _within(limits, before)
        if limits.ramp_s > in_force.ramp_s:
            self.stop()
        else:  # the ramp of the current motion stays as it is, until the motion is over
            limits = replace(limits, least_ramp_s=in_force.ramp_s)
        self._profile.limits = limits

    def stop(self) -> None:
        """Stop immediately, and discard all rows. The gripper stays as it is."""
        self._profile.stop()
        self._gripper.stop()

    def forget_gripper(self) -> None:
        """Forget the state of the gripper: the operator may have moved it."""
        self._gripper = GripperSwitch()

    def begin_rows(self, now_s: float) -> bool:
        """Turn the gripper of the rows that the arm begins, and return whether there were any.

        If so, the gripper must be published.
        """
        return self._gripper.begin_rows(now_s)

    def twist(self, now_s: float) -> Twist:
        """Return the twist at a time.

        :returns: float64 [6], m/s and rad/s, along the axes of the contract's frame, turned.
        """
        twist, guide = self._profile.twist(now_s), self._guide
        if guide is None or guide.box is None or self._contract is None or not twist.any():
            return twist
        # A workspace bounds the goals. This is for a tool that is not where it was commanded to.
        last = guide.poses.last
        return inward(twist, last, self._contract.frame, guide.box) if last else twist

    def target(self, now_s: float) -> Target:
        """Return where a controller is to bring the tool at a time.

        :raises LookupError: before the first motion, or without a guide that has a target.
        """
        if self._target is None:
            raise LookupError('no motion has begun, so there is no target')
        if self._contract is not None and self._guide is not None:
            self._target.advance(self._profile, self._contract.frame, self._guide.box, now_s)
        return self._target

    def is_over(self, now_s: float) -> bool:
        """Return whether the twist stays zero until the next chunk."""
        return self._profile.is_over(now_s)

    @property
    def _kept_s(self) -> float:
        """For how long commands are kept: until the newest pose shows what they did."""
        return 0.0 if self._guide is None else self._guide.poses.max_age_s

    def _choose(self, unnorm_key: str) -> None:
        contract = self._contracts.get(unnorm_key)
        limits, self._contract = self._limits, None
        if contract is None:
            self.cause = no_contract(unnorm_key, self._contracts)
            return
        if not isinstance(contract, ActionContract):
            self.cause = _not_a_displacement(contract.action_space)
            return
        self.cause, self._contract = None, contract
        self._gripper.stop()
        self._profile = TwistProfile(_within(limits, contract), kept_s=self._kept_s)

    def _begin(
        self, actions: NDArray[np.float64], contract: ActionContract, due: Due, capture: Capture
    ) -> None:
        """Begin a chunk.

        :raises NoMotion: if it is not a motion.
        """
        rotation = known(self._axes(contract.frame))
        twists, openings = _rows(actions, contract, rotation)
        guide, period_s, ramps_s = self._guide, contract.period_s, 2 * self._profile.limits.ramp_s
        tool = None if guide is None else self._settled(guide, contract, due.now_s, capture.now_ns)
        rows: Sequence[Pose | Twist] = list(twists)
        if guide is not None and guide.from_image and tool is not None:
            rows, progress = self._goals(
                guide, contract, twists, openings, tool, due.now_s, capture
            )
            skipped, made = progress.done, 1.0 - progress.left
            due = due.from_row(skipped, period_s)._replace(row_0_s=due.now_s - made * period_s)
            ends_s = row_0_ends_s(due, period_s, ramps_s, due.now_s)
        else:
            ends_s = row_0_ends_s(due, period_s, ramps_s, due.row_0_s)
            skipped = due.past(len(twists), period_s, ends_s)
            due, ends_s = due.from_row(skipped, period_s), ends_s + skipped * period_s
        self.counters.rows_skipped += skipped
        rows, openings = rows[skipped:], openings[skipped:]
        if not openings:
            raise NoMotion(*rows_past(skipped, due, period_s))
        windows = due.windows(len(openings), period_s, ends_s)
        planned = Planned(twists[skipped:], Clipped(False, False), False)
        if guide is not None and tool is not None:
            bounded = self._profile.bounded
            planned = plan(tool, rows, windows, contract.frame, bounded, guide.box)
        clipped = self._profile.follow(planned.twists, windows, due.now_s)
        is_there = guide is not None and guide.from_image  # the poses tell that
        begins_s, valid_s = due.rows_s(len(openings), period_s)
        self._gripper.follow(openings, begins_s, valid_s, ramps_s / 2, is_there)
        self.counters.motions += 1
        self.counters.clipped_linear += clipped.linear or planned.clipped.linear
        self.counters.clipped_angular += clipped.angular or planned.clipped.angular
        self.counters.clipped_workspace += planned.left_box
        self.leaves_workspace = planned.left_box

    def _settled(self, guide: Guide, contract: ActionContract, now_s: float, now_ns: int) -> Pose:
        """Return where the tool comes to rest if all commands end now.

        With a target, the tool is where the target is: it comes there by itself. Without one, the
        newest pose is a little old, and the twists lag behind the commands by their ramps: the
        tool has still to make what was commanded and is not in the pose.
        """
        newest = known(guide.poses.newest(now_ns))
        if contract.frame == 'base' and guide.poses.frame.lstrip('/') != guide.frame_id.lstrip('/'):
            raise NoMotion(
                Reason.MOTION_POSE_FRAME,
                f'ee_pose is in the frame {guide.poses.frame!r}, and the motion in frame_id, '
                f'{guide.frame_id!r}; publish the pose in that frame',
            )
        since_s = now_s - (now_ns - newest.stamp_ns) / 1e9
        at = newest.pose
        if guide.max_lead_m is not None:
            since_s, at = now_s, self._led(guide, newest.pose, now_s)
        return at.moved(self._profile.pending(since_s, now_s), contract.frame)

    def _led(self, guide: Guide, tool: Pose, now_s: float) -> Pose:
        """Return where the tool is commanded to be, which is where it is if nobody leads it."""
        target = self._target
        if target is None or not target.is_followed(now_s) or target.frame != guide.poses.frame:
            self._target = target = Target(tool, guide.poses.frame, now_s)
        pose = self.target(now_s).pose
        if behind := self._why_behind(guide, tool):
            raise NoMotion(*behind)
        return pose

    def _why_behind(self, guide: Guide, tool: Pose) -> Cause | None:
        """Return that the tool does not follow its target; None if it does."""
        if guide.max_lead_m is None or self._target is None:
            return None
        lead_m = distance(self._target.pose, tool)
        if lead_m <= guide.max_lead_m:
            return None
        return Cause(
            Reason.MOTION_NOT_FOLLOWED,
            f'the target is {lead_m:.3f} m ahead of ee_pose (a radian counts as 0.1 m), and '
            f'max_lead_m is {guide.max_lead_m:g}; see whether the controller follows the target at '
            "all, allow it this motion's speed, and take ee_pose of the frame that it moves",
        )

    def _goals(
        self,
        guide: Guide,
        contract: ActionContract,
        twists: NDArray[np.float64],
        openings: Sequence[float],
        tool: Pose,
        now_s: float,
        capture: Capture,
    ) -> tuple[list[Pose], Progress]:
        """Return the goal of each row, and how far the arm has come.

        The displacements are counted from the pose that the image shows. So what the arm has done
        since then is taken off, and a late chunk is right for an arm that waited.
        """

        def motion_s(stamp_ns: int) -> float:
            return now_s - (capture.now_ns - stamp_ns) / 1e9

        image_s = motion_s(capture.stamp_ns)
        start = known(guide.poses.at(capture.stamp_ns))
        path = path_of(start, list(twists * contract.period_s), contract.frame)
        heard = [(motion_s(one.stamp_ns), one.pose) for one in guide.poses.since(capture.stamp_ns)]
        progress = rows_done(
            path,
            self._gripper.states(openings, image_s),
            [*heard, (now_s, tool)],
            self._gripper.changes_since(image_s),
            (image_s, contract.period_s),
        )
        if progress is None:
            raise NoMotion(
                Reason.MOTION_GRIPPER_AHEAD,
                'the gripper has moved since the image, and not as this chunk moves it, so it is '
                'unknown which rows are done; a chunk of a later image will tell',
            )
        return path[1:], progress


def _rows(
    actions: NDArray[np.float64], contract: ActionContract, rotation: Vector
) -> tuple[NDArray[np.float64], list[float]]:
    """Return the twist of each row, float64 [K, 6], and the opening of its gripper.

    :param rotation: quaternion from the axes of the contract's frame to those of the twists.
    :raises NoMotion: if they have another size, or are not finite.
    """
    if actions.shape[1] != ACTION_DIM:
        text = f'the action has {actions.shape[1]} values; a motion needs {ACTION_DIM}'
        raise NoMotion(Reason.MOTION_SHAPE, text)
    with np.errstate(over='ignore', invalid='ignore'):
        twists = np.array([action_twist(row, contract) for row in actions])
    openings = [contract.opening(float(row[6])) for row in actions]
    finite = np.isfinite(twists).all(axis=1) & np.isfinite(openings)
    if not finite.all():
        row = actions[int(finite.argmin())]
        raise NoMotion(
            Reason.MOTION_NOT_FINITE,
            f'the action {row.tolist()} is not a motion: its displacement or its gripper is not '
            'finite',
        )
    turned = np.hstack([rotated(rotation, twists[:, :3]), rotated(rotation, twists[:, 3:])])
    return turned, openings


def _not_a_displacement(space: ActionSpace) -> Cause:
    return Cause(
        Reason.MOTION_NOT_A_DISPLACEMENT,
        f'the action space is {space.name}, and a motion needs POSE_DELTA; set '
        'the parameter motion to none, and use the topic action',
    )


def _within(limits: MotionLimits, contract: ActionContract) -> MotionLimits:
    """Return the limits, with the contract's where these are lower."""
    return replace(
        limits,
        linear_m_s=min(limits.linear_m_s, contract.max_linear_m_s),
        angular_rad_s=min(limits.angular_rad_s, contract.max_angular_rad_s),
    )
