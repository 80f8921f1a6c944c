# SPDX-License-Identifier: Apache-2.0
"""One image and one instruction for a running node, and the node's action.

The instruction is leased (``lease.py``): it is taken back at the end, even after a crash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node

from vla_ros.client.lease import Lease
from vla_ros.client.robot_side import RobotSide
from vla_ros.client.state_question import StateQuestion
from vla_ros.client.vla_client import ReceivedAction
from vla_ros.console import EndRequest, Say
from vla_ros.errors import VlaError
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import Reason, State

_SEND_PERIOD_S = 1.0  # the image is sent again, with a new stamp, until an action arrives
_SHOW_PERIOD_S = 5.0
_HEARD_WITHIN_S = 10.0  # discovery takes seconds
_LISTENING = (State.RUNNING, State.HOLDING)


class CheckFailed(VlaError):
    """A node that gave no action, or did not confirm the end of its instruction."""


class Question(RobotSide):
    """The cameras, a state and an operator for one action. Used by the main thread.

    :param image: uint8 [H, W, 3] RGB, for all cameras of the policy.
    :param say: called with each new state of the node, and every 5 s.
    :param contracts: file of the user's contracts; empty: the shipped ones only.
    :param frame_id: frame of ``ee_pose``, where the policy's state needs it.
    """

    def __init__(
        self,
        node: Node,
        image: NDArray[np.uint8],
        instruction: str,
        say: Say,
        contracts: str = '',
        frame_id: str = '',
    ) -> None:
        super().__init__(node=node)
        self.action: VlaAction | None = None
        self.lease = Lease(self, instruction)
        self.on_action = self._keep
        self._image = image.copy()
        self._say = say
        self._sent_stamps: set[int] = set()
        self._before = self.latest  # as of the first image
        self._parts = StateQuestion(self, contracts, frame_id)
        self._last_sent_s = -_SEND_PERIOD_S
        self._said, self._said_s = '', 0.0
        self._unheard_since_s = 0.0

    def ask(self, timeout_s: float, interrupted: EndRequest) -> VlaAction | None:
        """Return the node's action for the image; None if a signal ends the wait.

        :raises CheckFailed: if there is no action in time, or there can be none.
        """
        self._unheard_since_s = self.clock.monotonic_s()

        def is_over() -> bool:
            return self.action is not None or interrupted.is_set()

        if not self.repeat_until(self._go_on, is_over, timeout_s):
            raise CheckFailed(f'no action within {timeout_s:g} s', self.last_words())
        return self.action

    def take_back(self) -> None:
        """Let the node hold again.

        :raises CheckFailed: if the node does not confirm it.
        """
        if self._sent_stamps and not self.lease.take_back():
            raise CheckFailed(
                f'the node did not confirm an empty instruction on {self.lease.topic}, so the '
                'instruction may be in force (another process tries for another 20 s)',
                'call ~/stop, or publish the empty instruction again',
            )

    def _keep(self, received: ReceivedAction) -> None:
        """Keep an action if it is for an image that was sent here."""
        if received.stamp_ns in self._sent_stamps:
            self.action = received.message

    def _go_on(self) -> None:
        """Report the node's state, and send the image when the node listens."""
        now_s = self.clock.monotonic_s()
        self._offer_cameras()
        subscribed = self._all_subscribed()
        self._say_state(now_s)
        if self.latest.state == State.ERROR:
            raise CheckFailed(f'the node is in {self.latest.message}', 'see its log')
        if self._sent_stamps and self._is_rejected():
            raise CheckFailed(
                f'the node rejected the instruction: {self.latest.message}', 'change --instruction'
            )
        if self.latest.state not in _LISTENING or subscribed:
            self._unheard_since_s = now_s
        elif now_s - self._unheard_since_s > _HEARD_WITHIN_S:
            raise CheckFailed(
                f'the node is active, but there is no subscriber on {self._image_topics()}',
                'name the topic of the node: --ros-args -r image:=/CAMERA/TOPIC',
            )
        is_due = now_s - self._last_sent_s >= _SEND_PERIOD_S
        if self.latest.state in _LISTENING and subscribed and is_due:
            self._last_sent_s = now_s
            self._send()

    def _offer_cameras(self) -> None:
        """Offer the cameras that the node's policy reads, once it is known."""
        cameras = tuple(self.latest.policy.cameras)
        if cameras and cameras != tuple(self.images):
            self.offer(cameras)

    def _all_subscribed(self) -> bool:
        """Return whether the node hears every camera."""
        heard = {publisher.topic_name for publisher in self.subscribed()}
        return all(
            {self.images[name].topic_name, self.compressed_images[name].topic_name} & heard
            for name in self.images
        )

    def _is_rejected(self) -> bool:
        """Return whether the node holds since it rejected an instruction, probably ours."""
        holds = self.latest.reason == Reason.INSTRUCTION_REJECTED
        return holds and self.was_rejected(self._before)

    def _send(self) -> None:
        if not self._sent_stamps:
            self._before = self.latest
        self.lease.renew()
        self._image[0, 0, 0] += 1  # noise, since the node holds if images repeat; wraps around
        stamp_ns = self.node.get_clock().now().nanoseconds
        self._sent_stamps.add(stamp_ns)
        if len(self._sent_stamps) == 1:
            for name, publisher in self.images.items():
                self._say(f'{name}: an image on {publisher.topic_name}')
        self.show({name: self._image for name in self.images}, stamp_ns)
        self._parts.send(stamp_ns, self._say)

    def _say_state(self, now_s: float) -> None:
        text = 'waiting for the node' if self.status is None else str(self.latest.message)
        state = text.split(':')[0]
        if state != self._said or now_s - self._said_s > _SHOW_PERIOD_S:
            self._said, self._said_s = state, now_s
            self._say(text)

    def last_words(self) -> str:
        """Return the node's last known state, and what to do."""
        status: VlaStatus | None = self.status
        if status is not None and status.state in (State.READY, State.UNCONFIGURED):
            return f'{super().last_words()}; configure and activate the node (ros2 lifecycle set)'
        return super().last_words()

    def _image_topics(self) -> str:
        publishers = (*self.images.values(), *self.compressed_images.values())
        return ' and '.join(publisher.topic_name for publisher in publishers)


def pattern() -> NDArray[np.uint8]:
    """Return a colourful image, uint8 [480, 640, 3]."""
    y, x = np.mgrid[0:480, 0:640]
    return np.stack([x * 255 // 639, y * 255 // 479, (x ^ y) & 255], axis=2).astype(np.uint8)
