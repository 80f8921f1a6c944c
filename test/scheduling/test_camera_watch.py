# SPDX-License-Identifier: Apache-2.0
"""A camera that shows nothing new, or at no known time; and a clock that jumps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.clock import ManualClock
from vla_ros.reasons import Reason
from vla_ros.scheduling import CameraCounters, CameraWatch, ClockWatch

STILL = np.full((48, 64, 3), 7, dtype=np.uint8)


class Camera:
    """Takes a picture at the clock's time, or aside of it."""

    def __init__(self, frozen_image_timeout_s: float = 5.0) -> None:
        self.clock = ManualClock()
        self.watch = CameraWatch(frozen_image_timeout_s, self.clock)
        self._noise = np.random.default_rng(0)

    def noise(self) -> NDArray[np.uint8]:
        return self._noise.integers(0, 256, STILL.shape, dtype=np.uint8)

    def shows(self, image: NDArray[np.uint8] | None = None, aside_s: float = 0.0) -> bool:
        """Whether it may be used; ``self.cause`` is then why not."""
        stamp_ns = self.clock.now_ns() + round(aside_s * 1e9)
        verdict = self.watch.judge(self.noise() if image is None else image, stamp_ns)
        self.cause = verdict.cause
        return verdict.usable

    def counted(self) -> dict[str, int]:
        counters = dataclasses.asdict(self.watch.counters)
        assert sum(counters.values()) == self.watch.counters.total
        return {name: count for name, count in counters.items() if count}


@pytest.fixture
def camera() -> Camera:
    return Camera()


def test_a_sound_camera(camera: Camera) -> None:
    for _ in range(300):
        assert camera.shows() and not camera.cause
        camera.clock.advance(1 / 30)
    assert camera.watch.counters == CameraCounters()


def test_no_stamp(camera: Camera) -> None:
    assert not camera.watch.judge(STILL, 0).usable
    assert camera.counted() == {'unstamped': 1}
    assert camera.shows()


def test_a_little_skew_is_allowed(camera: Camera) -> None:
    assert camera.shows(aside_s=0.1)
    assert not camera.shows(aside_s=0.102)
    assert camera.cause.reason is Reason.IMAGE_FUTURE and '0.10 s ahead' in camera.cause.message
    assert camera.counted() == {'future': 1}


def test_a_future_stamp_is_not_what_later_ones_are_held_against(camera: Camera) -> None:
    assert not camera.shows(aside_s=3600.0)
    assert camera.shows()


def test_the_same_stamp_again_is_dropped_without_a_word(camera: Camera) -> None:
    assert camera.shows()
    assert not camera.shows()
    assert camera.cause is None
    assert camera.counted() == {'repeated': 1}
    camera.clock.advance(0.03)
    assert camera.shows()


def test_a_stream_that_starts_over_costs_one_picture(camera: Camera) -> None:
    camera.clock.advance(1.0)
    assert camera.shows()
    assert not camera.shows(aside_s=-0.4)
    assert camera.cause.reason is Reason.IMAGE_BACKWARDS
    assert "the image's stamp is 0.400 s before" in camera.cause.message
    assert camera.shows(aside_s=-0.37)
    assert camera.counted() == {'backwards': 1}


def test_two_cameras_on_one_topic(camera: Camera) -> None:
    used = [camera.shows(aside_s=aside_s) for _ in range(10) for aside_s in (-0.05, -0.2)]
    assert used == [True, False] * 10
    assert camera.counted() == {'backwards': 10}


def test_pixels_that_never_change(camera: Camera) -> None:
    used = []
    for _ in range(70):
        used.append(camera.shows(STILL.copy()))
        camera.clock.advance(0.1)
    assert used == [True] * 51 + [False] * 19
    assert camera.cause.reason is Reason.IMAGE_FROZEN and '5 s' in camera.cause.message
    assert camera.counted() == {'frozen': 19}
    one_pixel = STILL.copy()
    one_pixel[1, 1, 1] += 1  # between the samples
    assert camera.shows(one_pixel)


def test_still_pictures_can_be_allowed() -> None:
    camera = Camera(frozen_image_timeout_s=0.0)
    for _ in range(100):
        assert camera.shows(STILL)
        camera.clock.advance(60.0)


def test_another_size_is_a_change(camera: Camera) -> None:
    assert camera.shows(STILL)
    camera.clock.advance(6.0)
    assert camera.shows(STILL[:, :32])


