# SPDX-License-Identifier: Apache-2.0
"""Recipes as their pages say: a page's commands, tiny policies, and robots that do not exist."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, Float64MultiArray

from support.controllers import ForwardController, Hardware
from support.graph import noise
from support.places import ROOT
from support.servo import Servo
from vla_ros.motion import JointContract
from vla_ros.motion.joint_limits import JointLimit
from vla_ros.openvla.layout import Layout
from vla_ros.synthetic import checkpoint_writer, random_checkpoint

RECIPES = sorted(file.stem for file in (ROOT / 'docs' / 'recipes').glob('*.md'))
_RATE_HZ = 50.0


def commands(recipe: str) -> list[dict[str, str]]:
    """The arguments of each ``ros2 launch`` of a recipe on its page."""
    page = (ROOT / 'docs' / 'recipes' / f'{recipe}.md').read_text()
    lines = [line.strip() for line in page.replace('\\\n', ' ').splitlines()]
    start = f'ros2 launch vla_ros {recipe}.launch.py'
    found = [shlex.split(line)[4:] for line in lines if line.startswith(start)]
    assert not [word for words in found for word in words if word.endswith(':=')]  # ros2 launch: no
    return [dict(word.split(':=', 1) for word in words) for words in found]


def without_robot(recipe: str) -> dict[str, str]:
    """The arguments of the page's dry run, the first command with a scripted policy."""
    given = commands(recipe)
    return next(one for one in given if one.get('model', '').startswith('scripted'))


def launch_file(recipe: str) -> Path:
    return ROOT / 'launch' / 'recipes' / f'{recipe}.launch.py'


# -- policies ----------------------------------------------------------------------------------


def written(
    folder: Path, shape: str, key: str, low: Sequence[float], high: Sequence[float], **parts: Any
) -> Path:
    """A checkpoint with random weights and the statistics of one data set.

    :param low: of the actions, for -1.
    :param parts: a layout of its own, and the statistics of the state.
    """
    bounds = {'q01': [*low], 'q99': [*high], 'min': [*low], 'max': [*high]}
    layout, state = parts.get('layout'), parts.get('state', {})
    statistics = {key: {'action': bounds, 'proprio': state}}
    with contextlib.ExitStack() as stack:
        replace = mock.patch.object
        stack.enter_context(replace(random_checkpoint, 'PLACEHOLDER_NORM_STATS', statistics))
        stack.enter_context(replace(checkpoint_writer, 'layout_of', lambda shape: layout))
        return random_checkpoint.write_random_checkpoint(folder, shape)


def tiny(recipe: str, folder: Path) -> Path:
    """A checkpoint like the recipe's, with actions of the size of its data."""
    if recipe == 'widowx':
        step = np.array([0.03, 0.04, 0.04, 0.08, 0.08, 0.2])
        return written(folder, 'tiny', 'bridge_orig', [*-step, 0], [*step, 1])
    if recipe == 'franka':
        step = np.array([0.9375] * 3 + [0.375] * 3)
        return written(folder, 'tiny', 'libero_spatial', [*-step, 0], [*step, 1])
    cameras = ('image', 'left_wrist_image', 'right_wrist_image')
    layout = Layout('l1', 25, 14, cameras, 14, 'min_max', True, 'openvla')
    arm = [1.0] * 6
    low, high = [-one for one in arm] + [0.0], [*arm, 1.0]
    state = {'min': low * 2, 'max': high * 2, 'q01': low * 2, 'q99': high * 2}
    key = 'aloha1_put_X_into_pot_300_demos'
    return written(folder, 'openvla-oft-tiny', key, low * 2, high * 2, layout=layout, state=state)


# -- robots ------------------------------------------------------------------------------------


