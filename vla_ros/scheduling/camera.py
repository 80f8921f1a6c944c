"""Tells a picture that shows the robot's surroundings now from one that only seems to.

A camera goes blind in ways that still deliver pictures: a driver that repeats its last one, a
clock that is off, a stream that starts over. Knows neither ROS nor torch; of one thread.
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


@dataclass
class CameraCounters:
    """Pictures that were not used, by what was wrong with them.

    :param unstamped: the stamp is zero.
    :param future: the stamp lies in the future.
    :param repeated: the stamp of the picture before.
    :param backwards: an earlier stamp than that of the picture before.
    :param frozen: no new image came for too long, but old ones again.
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
    """
    :param refusal: why the image may not reach the policy; None if it may.
    :param cause: why to hold; None where an unusable image is no cause by itself.
    """

    refusal: VlaError | None = None
    cause: Cause | None = None

    @property
    def usable(self) -> bool:
        """Whether the image may reach the policy."""
        return self.refusal is None


class CameraWatch:
    """Judges every image of one camera, in the order in which they come."""

    def __init__(
        self,
        frozen_image_timeout_s: float,
        clock: Clock,
        counters: CameraCounters | None = None,
    ) -> None:
        """
        :param frozen_image_timeout_s: how long old images may be repeated [s]; 0: for ever.
        :param counters: counted on; those of several cameras may be the same.
        """
        self._frozen_image_timeout_s = frozen_image_timeout_s
        self._clock = clock
        self.counters = counters or CameraCounters()
        self.start_over()

    def start_over(self) -> None:
        """Forget all images: the camera is another one now."""
        self.forget_stamp()
        self._novelty = Novelty()
        self._new_image_s = 0.0  # when the last new one came, monotonic
        self._judged_s: float | None = None

    def forget_stamp(self) -> None:
        """The clock is another one now; what is seen is the same."""
        self._stamp_ns: int | None = None

    def judge(self, image: NDArray[np.uint8], stamp_ns: int) -> Verdict:
        """
        :param image: uint8 [H, W, 3].
        """
        if stamp_ns == 0:
            self.counters.unstamped += 1
            return _unusable(
                Reason.IMAGE_UNSTAMPED,
                'unstamped: the picture has no time',
                'have the camera driver set header.stamp',
            )
        ahead_s = -age_s(stamp_ns, self._clock.now_ns())
        if ahead_s > MAX_CLOCK_SKEW_S:
            self.counters.future += 1
            return _unusable(
                Reason.IMAGE_FUTURE,
                f"future: the picture's stamp is {ahead_s:.2f} s ahead of this machine's clock, "
                f'{MAX_CLOCK_SKEW_S:g} s are allowed',
                "synchronise the camera's clock",
            )
        return self._judge_order(stamp_ns) or self._judge_pixels(image) or Verdict()

    def _judge_order(self, stamp_ns: int) -> Verdict | None:
        before_ns, self._stamp_ns = self._stamp_ns, stamp_ns
        if before_ns is None or stamp_ns > before_ns:
            return None
        if stamp_ns == before_ns:
            # Delivered twice, perhaps. Where nothing else comes, the camera counts as silent.
            self.counters.repeated += 1
            return Verdict(
                VlaError(
                    'repeated: it has the stamp of the one before',
                    'have the driver stamp each image',
                )
            )
        self.counters.backwards += 1
        return _unusable(
            Reason.IMAGE_BACKWARDS,
            f"backwards: the picture's stamp is {(before_ns - stamp_ns) / 1e9:.3f} s before the "
            "last one's",
            'is there more than one publisher, or did a recording start over?',
        )

    def _judge_pixels(self, image: NDArray[np.uint8]) -> Verdict | None:
        limit_s = self._frozen_image_timeout_s
        if not limit_s:
            return None
        now_s = self._clock.monotonic_s()
        before_s, self._judged_s = self._judged_s, now_s
        # What was between two images with a long silence between them, nobody knows.
        was_silent = before_s is None or now_s - before_s > limit_s
        if self._novelty.is_new(image) or was_silent:
            self._new_image_s = now_s
        if now_s - self._new_image_s <= limit_s:
            return None
        self.counters.frozen += 1
        return _unusable(
            Reason.IMAGE_FROZEN,
            f'frozen: for frozen_image_timeout_s, {limit_s:g} s, all pictures were ones that had '
            'come before',
            'a camera has noise (0 allows still pictures)',
        )


def _unusable(reason: Reason, what: str, advice: str) -> Verdict:
    refusal = VlaError(what, advice)
    return Verdict(refusal, Cause(reason, str(refusal)))
