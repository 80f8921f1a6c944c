# SPDX-License-Identifier: Apache-2.0
"""The check whether an image shows the robot's current surroundings.

A faulty camera may still deliver images: a driver repeats its last image, a clock is wrong, a
recording starts over. Independent of ROS and torch; one thread.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.clock import MAX_CLOCK_SKEW_S, Clock, age_s
from vla_ros.errors import VlaError
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling.novelty import Novelty
from vla_ros.scheduling.stamps import clock_advice


@dataclass
class CameraCounters:
    """The numbers of images that were not used, by their fault.

    :param unstamped: images whose stamp is zero.
    :param future: images whose stamp is in the future.
    :param repeated: images with the stamp of the image before.
    :param backwards: images with an earlier stamp than the image before.
    :param frozen: images that had come before, while no new one came for too long.
    """

    unstamped: int = 0
    future: int = 0
    repeated: int = 0
    backwards: int = 0
    frozen: int = 0

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Verdict:
    """The judgement of one image.

    :param refusal: why the image must not reach the policy; None if it may.
    :param cause: why to hold; None where an unusable image alone is not a cause.
    """

    refusal: VlaError | None = None
    cause: Cause | None = None

    @property
    def usable(self) -> bool:
        """Whether the image may reach the policy."""
        return self.refusal is None


class CameraWatch:
    """A judge of all images of one camera, in their order of arrival."""

    def __init__(
        self,
        frozen_image_timeout_s: float,
        clock: Clock,
        counters: CameraCounters | None = None,
    ) -> None:
        """Start without images.

        :param frozen_image_timeout_s: duration in which old images may be repeated [s]; 0 sets no
            limit.
        :param counters: counted on; several cameras may share them.
        """
        self._frozen_image_timeout_s = frozen_image_timeout_s
        self._clock = clock
        self.counters = counters or CameraCounters()
        self.start_over()

    def start_over(self) -> None:
        """Forget all images, for another camera."""
        self.forget_stamp()
        self._novelty = Novelty()
        self._new_image_s = 0.0  # monotonic time of the last new image
        self._judged_s: float | None = None

    def adjust(self, frozen_image_timeout_s: float) -> None:
        """Apply another limit from now on."""
        self._frozen_image_timeout_s = frozen_image_timeout_s

    def forget_stamp(self) -> None:
        """Forget the last stamp, for another clock; the images stay known."""
        self._stamp_ns: int | None = None

    def judge(self, image: NDArray[np.uint8], stamp_ns: int) -> Verdict:
        """Judge one image, and count it if it is unusable.

        :param image: uint8 [H, W, 3].
        """
        if stamp_ns == 0:
            self.counters.unstamped += 1
            return _unusable(
                Reason.IMAGE_UNSTAMPED,
                'unstamped: the image has no stamp',
                'have the camera driver set header.stamp',
            )
        ahead_s = -age_s(stamp_ns, self._clock.now_ns())
        if ahead_s > MAX_CLOCK_SKEW_S:
            self.counters.future += 1
            return _unusable(
                Reason.IMAGE_FUTURE,
                f"future: the image's stamp is {ahead_s:.2f} s ahead of this machine's clock, "
                f'{MAX_CLOCK_SKEW_S:g} s are allowed',
                clock_advice(stamp_ns, self._clock, "synchronise the camera's clock"),
            )
        return self._judge_order(stamp_ns) or self._judge_pixels(image) or Verdict()

    def _judge_order(self, stamp_ns: int) -> Verdict | None:
        before_ns, self._stamp_ns = self._stamp_ns, stamp_ns
        if before_ns is None or stamp_ns > before_ns:
            return None
        if stamp_ns == before_ns:
            # The message may have been delivered twice. If no other image comes, the camera counts
            # as silent.
            self.counters.repeated += 1
            return Verdict(
                VlaError(
                    'repeated: it has the stamp of the image before',
                    'have the driver stamp each image',
                )
            )
        self.counters.backwards += 1
        return _unusable(
            Reason.IMAGE_BACKWARDS,
            f"backwards: the image's stamp is {(before_ns - stamp_ns) / 1e9:.3f} s before the "
            "last one's",
            'check whether there is more than one publisher, or a recording started over',
        )

    def _judge_pixels(self, image: NDArray[np.uint8]) -> Verdict | None:
        limit_s = self._frozen_image_timeout_s
        if not limit_s:
            return None
        now_s = self._clock.monotonic_s()
        before_s, self._judged_s = self._judged_s, now_s
        # After a long silence an equal image is not a sign of a frozen camera.
        was_silent = before_s is None or now_s - before_s > limit_s
        if self._novelty.is_new(image) or was_silent:
            self._new_image_s = now_s
        if now_s - self._new_image_s <= limit_s:
            return None
        self.counters.frozen += 1
        return _unusable(
            Reason.IMAGE_FROZEN,
            f'frozen: for frozen_image_timeout_s, {limit_s:g} s, all images were repetitions of '
            'earlier ones',
            'check the camera, whose noise should make all images differ; 0 allows equal images',
        )


def _unusable(reason: Reason, what: str, advice: str) -> Verdict:
    refusal = VlaError(what, advice)
    return Verdict(refusal, Cause(reason, str(refusal)))