class ServoArm(Servo):
    """An arm behind a servo: it moves as it is told, and says where its tool is.

    :ivar places: where the tool has been, [x, y, z].
    """

    def __init__(self, node: Node, twist: str, frame: str, at: Sequence[float]) -> None:
        super().__init__(node, twist)
        self._node, self._frame = node, frame
        self._at, self._told = np.array(at, np.float64), 0
        self.places = [self._at.copy()]
        self._poses = node.create_publisher(PoseStamped, 'ee_pose', 10)
        node.create_timer(1 / _RATE_HZ, self._tell)

    def _tell(self) -> None:
        for _, twist in self.heard[self._told :]:
            self._told += 1
            self._at = self._at + twist[:3] / _RATE_HZ
            self.places.append(self._at.copy())
        message = PoseStamped()
        message.header.frame_id = self._frame
        message.header.stamp = self._node.get_clock().now().to_msg()
        point = message.pose.position
        point.x, point.y, point.z = self._at.tolist()
        turn = message.pose.orientation
        turn.y, turn.w = 1.0, 0.0  # the tool points down
        self._poses.publish(message)


class JointArm:
    """An arm with a forward_command_controller, which complains about what it may not be sent.

    Speeds are those of the whole way: a machine that is busy sends commands late.

    :ivar way_rad: what each joint was sent along, [J].
    :ivar times_s: of the first and the last command that moved it.
    """

    def __init__(self, node: Node, topic: str, limits: Mapping[str, JointLimit]) -> None:
        """
        :param topic: of its controller.
        """
        self.names = list(limits)
        none = np.full(len(limits), np.inf)
        self.hardware = Hardware(
            self.names,
            np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0]),  # where ALOHA's arms start
            low=np.array([one.low for one in limits.values()]),
            high=np.array([one.high for one in limits.values()]),
            speed=none,
            acceleration=none,
        )
        self._controller = ForwardController(self.hardware, 1 / _RATE_HZ, patience_s=60.0)
        self.heard = 0
        self.way_rad = np.zeros(len(limits))
        self.times_s: tuple[float, float] = (0.0, 0.0)
        node.create_subscription(Float64MultiArray, topic, self._hear, 1000)

    def _hear(self, message: Float64MultiArray, info: dict[str, int]) -> None:
        now_s, before = info['source_timestamp'] / 1e9, self.hardware.command
        self._controller.hear(message, now_s)
        self.way_rad += np.abs(self.hardware.command - before)
        self.times_s = (self.times_s[0] if self.heard else now_s, now_s)
        self.heard += 1


class Aloha:
    """Two arms with two grippers, whose joints are told together."""

    def __init__(self, node: Node, topics: Mapping[str, str], contract: JointContract) -> None:
        """
        :param topics: of the controllers, by the node's own names.
        """
        self._node, limits = node, dict(contract.limits)
        self.arms = [
            JointArm(
                node,
                topics[f'{side}/joint_commands'],
                {name: limit for name, limit in limits.items() if name.startswith(side)},
            )
            for side in ('left', 'right')
        ]
        self.grippers: dict[str, list[float]] = {'left_gripper': [], 'right_gripper': []}
        for name, heard in self.grippers.items():
            node.create_subscription(Float64, name, lambda m, heard=heard: heard.append(m.data), 10)
        self._states = node.create_publisher(JointState, 'joint_states', 10)
        node.create_timer(1 / _RATE_HZ, self._tell)

    def _tell(self) -> None:
        names, positions = ['left_left_finger', 'right_left_finger'], [0.04, 0.04]
        for arm in self.arms:
            arm.hardware.live(1 / _RATE_HZ)
            names += arm.names
            positions += arm.hardware.position.tolist()
        message = JointState(name=names, position=positions)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._states.publish(message)


@contextlib.contextmanager
def cameras(node: Node, topics: Sequence[str]) -> Iterator[None]:
    """Cameras that capture at the same moments, 15 times a second."""
    publishers = [node.create_publisher(Image, topic, 1) for topic in topics]
    ends = threading.Event()

    def run() -> None:
        while not ends.wait(1 / 15):
            stamp = node.get_clock().now().to_msg()
            for publisher in publishers:
                message = noise()
                message.header.stamp = stamp
                publisher.publish(message)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join(10)
