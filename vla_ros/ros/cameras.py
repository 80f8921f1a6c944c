# SPDX-License-Identifier: Apache-2.0
"""The cameras of one robot: a subscription, a watch and time-outs for each.

Used by the executor's thread.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode

from vla_ros.clock import Clock
from vla_ros.graph.stamps import from_time
from vla_ros.graph.topics import image_topics
from vla_ros.images.raw import UnusableImage
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.image_subscription import TRANSPORTS, ImageSubscription, publishers_text
from vla_ros.ros.log import Log
from vla_ros.scheduling import CameraCounters, CameraWatch, failure_text

OnImage = Callable[[str, NDArray[np.uint8], int, Any], None]  # camera, pixels, stamp [ns], message
OnFault = Callable[[Cause], None]

_PUBLISHERS_S = 1.0  # between two looks at the publishers, which take 0.3 ms


@dataclass
class ImageCounters:
    """Counters of the images of all cameras.

    :param received: images received.
    :param rejected: number of these that are not usable as images.
    :param idle: usable images that came without an instruction, or for a robot that is off.
    """

    received: int = 0
    rejected: int = 0
    idle: int = 0


class CameraInput:
    """One camera: judges its images, and notices when it is silent."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        log: Log,
        watch: CameraWatch,
        counters: ImageCounters,
        on_image: OnImage,
        on_fault: OnFault,
    ) -> None:
        """Count into ``counters``, without a subscription.

        :param on_image: called with each usable image.
        :param on_fault: called with the reason why an image cannot be used.
        """
        self.watch = watch
        self.name = name
        self._clock, self._log = clock, log
        self._counters = counters
        self._on_image, self._on_fault = on_image, on_fault
        self._listening_since_s = clock.monotonic_s()
        self._publishers, self._publishers_s = '', -math.inf  # as told, and when
        self.last_image_s: float | None = None
        self.topic = ''

    def hear(self, message: Any, to_rgb: Callable[[Any], NDArray[np.uint8]]) -> None:
        """Take an image message.

        :param to_rgb: converts it; raises UnusableImage, MemoryError.
        """
        self._counters.received += 1
        try:
            image = to_rgb(message)
        except Exception as error:
            if not isinstance(error, (UnusableImage, MemoryError)):
                self._log.error(f'{self.topic}: {failure_text(error)}', every_s=1.0)
            self._counters.rejected += 1
            self.last_image_s = self._clock.monotonic_s()
            self._on_fault(Cause(Reason.IMAGE_REJECTED, f'image rejected: {error}'))
            return
        stamp_ns = from_time(message.header.stamp)
        verdict = self.watch.judge(image, stamp_ns)
        if not verdict.usable and not verdict.cause:
            return  # nothing new: the camera may be silent
        self.last_image_s = self._clock.monotonic_s()
        if verdict.cause:
            self._on_fault(verdict.cause)
        else:
            self._on_image(self.name, image, stamp_ns, message)

    def why_silent(self, parameters: Parameters, publishers: Callable[[str], str]) -> Cause | None:
        """Return why there are no images; None while they come, or may still come in time.

        :param publishers: tells of the publishers on a topic.
        """
        now_s = self._clock.monotonic_s()
        if self.last_image_s is None:
            limit_s = parameters.first_image_timeout_s
            if now_s - self._listening_since_s <= limit_s:
                return None
            return Cause(
                Reason.NO_FIRST_IMAGE,
                f'no first image on {self.topic} within first_image_timeout_s, '
                f'{limit_s:g} s; {self._publishers_now(now_s, publishers)}',
            )
        limit_s = parameters.image_timeout_s
        if now_s - self.last_image_s <= limit_s:
            return None
        return Cause(
            Reason.IMAGE_TIMEOUT,
            f'no new image on {self.topic} for image_timeout_s, {limit_s:g} s',
        )

    def _publishers_now(self, now_s: float, publishers: Callable[[str], str]) -> str:
        """Return the text about the publishers, which is renewed once a second."""
        if now_s - self._publishers_s >= _PUBLISHERS_S:
            self._publishers, self._publishers_s = publishers(self.topic), now_s
        return self._publishers


class Cameras:
    """All cameras of one robot, heard between :meth:`listen` and :meth:`stop_listening`."""

    def __init__(
        self,
        node: LifecycleNode,
        clock: Clock,
        log: Log,
        prefix: str,
        parameters: Parameters,
        on_image: OnImage,
        on_fault: OnFault,
    ) -> None:
        """Count from zero.

        :param prefix: prefix of the topics' names.
        """
        self.counters = ImageCounters()
        self.watch_counters = CameraCounters()
        self._node = node
        self._clock, self._log = clock, log
        self._prefix = prefix
        self._params = parameters
        self._on_image, self._on_fault = on_image, on_fault
        self._cameras: list[CameraInput] = []
        self._subscriptions: list[ImageSubscription] = []

    @property
    def topics(self) -> str:
        """The full names, with commas between them; empty while not listening."""
        return ', '.join(subscription.topic for subscription in self._subscriptions)

    @property
    def topic_of(self) -> dict[str, str]:
        """The full name of each camera's topic; empty while not listening."""
        return {camera.name: camera.topic for camera in self._cameras}

    def camera(self, name: str) -> CameraInput:
        """Make the input of a camera, without a subscription."""
        watch = CameraWatch(self._params.frozen_image_timeout_s, self._clock, self.watch_counters)
        return CameraInput(
            name, self._clock, self._log, watch, self.counters, self._on_image, self._on_fault
        )

    def adjust(self, parameters: Parameters) -> bool:
        """Apply other limits from now on.

        :returns: whether the images come another way, so that the caller must listen anew.
        """
        before, self._params = self._params, parameters
        for camera in self._cameras:
            camera.watch.adjust(parameters.frozen_image_timeout_s)
        return _way(before) != _way(parameters)

    def listen(self, names: Sequence[str]) -> None:
        """Hear images from now on: on ``image``, or for each of several cameras on NAME/image."""
        transport = self._params.image_transport
        for name, topic in image_topics(names).items():
            camera = self.camera(name)
            subscription = ImageSubscription(
                self._node,
                transport,
                f'{self._prefix}{topic}',
                functools.partial(camera.hear, to_rgb=TRANSPORTS[transport].to_rgb),
                self._params.image_reliability,
            )
            camera.topic = subscription.topic
            self._cameras.append(camera)
            self._subscriptions.append(subscription)

    def stop_listening(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            subscription.destroy()
        self._cameras, self._subscriptions = [], []

    def follow_publishers(self) -> None:
        """Adapt to the publishers' quality of service. Call it about once a second."""
        for subscription in self._subscriptions:
            subscription.follow_publishers()

    def forget_stamps(self) -> None:
        """Forget the stamps of the last images: the clock has jumped."""
        for camera in self._cameras:
            camera.watch.forget_stamp()

    @property
    def all_came(self) -> bool:
        """Whether every camera has sent an image."""
        return bool(self._cameras) and all(one.last_image_s is not None for one in self._cameras)

    def why_silent(self) -> Cause | None:
        """Return why a camera sends no images; None while all do, or may still do so in time."""
        transport = self._params.image_transport
        publishers = functools.partial(publishers_text, self._node, transport=transport)
        causes = (camera.why_silent(self._params, publishers) for camera in self._cameras)
        return next((cause for cause in causes if cause), None)


def _way(parameters: Parameters) -> tuple[str, str]:
    return parameters.image_transport, parameters.image_reliability
