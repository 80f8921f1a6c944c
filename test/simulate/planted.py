# SPDX-License-Identifier: Apache-2.0
"""Mistakes to plant into the node, written by hand: each is one that a person might make.

At least three each in inputs, assembly, slots, worker, gate, robot, motion, switches and node.
``old`` stands in its file exactly once.
"""

from __future__ import annotations

from typing import NamedTuple

_INSTRUCTIONS = 'vla_ros/ros/instructions.py'
_CAMERAS = 'vla_ros/ros/cameras.py'
_SLOT = 'vla_ros/scheduling/slot.py'
_WORKER = 'vla_ros/scheduling/worker.py'
_GATE = 'vla_ros/scheduling/gate.py'
_ROBOT = 'vla_ros/ros/robot.py'
_OBSERVATIONS = 'vla_ros/ros/observations.py'
_SESSION = 'vla_ros/ros/robot_session.py'
_CONFIGURATION = 'vla_ros/ros/configuration.py'
_MOTION = 'vla_ros/motion/motion.py'
_PROFILE = 'vla_ros/motion/profile.py'
_OUTPUT = 'vla_ros/ros/motion_output.py'
_STREAM = 'vla_ros/ros/stream.py'
_SWITCHES = 'vla_ros/ros/switches.py'
_NODE = 'vla_ros/ros/node.py'
_CAMERA = 'vla_ros/scheduling/camera.py'
_CLOCK = 'vla_ros/scheduling/clock.py'
_TYPES = 'vla_ros/types.py'
_ASSEMBLY = 'vla_ros/scheduling/assembly.py'
_ROWS = 'vla_ros/motion/rows.py'
_REPLANNING = 'vla_ros/scheduling/replanning.py'
_REFUSED = 'vla_ros/motion/refused.py'
_ROUTE = 'vla_ros/motion/route.py'
_POSE = 'vla_ros/motion/pose.py'
_GRIPPER = 'vla_ros/motion/gripper.py'
_GOALS = 'vla_ros/ros/goals.py'
_STATE_PARTS = 'vla_ros/motion/state_parts.py'
_TARGET = 'vla_ros/motion/target.py'
_JOINTS = 'vla_ros/motion/joints.py'
_JOINT_PROFILE = 'vla_ros/motion/joint_profile.py'
_JOINT_OUTPUT = 'vla_ros/ros/joint_output.py'


class Planted(NamedTuple):
    name: str
    file: str
    old: str
    new: str


