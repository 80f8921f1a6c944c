# SPDX-License-Identifier: Apache-2.0
"""How frames lie to each other, as tf2 tells it.

Used by the executor's thread. The package tf2_ros is needed only where a parameter or a pose in
another frame needs it, and is loaded by then.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from rclpy.time import Time

from vla_ros.clock import Clock, age_s, is_fresh
from vla_ros.graph.stamps import from_time
from vla_ros.motion import Pose
from vla_ros.parameters.check import has_tf2
from vla_ros.reasons import Cause, Reason

_SAME = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))


class Found(NamedTuple):
    """A transform.

    :param pose: of the source frame in the target frame.
    :param stamp_ns: of its newest part; 0 if it is static.
    """

    pose: Pose
    stamp_ns: int


class Frames:
    """The transforms of one node, which listens to ``/tf`` from the first question on."""

    def __init__(self, node: Node, clock: Clock) -> None:
        """Start without a subscription."""
        self._node, self._clock = node, clock
        self._tf2: Any = None
        self._buffer: Any = None

    @property
    def is_available(self) -> bool:
        """Return whether transforms can be looked up at all."""
        return self._tf2 is not None or has_tf2()

    def listen(self) -> None:
        """Subscribe, if not done yet: transforms come a moment later."""
        if self._tf2 is None:
            self._tf2 = importlib.import_module('tf2_ros')
            self._buffer = self._tf2.Buffer()  # with a node it would also offer a service
            self._listener = self._tf2.TransformListener(self._buffer, self._node)

    def forget(self) -> None:
        """Forget all transforms but static ones: the clock has jumped."""
        if self._buffer is not None:
            self._buffer.clear()

    def find(self, target: str, source: str, max_age_s: float) -> Found | Cause:
        """Return the newest pose of one frame in another, or why it is unknown.

        :param max_age_s: of a transform that is not static.
        """
        target, source = target.lstrip('/'), source.lstrip('/')
        if target == source:
            return Found(_SAME, 0)
        self.listen()
        try:
            message = self._buffer.lookup_transform(target, source, Time())
        except self._tf2.TransformException as error:
            return Cause(
                Reason.MOTION_NO_TRANSFORM,
                f'tf2 has no transform from {source!r} to {target!r} ({error}); publish it, or '
                'correct the names in contract_frame, tool_frame or frame_id',
            )
        stamp_ns = from_time(message.header.stamp)
        if stamp_ns and (why := self._why_not_now(stamp_ns, max_age_s)):
            text = f'the transform from {source!r} to {target!r} is {why}'
            return Cause(Reason.MOTION_NO_TRANSFORM, text)
        move, turn = message.transform.translation, message.transform.rotation
        pose = Pose(np.array([move.x, move.y, move.z]), np.array([turn.x, turn.y, turn.z, turn.w]))
        return Found(pose, stamp_ns)

    def _why_not_now(self, stamp_ns: int, max_age_s: float) -> str:
        """Return why a stamp is not of now; empty if it is. One of the future would never age."""
        now_ns = self._clock.now_ns()
        if is_fresh(stamp_ns, now_ns, max_age_s):
            return ''
        old_s = age_s(stamp_ns, now_ns)
        if old_s < 0:
            return f"stamped {-old_s:.2f} s in the future; its clock must agree with the node's"
        return f'{old_s:.2f} s old; max_pose_age_s is {max_age_s:g}'
