# SPDX-License-Identifier: Apache-2.0
"""The topic ``debug_image``: the operator's view of one robot; ``model_image`` beside it.

Used by the executor's thread. Without a subscriber nothing is drawn.
"""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from vla_ros.clock import Clock, latency_s
from vla_ros.graph.stamps import to_time
from vla_ros.motion import Contract
from vla_ros.reasons import State
from vla_ros.ros.model_image import ModelImagePublisher
from vla_ros.ros.situation import Situation
from vla_ros.scheduling import Result
from vla_ros.types import PolicySpec
from vla_ros.view import OperatorView, render

_SHORTEST_PERIOD_S = 0.1
_LONGEST_PERIOD_S = 1.0


class OperatorViewPublisher:
    """Keeps the last prediction, and shows it beside the state."""

    def __init__(
        self,
        node: Node,
        clock: Clock,
        robot: str,
        prefix: str,
        situation: Callable[[], Situation],
        instruction: Callable[[], str],
    ) -> None:
        """Create the publisher.

        :param robot: its name; may be empty.
        :param prefix: prefix of the topic's name.
        :param situation: returns the robot's state now.
        :param instruction: returns the instruction in force now.
        """
        self._clock = clock
        self._robot = robot
        self._situation = situation
        self._instruction = instruction
        self._images = node.create_publisher(Image, f'{prefix}debug_image', QoSProfile(depth=1))
        self._model_image = ModelImagePublisher(node, clock, prefix)
        self._shown = Situation(State.UNKNOWN)
        self._shown_s = -_LONGEST_PERIOD_S
        self.clear('')

    def clear(self, frame_id: str) -> None:
        """Forget the last prediction.

        :param frame_id: of the actions to come.
        """
        self._frame_id = frame_id
        self._result: Result | None = None  # the last with a prediction
        self._model_image.clear()
        self._published = False
        self._spec: PolicySpec | None = None
        self._contract: Contract | None = None
        self._is_new = True

    def rename(self, frame_id: str) -> None:
        """Show another name of the frame."""
        self._is_new |= frame_id != self._frame_id
        self._frame_id = frame_id

    def keep(
        self, result: Result, published: bool, spec: PolicySpec, contract: Contract | None
    ) -> None:
        """Keep the result if it has a prediction.

        :param published: whether its actions were.
        :param spec: of the policy that predicted it.
        :param contract: of its actions; None: none is known.
        """
        if result.prediction is not None:
            self._result, self._published, self._is_new = result, published, True
            self._spec, self._contract = spec, contract
            self._model_image.keep(result)

    def show_if_due(self) -> bool:
        """Publish the view if it has changed and has a subscriber; return whether it was.

        It takes some milliseconds. Call it often.
        """
        self._model_image.show_if_due()
        rested_s = self._clock.monotonic_s() - self._shown_s
        if rested_s < _SHORTEST_PERIOD_S or not self._images.get_subscription_count():
            return False
        is_new = self._is_new or self._situation() != self._shown
        if not is_new and rested_s < _LONGEST_PERIOD_S:
            return False
        self._show()
        return True

    def _show(self) -> None:
        self._shown, self._is_new = self._situation(), False
        self._shown_s = self._clock.monotonic_s()
        now_ns = self._clock.now_ns()
        pixels = render(self._view(now_ns))
        height, width, _ = pixels.shape
        message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
        message.data = array.array('B', pixels.tobytes())  # what costs no check of each byte
        message.header.stamp = to_time(now_ns)
        self._images.publish(message)

    def _view(self, now_ns: int) -> OperatorView:
        view = OperatorView(
            self._robot,
            self._shown.state,
            self._shown.message,
            self._instruction(),
            frame=self._frame_id,
        )
        if self._result is None:
            return view
        prediction = self._result.predicted()
        return dataclasses.replace(
            view,
            prediction=prediction,
            spec=self._spec,
            contract=self._contract,
            published=self._published,
            age_s=latency_s(self._result.observation.stamp_ns, now_ns),
        )