def test_start_over_forgets(camera: Camera) -> None:
    assert camera.shows(STILL)
    camera.clock.advance(6.0)
    camera.watch.start_over()
    assert camera.shows(STILL, aside_s=-60.0)


def test_a_clock_that_jumps_makes_no_frozen_image_new(camera: Camera) -> None:
    for _ in range(80):
        camera.shows(STILL)
        camera.clock.advance(0.1)
    assert not camera.shows(STILL)
    camera.watch.forget_stamp()
    assert not camera.shows(STILL, aside_s=-60.0)
    assert camera.cause is not None
    assert camera.cause.reason is Reason.IMAGE_FROZEN
    assert camera.shows(aside_s=-50.0)


@pytest.mark.parametrize('jump_s', [-3600.0, -0.15, 0.15, 3600.0])
def test_a_clock_that_jumps(jump_s: float) -> None:
    clock = ManualClock()
    watch = ClockWatch(clock)
    for _ in range(100):
        clock.advance(0.02)
        assert watch.jump_s(simulated=False) == 0
    clock.advance(0.02)
    clock.jump(jump_s)
    assert watch.jump_s(simulated=False) == pytest.approx(jump_s)
    clock.advance(30.0)  # nobody looked for a while
    assert watch.jump_s(simulated=False) == 0
    assert watch.jumps == 1


def test_a_process_that_is_suspended_between_two_readings_is_no_jump() -> None:
    class Clock(ManualClock):
        suspended_s = 0.0

        def now_ns(self) -> int:
            now_ns = super().now_ns()
            self.advance(self.suspended_s)
            self.suspended_s = 0.0
            return now_ns

    clock = Clock()
    watch = ClockWatch(clock)
    for suspended_s in (0.0, 1.5, 0.0, 0.0):
        clock.advance(0.02)
        clock.suspended_s = suspended_s
        assert watch.jump_s(simulated=False) == 0
    assert watch.jumps == 0


def test_simulated_time_may_stand_still_or_run_fast() -> None:
    clock = ManualClock()
    watch = ClockWatch(clock)
    for step_s in (0.0, 1.0, 10.0, 0.0):
        clock.jump(step_s)
        assert watch.jump_s(simulated=True) == 0
    clock.jump(-0.001)
    assert watch.jump_s(simulated=True) == pytest.approx(-0.001)
    clock.jump(10.1)
    assert watch.jump_s(simulated=True) == pytest.approx(10.1)
    assert watch.jumps == 2


def test_simulated_time_that_begins_is_no_jump_but_its_reset_is() -> None:
    clock = ManualClock(now_ns=0)
    watch = ClockWatch(clock)
    assert watch.jump_s(simulated=True) == 0
    clock.jump(1e6)
    assert watch.jump_s(simulated=True) == 0
    assert watch.jumps == 0
    clock.jump(-1e6)
    assert watch.jump_s(simulated=True) == -1e6
    clock.jump(5.0)
    assert watch.jump_s(simulated=True) == 0
    assert watch.jumps == 1


def test_pictures_with_a_long_silence_between_them_are_not_frozen(camera: Camera) -> None:
    for _ in range(5):
        assert camera.shows(STILL)
        camera.clock.advance(5.1)


@pytest.mark.parametrize('buffers', [2, 3, 30, 300])
def test_a_driver_that_is_stuck_between_buffers(camera: Camera, buffers: int) -> None:
    images = [camera.noise() for _ in range(buffers)]
    for _ in range(5):  # it was sound
        assert camera.shows()
        camera.clock.advance(1 / 30)
    used = []
    for turn in range(buffers + 200):
        used.append(camera.shows(images[turn % buffers].copy()))
        camera.clock.advance(1 / 30)
    # The last new one was the last buffer of the first turn.
    assert used == [True] * (buffers + 150) + [False] * 50
    assert camera.cause.reason is Reason.IMAGE_FROZEN
    assert camera.shows()


def test_a_small_motion_between_the_samples_is_new(camera: Camera) -> None:
    """A simulation without noise, in which only one pixel moves."""
    for turn in range(1000):
        image = STILL.copy()
        image[1 + turn // 62 % 46, 1 + turn % 62] = turn % 200
        assert camera.shows(image)
        camera.clock.advance(0.1)


def test_what_was_long_ago_is_forgotten() -> None:
    camera = Camera(frozen_image_timeout_s=1.0)
    first = camera.noise()
    assert camera.shows(first)
    for _ in range(5000):
        camera.clock.advance(1 / 30)
        assert camera.shows()
    camera.clock.advance(1 / 30)
    assert camera.shows(first)