PLANTED = [
    Planted(
        'inputs: a new instruction does not drop what is under way',
        _INSTRUCTIONS,
        '        self._on_change(self._conflict(now_s))\n',
        '        self._conflict(now_s)\n',
    ),
    Planted(
        'inputs: a repeated image counts as a sign of life',
        _CAMERAS,
        '        verdict = self.watch.judge(image, stamp_ns)\n',
        '        verdict = self.watch.judge(image, stamp_ns)\n'
        '        self.last_image_s = self._clock.monotonic_s()\n',
    ),
    Planted(
        'inputs: a rejected image is no fault',
        _CAMERAS,
        "            self._on_fault(Cause(Reason.IMAGE_REJECTED, f'image rejected: {error}'))\n",
        '',
    ),
    Planted(
        'inputs: images are submitted to a robot that is switched off',
        _SESSION,
        "            instruction=lambda: '' if self._is_off else parts.instructions.text,\n",
        '            instruction=lambda: parts.instructions.text,\n',
    ),
    Planted(
        'inputs: a late instruction is obeyed',
        _INSTRUCTIONS,
        '        if not late:\n            self.set(message.data)\n            return\n',
        '        if True:\n            self.set(message.data)\n            return\n',
    ),
    Planted(
        'inputs: an unusable instruction leaves the one before in force',
        _INSTRUCTIONS,
        '            self.reject(str(refusal))\n            return\n',
        '            self.counters.instructions_rejected += 1\n            return\n',
    ),
    Planted(
        'inputs: the cameras of the last activation still count',
        _CAMERAS,
        '        self._cameras, self._subscriptions = [], []\n',
        '        self._subscriptions = []\n',
    ),
    Planted(
        'slot: the oldest wins',
        _SLOT,
        '            if slot.item is not None:\n                slot.superseded += 1\n'
        '            slot.item = item\n',
        '            if slot.item is not None:\n                slot.superseded += 1\n'
        '                slot.observations += 1\n                return\n'
        '            slot.item = item\n',
    ),
    Planted(
        'slot: an item stays after it was taken',
        _SLOT,
        '                item, slot.item = slot.item, None\n',
        '                item = slot.item\n                if not is_fresh(item):\n'
        '                    slot.item = None\n',
    ),
    Planted(
        'slot: only one source is taken at a time',
        _SLOT,
        '                taken.append((item, fresh))\n',
        '                taken.append((item, fresh))\n                break\n',
    ),
    Planted(
        'slot: nobody is woken',
        _SLOT,
        '            slot.observations += 1\n            self._changed.notify()\n',
        '            slot.observations += 1\n',
    ),
    Planted(
        'worker: a result from before a reset counts',
        _WORKER,
        '                if self._is_current(submission):\n                    return result\n',
        '                if True:\n                    return result\n',
    ),
    Planted(
        'worker: a reset of one robot is a reset of the first',
        _WORKER,
        '            for each in range(len(self._epochs)) if source is None else (source,):\n',
        '            for each in range(len(self._epochs)) if source is None else (0,):\n',
    ),
    Planted(
        'worker: a stale image is taken',
        _WORKER,
        '        return current and is_fresh(stamp_ns, now_ns, self._limits.max_image_age_s)\n',
        '        return current\n',
    ),
    Planted(
        'worker: a late inference counts if nobody looked',
        _WORKER,
        '        late = was_late or inference_s > self._limits.inference_timeout_s\n',
        '        late = was_late\n',
    ),
    Planted(
        'worker: predictions are given to the wrong robots',
        _WORKER,
        '            for one, answer in zip(members, answers or',
        '            for one, answer in zip(members, answers[::-1] or',
    ),
    Planted(
        'worker: one failed inference ends it',
        _WORKER,
        '            outcome, error = Outcome.FAILED, raised\n',
        '            raise\n',
    ),
    Planted(
        'gate: the age of an action is not looked at',
        _GATE,
        '        if not is_fresh(result.observation.stamp_ns, now_ns, self._max_action_age_s):\n',
        '        if False:\n',
    ),
    Planted(
        'gate: an invalid action is admitted',
        _GATE,
        '        if prediction.invalid is not None:\n',
        '        if False:\n',
    ),
    Planted(
        'gate: an invalid action is counted twice',
        _GATE,
        '            self.counters.invalid += 1\n',
        '            self.counters.invalid += 2\n',
    ),
    Planted(
        'gate: a failure is no reason to hold',
        _GATE,
        '            self.cause = Cause(Reason.POLICY_FAILED, ',
        '            Cause(Reason.POLICY_FAILED, ',
    ),
    Planted(
        'types: what is not finite is admitted',
        _TYPES,
        '        if not (finite := np.isfinite(values)).all():\n',
        '        if (finite := np.isfinite(values)).all() and False:\n',
    ),
    Planted(
        'types: another number of values is admitted',
        _TYPES,
        '        if values.shape != spec.action_shape:\n',
        '        if False:\n',
    ),
    Planted(
        'types: what is out of bounds is admitted',
        _TYPES,
        '(beyond := np.abs(normalized) > most).any():\n',
        '(beyond := np.abs(normalized) > 2 * most).any():\n',
    ),
    Planted(
        'robot: a hold does not stop the motion',
        _ROBOT,
        '            self._session.hold_outputs()\n        self._reporter.show_change()\n',
        '            pass\n        self._reporter.show_change()\n',
    ),
    Planted(
        'robot: sequence numbers from zero',
        _SESSION,
        '            sequence=self._gate.counters.published,\n',
        '            sequence=self._gate.counters.published - 1,\n',
    ),
    Planted(
        'robot: a fault drops nothing',
        _SESSION,
        '        self._policy.worker.reset(self._parts.source)\n',
        '',
    ),
    Planted(
        'robot: switching on again goes on where it was',
        _SESSION,
        '            self._recording.end(off.reason.name)\n        self.drop_all()\n',
        '            self._recording.end(off.reason.name)\n        self._on_change()\n',
    ),
    Planted(
        'motion: it goes on beyond the validity of its action',
        _REFUSED,
        '    ends_s = due.ends_s(period_s, ramps_s)\n',
        '    ends_s = due.row_0_s + 2 * period_s\n',
    ),
    Planted(
        "motion: the robot's own limits are not asked",
        _MOTION,
        '        linear_m_s=min(limits.linear_m_s, contract.max_linear_m_s),\n',
        '        linear_m_s=contract.max_linear_m_s,\n',
    ),
    Planted(
        'motion: a motion is counted before it is tried',
        _MOTION,
        '            self.counters.motions_refused += 1\n',
        '            self.counters.motions_refused += 1\n            self.counters.motions += 1\n',
    ),
    Planted(
        'motion: a stop keeps the commands',
        _PROFILE,
        'without a ramp."""\n        self._commands = []\n',
        'without a ramp."""\n',
    ),
    Planted(
        'motion: zero is repeated for ever',
        _STREAM,
        '        self._ending_left -= self._is_over(now_s)\n',
        '',
    ),
    Planted(
        'motion: a stop says nothing',
        _STREAM,
        '        if moved and self._node.context.ok():\n            self._tick()\n',
        '        if moved and self._node.context.ok():\n            self._ending_left = 0\n',
    ),
    Planted(
        'switches: a reset enables',
        _SWITCHES,
        '        self._switch(self._enabled, False)\n',
        '        self._switch(True, False)\n',
    ),
    Planted(
        'switches: a stop that was not reset is forgotten with the process',
        _SWITCHES,
        '        self._stopped = latch.stopped\n',
        '        self._stopped = False\n',
    ),
    Planted(
        'switches: a stopped robot can be enabled',
        _SWITCHES,
        "        return cause.message if enabled and self._stopped and cause else ''\n",
        "        return ''\n",
    ),
    Planted(
        'switches: disabling does nothing while it is enabled',
        _SWITCHES,
        '        if enabled and self._enabled:\n            return\n',
        '        if self._enabled:\n            return\n',
    ),
    Planted(
        'node: deactivation forgets to drop what is under way',
        _CONFIGURATION,
        '        self._worker.reset()\n',
        '',
    ),
    Planted(
        'node: a clock that jumps is not looked at before results are settled',
        _CONFIGURATION,
        '        self.watch()  # the clock may have jumped since the timer looked\n',
        '',
    ),
    Planted(
        'node: an overrun makes only the first robot hold',
        _CONFIGURATION,
        '            for source in self.overdue():\n',
        '            for source in sorted(self.overdue())[:1]:\n',
    ),
    Planted(
        'node: a stall is not noticed',
        _CONFIGURATION,
        '            if stalled_s and session.active:\n',
        '            if False:\n',
    ),
    Planted(
        'node: rivals are looked for once',
        _NODE,
        '        self._look_for_rivals()\n        name = self',
        '        name = self',
    ),
    Planted(
        'node: a hung inference does not end the process',
        _NODE,
        '        if configuration.enforce_deadline() is Deadline.HUNG:\n',
        '        if False:\n',
    ),
    Planted(
        'camera: stamps may go backwards',
        _CAMERA,
        '        if before_ns is None or stamp_ns > before_ns:\n',
        '        if before_ns is None or stamp_ns != before_ns:\n',
    ),
    Planted(
        'camera: frozen images are let pass',
        _CAMERA,
        '        if now_s - self._new_image_s <= limit_s:\n',
        '        if True:\n',
    ),
    Planted(
        'camera: stamps ahead are let pass',
        _CAMERA,
        '        if ahead_s > MAX_CLOCK_SKEW_S:\n',
        '        if False:\n',
    ),
    Planted(
        'clock: a step back is no jump',
        _CLOCK,
        '        return jumped_s if abs(jumped_s) > MAX_CLOCK_SKEW_S else 0.0\n',
        '        return jumped_s if jumped_s > MAX_CLOCK_SKEW_S else 0.0\n',
    ),
    Planted(
        'clock: a simulation that is reset is no jump',
        _CLOCK,
        '            return step_s if not 0 <= step_s <= _MAX_SIMULATED_STEP_S else 0.0\n',
        '            return step_s if not step_s <= _MAX_SIMULATED_STEP_S else 0.0\n',
    ),
    Planted(
        'chunks: a row lasts until the next one, whatever its validity',
        _ROWS,
        'min(ends_s + row * period_s, starts_s[row + 1])',
        'starts_s[row + 1]',
    ),
    Planted(
        'chunks: rows that have not begun outlive the chunk',
        _PROFILE,
        '            command.end_s = min(command.end_s, end_s)\n',
        '            if command.start_s < end_s:\n'
        '                command.end_s = min(command.end_s, end_s)\n',
    ),
    Planted(
        'chunks: a stop keeps the gripper of the rows to come',
        _MOTION,
        '        self._profile.stop()\n        self._gripper.stop()\n',
        '        self._profile.stop()\n',
    ),
    Planted(
        'chunks: the gripper of all rows is told with the first',
        _GRIPPER,
        '        while self._rows and self._rows[0].due_s <= now_s:\n',
        '        while self._rows:\n',
    ),
    Planted(
        'chunks: the gripper of later rows is not told',
        _OUTPUT,
        '        if self.motion.begin_rows(now_s):\n'
        '            self._gripper.send(self.motion.gripper)\n',
        '        self.motion.begin_rows(now_s)\n',
    ),
    Planted(
        "chunks: rows follow each other by the contract's period",
        _MOTION,
        '            period_s = period_s or self._contract.period_s\n',
        '            period_s = self._contract.period_s\n',
    ),
    Planted(
        'chunks: rows that are past are played late',
        _MOTION,
        '            skipped = due.past(len(twists), period_s, ends_s)\n',
        '            skipped, ends_s = 0, due.now_s + period_s\n'
        '            due = due._replace(row_0_s=due.now_s)\n',
    ),
    Planted(
        'chunks: the row that is due begins anew',
        _MOTION,
        '            due, ends_s = due.from_row(skipped, period_s), ends_s + skipped * period_s\n',
        '            due = due.from_row(skipped, period_s)._replace(row_0_s=due.now_s)\n'
        '            ends_s = due.now_s + period_s\n',
    ),
    Planted(
        'chunks: the gripper is told of rows that are past',
        _MOTION,
        '        rows, openings = rows[skipped:], openings[skipped:]\n',
        '        rows = rows[skipped:]\n',
    ),
    Planted(
        'chunks: timed rows are due from the publication on',
        _SESSION,
        'due_ns=min(stamp_ns, published.node_ns) if is_timed else published.node_ns',
        'due_ns=published.node_ns',
    ),
    Planted(
        'chunks: a motion does not ask when its rows are due',
        _OUTPUT,
        '            due_s=now_s - (published.node_ns - admitted.due_ns) / 1e9,\n',
        '',
    ),
    Planted(
        'chunks: a motion whose rows are all past is none and goes on',
        _MOTION,
        '            raise NoMotion(*rows_past(skipped, due, period_s))\n',
        '            return\n',
    ),
    Planted(
        'chunks: by the pose: displacements are counted from where the tool is now',
        _MOTION,
        '        start = known(guide.poses.at(capture.stamp_ns))\n',
        '        start = tool\n',
    ),
    Planted(
        'chunks: by the pose: the gripper is not asked which rows are done',
        _MOTION,
        '            self._gripper.changes_since(image_s),\n',
        '            [],\n',
    ),
    Planted(
        'chunks: by the pose: what was done since the image is done again',
        _ROUTE,
        '    return Progress(done, float(np.clip(',
        '    return Progress(0, float(np.clip(',
    ),
    Planted(
        'chunks: by the pose: what is commanded and not yet made is forgotten',
        _MOTION,
        '        return at.moved(self._profile.pending(since_s, now_s), contract.frame)\n',
        '        return at\n',
    ),
    Planted(
        'chunks: by the pose: the rest of a row takes a whole period',
        _MOTION,
        '            skipped, made = progress.done, 1.0 - progress.left\n',
        '            skipped, made = progress.done, 0.0\n',
    ),
    Planted(
        'chunks: the gripper is turned a ramp before the arm is there',
        _MOTION,
        '        self._gripper.follow(openings, begins_s, valid_s, ramps_s / 2, is_there)\n',
        '        self._gripper.follow(openings, begins_s, valid_s, 0.0, is_there)\n',
    ),
    Planted(
        'chunks: a new chunk takes the gripper of rows that have begun',
        _GRIPPER,
        '        self._rows = deque(kept + new)\n',
        '        self._rows = deque(new)\n',
    ),
    Planted(
        'chunks: by the pose: a stale pose is used',
        _POSE,
        '        if age_s > self.max_age_s:\n',
        '        if False:\n',
    ),
    Planted(
        'chunks: by the pose: a gap around the image is bridged',
        _POSE,
        '        if gap_s > self.max_age_s:\n',
        '        if False:\n',
    ),
    Planted(
        'chunks: by the pose: a pose that jumps is believed',
        _POSE,
        '        if metres > _JUMP_M + ',
        '        if False and metres > _JUMP_M + ',
    ),
    Planted(
        'chunks: by the pose: a pose of another frame is used',
        _POSE,
        '        if frame != self.frame:\n',
        '        if False:\n',
    ),
    Planted(
        'chunks: by the pose: a pose that is no rotation is used',
        _POSE,
        '        why = str(error)\n',
        '        pass\n',
    ),
    Planted(
        'chunks: by the pose: a motion goes on after its pose is lost',
        _OUTPUT,
        '        if not self.motion.is_over(now_s) and (lost := ',
        '        if False and (lost := ',
    ),
    Planted(
        'chunks: by the pose: a pose that ends a motion ends none',
        _OUTPUT,
        '            self.motion.interrupt(cause)\n            self.hold()\n',
        '            pass\n',
    ),
    Planted(
        'chunks: by the pose: the pose in the newest image of all cameras counts',
        _OUTPUT,
        'admitted.result.observation.stamps_ns[self._first_camera], published',
        'max(admitted.result.observation.stamps_ns.values()), published',
    ),
    Planted(
        'chunks: by the pose: a goal may lie outside the workspace',
        _ROUTE,
        '            inside = box.bounded(goal.position, at.position)\n',
        '            inside = goal.position\n',
    ),
    Planted(
        'chunks: by the pose: a tool outside its workspace moves on',
        _MOTION,
        '        return inward(twist, last, self._contract.frame, guide.box) if last else twist\n',
        '        return twist\n',
    ),
    Planted(
        'chunks: by the pose: a tool outside its workspace is thrown into it',
        _ROUTE,
        '        return np.clip(goal, np.minimum(self.low, start), np.maximum(self.high, start))\n',
        '        return np.clip(goal, self.low, self.high)\n',
    ),
    Planted(
        'assembly: the tolerance is not checked',
        _ASSEMBLY,
        '        if not self._has_all_cameras() or not self._are_close():\n',
        '        if not self._has_all_cameras():\n',
    ),
    Planted(
        'assembly: an image is used twice',
        _ASSEMBLY,
        '        self._images.clear()\n        self._waiting_since_s = None\n'
        '        self.counters.pending = 0\n',
        '        self._waiting_since_s = None\n        self.counters.pending = 0\n',
    ),
    Planted(
        'assembly: a newer image does not replace the one that waits',
        _ASSEMBLY,
        '        self._images[camera] = _Image(pixels, stamp_ns)\n',
        '        self._images.setdefault(camera, _Image(pixels, stamp_ns))\n',
    ),
    Planted(
        'assembly: the images have the order in which they came',
        _ASSEMBLY,
        '        images = {camera: self._images[camera] for camera in self._spec.cameras}\n',
        '        images = dict(zip(self._spec.cameras, self._images.values(), strict=True))\n',
    ),
    Planted(
        'assembly: a state may be newer than the tolerance',
        _ASSEMBLY,
        'if earliest_ns <= one.stamp_ns <= latest_ns]\n',
        'if earliest_ns <= one.stamp_ns]\n',
    ),
    Planted(
        'assembly: a stale state is accepted',
        _ASSEMBLY,
        'if earliest_ns <= one.stamp_ns <= latest_ns]\n',
        'if one.stamp_ns <= latest_ns]\n',
    ),
    Planted(
        'assembly: the oldest state that fits is taken',
        _ASSEMBLY,
        '        return max(fitting, key',
        '        return min(fitting, key',
    ),
    Planted(
        'assembly: a state that is not finite is accepted',
        _ASSEMBLY,
        '        if len(values) != self._spec.state_dim or not np.isfinite(values).all():\n',
        '        if len(values) != self._spec.state_dim:\n',
    ),
    Planted(
        'assembly: a reset keeps the images that wait',
        _ASSEMBLY,
        '        self.counters.replaced += len(self._images)\n'
        '        self.counters.pending = 0\n        self._images.clear()\n',
        '',
    ),
    Planted(
        'assembly: images that lie apart are no cause to hold',
        _ASSEMBLY,
        '        if now_s - close_s > self._limits.image_timeout_s:\n',
        '        if False:\n',
    ),
    Planted(
        'assembly: images that are apart for a moment are called apart',
        _ASSEMBLY,
        '        if now_s - close_s > self._limits.image_timeout_s:\n',
        '        waited_s = now_s - self._waiting_since_s\n'
        '        if not self._are_close() and waited_s > self._limits.image_timeout_s:\n',
    ),
    Planted(
        'assembly: a stale state is no cause to hold',
        _ASSEMBLY,
        '        if close_s - self._waiting_since_s <= self._limits.state_timeout_s:\n',
        '        if self._states or close_s - self._waiting_since_s <= 1.0:\n',
    ),
    Planted(
        'assembly: a stale state is called a missing one',
        _ASSEMBLY,
        '        if not self._states:\n',
        '        if True:\n',
    ),
    Planted(
        'assembly: it holds immediately where no state fits',
        _ASSEMBLY,
        '        if close_s - self._waiting_since_s <= self._limits.state_timeout_s:\n',
        '        if close_s - self._waiting_since_s <= 0.02:\n',
    ),
    Planted(
        'types: an observation is as old as its newest image',
        _TYPES,
        '        return min(self.stamps_ns.values())\n',
        '        return max(self.stamps_ns.values())\n',
    ),
    Planted(
        'robot: states from before a jump of the clock are used',
        _OBSERVATIONS,
        '        self.cameras.forget_stamps()\n        self._assembler.clear()\n',
        '        self.cameras.forget_stamps()\n',
    ),
    Planted(
        'replan: the next inference begins before the last one is judged',
        _REPLANNING,
        '        return self._asked is None and is_played\n',
        '        return is_played\n',
    ),
    Planted(
        'replan: the next inference begins one row early',
        _REPLANNING,
        '    return due_ns + round(rows * period_s * 1e9)\n',
        '    return due_ns + round((rows - 1) * period_s * 1e9)\n',
    ),
    Planted(
        'replan: an inference that was judged is still waited for',
        _REPLANNING,
        '            self._asked, self._from_ns = None, from_ns\n',
        '            self._from_ns = from_ns\n',
    ),
    Planted(
        'goals: a second goal takes the place of the first',
        _GOALS,
        '        if self._goals:\n            text = self._goals[0]',
        '        if len(self._goals) > 1:\n            text = self._goals[0]',
    ),
    Planted(
        'goals: a goal without a limit is accepted',
        _GOALS,
        '        if (limit_s := _seconds(goal.time_limit)) <= 0:\n',
        '        if (limit_s := _seconds(goal.time_limit)) < 0:\n',
    ),
    Planted(
        'goals: a goal of a robot that is stopped is accepted',
        _GOALS,
        '        if situation.state not in _READY or situation.reason in _LASTING:\n',
        '        if situation.state not in _READY:\n',
    ),
    Planted(
        'goals: a goal is accepted just after a stall',
        _GOALS,
        '        return self._commands.why_not(0)  # rclpy does not tell when a goal was sent\n',
        "        return ''\n",
    ),
    Planted(
        'goals: a cancel does not hold',
        _GOALS,
        '        self._instructions.end_goal()\n        self._view.show_change()\n',
        '        if outcome != _Result.CANCELED:\n'
        '            self._instructions.end_goal()\n        self._view.show_change()\n',
    ),
    Planted(
        'goals: of several that are canceled one is rejected, and rclpy skips the next',
        _GOALS,
        '        return CancelResponse.ACCEPT  # else it has ended, and its result is on its way\n',
        '            return CancelResponse.REJECT\n        return CancelResponse.ACCEPT\n',
    ),
    Planted(
        'goals: a stopped robot keeps its goal',
        _GOALS,
        '        ready = situation.state in _READY and situation.reason not in _LASTING\n',
        '        ready = situation.state in _READY\n',
    ),
    Planted(
        'goals: a goal ends without a result',
        _GOALS,
        '        self._server.notify_execute(goal.handle, conclude)\n',
        '        if outcome != _Result.HELD:\n'
        '            self._server.notify_execute(goal.handle, conclude)\n',
    ),
    Planted(
        'goals: a goal that is over is said to have succeeded',
        _GOALS,
        '            self._end(_Result.TIMED_OUT, Cause(cause.reason, message))\n',
        '            self._end(_Result.SUCCEEDED, Cause(cause.reason, message))\n',
    ),
    Planted(
        'goals: the time limit is a second longer',
        _GOALS,
        '        elif self._clock.monotonic_s() - goal.started_s > goal.limit_s:\n',
        '        elif self._clock.monotonic_s() - goal.started_s > goal.limit_s + 1.0:\n',
    ),
    Planted(
        'goals: actions of the goal before count',
        _INSTRUCTIONS,
        '        self.goal_actions, self.goal_probability = 0, math.nan\n',
        '        self.goal_probability = math.nan\n',
    ),
    Planted(
        'goals: another instruction takes effect beside a goal',
        _INSTRUCTIONS,
        '        if self.has_goal and not is_blank(message.data):\n'
        '            self._refuse_beside_goal(message.data)\n            return\n',
        '',
    ),
    Planted(
        'goals: the instruction of a goal expires',
        _INSTRUCTIONS,
        '            and not self.has_goal\n',
        '',
    ),
    Planted(
        'goals: after a restart the parameter starts a robot whose goal was lost',
        _INSTRUCTIONS,
        'held=not self._text or self.has_goal)',
        'held=not self._text)',
    ),
    Planted(
        'live: values are not checked together',
        _NODE,
        '        check_all(parameters)\n',
        '',
    ),
    Planted(
        'live: what needs the policy is set while it is loaded',
        _NODE,
        '        if fixed and self._configuration is not None:\n',
        '        if False:\n',
    ),
    Planted(
        'live: the worker keeps its limits',
        _CONFIGURATION,
        '        self._worker.adjust(_worker_limits(parameters))\n',
        '',
    ),
    Planted(
        'live: the gate keeps its limit',
        _SESSION,
        '        self._gate.adjust(parameters.max_action_age_s)\n',
        '',
    ),
    Planted(
        'live: the age of commands stays as it was',
        _CONFIGURATION,
        '        self._shared.commands.adjust(parameters.max_command_age_s)\n',
        '',
    ),
    Planted(
        'live: the age of commands stays as it was before the node is configured',
        _NODE,
        "                self._shared.commands.adjust(own['max_command_age_s'])\n",
        '                pass\n',
    ),
    Planted(
        'live: a lower speed holds from the next action on',
        _MOTION,
        'least_ramp_s=in_force.ramp_s)\n        self._profile.limits = limits\n',
        'least_ramp_s=in_force.ramp_s)\n',
    ),
    Planted(
        'live: a longer ramp is that of the current motion',
        _MOTION,
        '        if limits.ramp_s > in_force.ramp_s:\n            self.stop()\n',
        '        if limits.ramp_s > in_force.ramp_s:\n            pass\n',
    ),
    Planted(
        'live: what waits for a state keeps its time',
        _OBSERVATIONS,
        '        self._assembler.adjust(_limits(parameters))\n',
        '',
    ),
    Planted(
        'live: a motion keeps its contract',
        _MOTION,
        '        if contracts.get(before.unnorm_key) != before:\n',
        '        if False:\n',
    ),
    Planted(
        'live: a motion goes on in another workspace',
        _OUTPUT,
        '            self.hold()\n            self._frame_id, self._way',
        '            self._frame_id, self._way',
    ),
    Planted(
        'live: poses from before nobody listened are used',
        _OUTPUT,
        '            self._tool.remove(self)\n            self._poses.forget()\n',
        '            self._tool.remove(self)\n',
    ),
    Planted(
        'live: what came of other topics becomes an action',
        _SESSION,
        '            self.drop_all()  # what came before',
        '            pass  # what came before',
    ),
    Planted(
        'live: the state keeps its parts',
        _OBSERVATIONS,
        '        if tuple(needs.state) == self._state_parts:\n',
        '        if True:\n',
    ),
    Planted(
        'state: parts are joined whatever lies between them',
        _STATE_PARTS,
        '        if max(stamps_ns) - min(stamps_ns) > self._tolerance_s * 1e9:\n',
        '        if False:\n',
    ),
    Planted(
        'state: the newest sample of a part is taken, not the nearest',
        _STATE_PARTS,
        '        if abs(sample.stamp_ns - stamp_ns) >= abs(best.stamp_ns - stamp_ns):\n',
        '        if True:\n',
    ),
    Planted(
        'state: a pose in another frame is part of it',
        _STATE_PARTS,
        '        if self._frame and frame != self._frame:\n',
        '        if False:\n',
    ),
    Planted(
        'state: parts from before a jump of the clock are joined',
        _OBSERVATIONS,
        '        self._assembler.clear()\n        self._state.clear()\n',
        '        self._assembler.clear()\n',
    ),
    Planted(
        'targets: one that nobody follows goes on from where it was',
        _TARGET,
        '        return 0.0 <= now_s - self.at_s <= _PATIENCE_S',
        '        return True',
    ),
    Planted(
        'targets: a tool that does not follow is left behind',
        _MOTION,
        '        if lead_m <= guide.max_lead_m:\n',
        '        if True:\n',
    ),
    Planted(
        'targets: each chunk begins at the tool, not at the target',
        _MOTION,
        '            since_s, at = now_s, self._led(guide, newest.pose, now_s)\n',
        '            self._led(guide, newest.pose, now_s)\n',
    ),
    Planted(
        'targets: they leave the workspace',
        _TARGET,
        '        if box is not None:\n',
        '        if False:\n',
    ),
    Planted(
        'joints: a hold does not brake',
        _JOINTS,
        '            self._profile.brake(now_s)\n',
        '',
    ),
    Planted(
        'joints: a motion goes on after a gap',
        _JOINT_OUTPUT,
        '    _max_gap_s = 0.11\n',
        '    _max_gap_s = 1e9\n',
    ),
    Planted(
        'joints: a motion begins at zero',
        _JOINTS,
        '            return JointProfile(measured, bounds)\n        behind',
        '            return JointProfile(0 * measured, bounds)\n        behind',
    ),
    Planted(
        'joints: a motion begins where the joints lag behind',
        _JOINTS,
        '        if not (is_there and self._is_held):\n',
        '        if True:\n',
    ),
    Planted(
        'joints: limits of positions are not kept',
        _JOINT_PROFILE,
        '        inside = np.clip(rows, bounds.low, bounds.high)\n',
        '        inside = rows\n',
    ),
    Planted(
        'joints: limits of speeds are not kept',
        _JOINT_PROFILE,
        '            if too_fast > 1.0:\n',
        '            if False:\n',
    ),
    Planted(
        'joints: a trajectory is not stopped',
        _JOINT_OUTPUT,
        '        is_stopped = self.motion.stops != self._stops\n',
        '        is_stopped = False\n',
    ),
    Planted(
        'joints: a trajectory begins at once',
        _JOINT_OUTPUT,
        '        later = [one for one in samples if one.at_s >= _BLEND_S]\n',
        '        later = list(samples)\n',
    ),
]
