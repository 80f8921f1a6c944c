# SPDX-License-Identifier: Apache-2.0
"""``vla_camera``: for the node no image of a file is a repetition of an earlier one."""

from __future__ import annotations

import numpy as np

from support.graph import PICTURE, image_message
from vla_ros.clock import ManualClock
from vla_ros.demo.file_camera import add_noise
from vla_ros.images.raw import image_to_rgb
from vla_ros.scheduling import CameraWatch


def test_one_file_for_a_minute_is_never_frozen() -> None:
    clock, message = ManualClock(), image_message()
    watch = CameraWatch(1.0, clock)
    for number in range(60 * 30):
        add_noise(message, number)
        image = image_to_rgb(message)
        assert watch.judge(image, clock.now_ns()).usable, number
        clock.advance(1 / 30)
    assert np.abs(image.astype(int) - PICTURE).max() == 1  # nobody can see it
