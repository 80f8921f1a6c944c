# SPDX-License-Identifier: Apache-2.0
"""The place of each message of a recording among the images of one camera."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """When something was.

    :param capture_ns: by the clock of the headers: of an image or a state its capture, of an action
        the capture of its images.
    :param bag_time_ns: when it was recorded, by the recorder's clock.
    :param frame: number of the camera's image in its topic, from 0.
    """

    capture_ns: int
    bag_time_ns: int
    frame: int


class Moments:
    """The moments of all messages, by the images of one camera."""

    def __init__(self, stamps_ns: Sequence[int], bag_times_ns: Sequence[int]) -> None:
        """Keep the times of the images, in the order of the recording; there may be none.

        :param stamps_ns: capture times.
        """
        self._stamps_ns, self._bag_times_ns = stamps_ns, bag_times_ns
        self._by_stamp = sorted((stamp_ns, number) for number, stamp_ns in enumerate(stamps_ns))

    def of_image(self, number: int) -> Moment:
        """Return the moment of an image of the camera."""
        return Moment(self._stamps_ns[number], self._bag_times_ns[number], number)

    def of_stamp(self, stamp_ns: int, bag_time_ns: int) -> Moment:
        """Return the moment of a message with a stamp: it belongs to the image captured nearest."""
        if not self._by_stamp:
            return Moment(stamp_ns, bag_time_ns, 0)
        index = bisect.bisect_left(self._by_stamp, (stamp_ns, -1))
        near = self._by_stamp[max(0, index - 1) : index + 1]
        _, number = min(near, key=lambda one: abs(one[0] - stamp_ns))
        return Moment(stamp_ns, bag_time_ns, number)

    def of_bag_time(self, bag_time_ns: int) -> Moment:
        """Return the moment of a message without a stamp.

        It follows the image that was recorded before it, by the time between the two recordings.
        """
        if not self._bag_times_ns:
            return Moment(bag_time_ns, bag_time_ns, 0)
        number = max(0, bisect.bisect_right(self._bag_times_ns, bag_time_ns) - 1)
        since_ns = bag_time_ns - self._bag_times_ns[number]
        return Moment(self._stamps_ns[number] + since_ns, bag_time_ns, number)
