# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the package tf2_ros: what the node uses of it, with transforms of the test's own.

As the real one: the newest transform is stamped with its oldest moving part, or 0 if all parts are
static; ``clear`` keeps static ones; names with a slash before them are refused.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time

from vla_ros.graph.stamps import to_time
from vla_ros.motion import Pose

SAME = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))


class TransformException(Exception):
    pass


class Tree:
    """The frames: each with its parent, its pose in it, and a stamp; 0: static."""

    def __init__(self) -> None:
        self.frames: dict[str, tuple[str, Pose, int]] = {}
        self.listeners = 0

    def put(self, parent: str, child: str, pose: Pose, stamp_ns: int = 0) -> None:
        self.frames[child] = (parent, pose, stamp_ns)

    def from_root(self, frame: str) -> tuple[str, Pose, list[int]]:
        pose, stamps = SAME, []
        while frame in self.frames:
            frame, link, stamp_ns = self.frames[frame]
            pose = pose.within(link)
            stamps.append(stamp_ns)
        return frame, pose, stamps


def installed(monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Install it for one test."""
    tree = Tree()

    class Buffer:
        def clear(self) -> None:
            tree.frames = {child: link for child, link in tree.frames.items() if not link[2]}

        def lookup_transform(self, target: str, source: str, time: Time) -> TransformStamped:
            assert time.nanoseconds == 0  # the newest
            assert not target.startswith('/') and not source.startswith('/')
            (root, to, stamps), (other, at, more) = map(tree.from_root, (target, source))
            if root != other:
                raise TransformException(f'"{source}" and "{target}" are not connected')
            # Seen from the target: back along its way to the root.
            back = Pose(-to.position, np.array([0.0, 0.0, 0.0, 1.0]))
            turn = Pose(np.zeros(3), to.quaternion * [-1, -1, -1, 1])
            pose = at.within(back).within(turn)
            found = TransformStamped()
            found.header.stamp = to_time(
                min([stamp for stamp in stamps + more if stamp], default=0)
            )
            for part, values in (
                (found.transform.translation, pose.position),
                (found.transform.rotation, pose.quaternion),
            ):
                for axis, value in zip('xyzw', values.tolist(), strict=False):
                    setattr(part, axis, value)
            return found

    def listen(buffer: Buffer, node: Any) -> object:
        tree.listeners += 1
        return object()

    module: Any = ModuleType('tf2_ros')
    module.__spec__ = ModuleSpec('tf2_ros', None)
    module.Buffer, module.TransformListener = Buffer, listen
    module.TransformException = TransformException
    monkeypatch.setitem(sys.modules, 'tf2_ros', module)
    return tree
