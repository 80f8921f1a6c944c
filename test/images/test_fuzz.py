# SPDX-License-Identifier: Apache-2.0
"""Messages that lie: whatever comes in is used or refused, and counted, and nothing ends the node.

The seed is printed; put it into SEED to see a failure again.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from support.fakes import SPEC
from support.graph import PICTURE, Running, image_message, running_node
from vla_ros.clock import ManualClock
from vla_ros.images import cv_bridge as trial
from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.encodings import ENCODINGS
from vla_ros.images.raw import image_to_rgb
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, State
from vla_ros.ros.axes import ContractAxes
from vla_ros.ros.frames import Frames
from vla_ros.ros.instructions import Instructions
from vla_ros.ros.latch import Latches
from vla_ros.ros.log import Log
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.observations import Needs, Observations
from vla_ros.ros.pose_input import PoseInput
from vla_ros.ros.rivals import Rivals
from vla_ros.ros.shared import RequestCounters, Shared
from vla_ros.scheduling import CommandWatch
from vla_ros.scheduling.accounts import unaccounted
from vla_ros.text import is_blank
from vla_ros.types import (
    MAX_INSTRUCTION_CHARACTERS,
    InstructionError,
    Observation,
    check_instruction,
)

SEED = 0
UINT32_MAX = 2**32 - 1
NAMES = [
    *ENCODINGS,
    '16UC1',
    '32FC1',
    'mono16',
    '8UC3',
    'RGB8',
    '',
    'rgb8\0',
    '\n',
    'ä',
]
FORMATS = ['', 'jpeg', 'png', 'rgb8; jpeg compressed bgr8', '16UC1; compressedDepth png', '\0', 'ä']
LONGEST_ERROR = 1000  # characters; it goes into the status and the log
INT32_MAX = 2**31 - 1


@pytest.fixture
def random() -> Generator:
    print(f'seed {SEED}')
    return np.random.default_rng(SEED)


def chosen(random: Generator, among: list[Any]) -> Any:
    return among[random.integers(len(among))]


# Image


def sound_image(random: Generator) -> Image:
    """In any encoding and some tiny size; its rows may be padded."""
    name = chosen(random, list(ENCODINGS))
    encoding = ENCODINGS[name]
    width, height = (int(side) for side in random.integers(encoding.smallest, 9, 2))
    width += width % encoding.width_multiple
    step = width * encoding.channels * encoding.value_bytes + int(random.integers(3))
    return Image(
        width=width,
        height=height,
        step=step,
        encoding=name,
        is_bigendian=int(random.integers(2)),
        data=random.bytes(step * height),
    )


def with_lies(message: Image, random: Generator) -> Image:
    """Up to three of its fields say something else."""
    for _ in range(random.integers(4)):
        field = chosen(random, ['width', 'height', 'step', 'encoding', 'is_bigendian', 'data'])
        if field == 'encoding':
            value = chosen(random, NAMES)
        elif field == 'is_bigendian':
            value = int(random.integers(256))
        elif field == 'data':
            value = random.bytes(random.integers(2 * len(message.data) + 2))
        else:
            now = getattr(message, field)
            lies = [0, 1, now - 1, now + 1, 2 * now, 2**16, 2**31, UINT32_MAX]
            lies.append(random.integers(UINT32_MAX))
            value = min(max(int(chosen(random, lies)), 0), UINT32_MAX)
        setattr(message, field, value)
    return message


# CompressedImage


@functools.cache
def sound_files() -> tuple[bytes, ...]:
    """Small pictures of every kind that Pillow writes as JPEG or PNG."""
    noise = np.random.default_rng(SEED).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(noise)
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = 6, 'a camera'
    more = {'save_all': True, 'append_images': [picture]}
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ('RGB', 'JPEG', {}),
        ('RGB', 'JPEG', {'progressive': True, 'exif': exif, 'icc_profile': bytes(300)}),
        ('L', 'JPEG', {'dpi': (72, 72), 'comment': b'a comment'}),
        ('CMYK', 'JPEG', {}),
        ('RGB', 'MPO', more),
        ('RGB', 'PNG', {'exif': exif, 'icc_profile': bytes(300), 'dpi': (72, 72)}),
        ('RGBA', 'PNG', {}),
        ('RGB', 'PNG', {'transparency': (1, 2, 3)}),
        ('P', 'PNG', {}),
        ('I;16', 'PNG', {}),
        ('LA', 'PNG', more),
    ]
    files = []
    for mode, kind, options in kinds:
        buffer = io.BytesIO()
        as_mode = picture.convert('L').convert(mode) if mode == 'I;16' else picture.convert(mode)
        as_mode.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return tuple(files)


def mutated(data: bytes, random: Generator) -> bytes:
    """The same file with a few bytes changed, cut out, repeated, or its end cut off."""
    broken = bytearray(data)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(len(broken) + 1))
        length = int(random.integers(1, 9))
        kind = random.integers(5)
        if kind == 0:
            broken[at : at + length] = random.bytes(length)
        elif kind == 1:
            broken[at : at + length] = bytes([chosen(random, [0, 1, 0x7F, 0x80, 0xFF])]) * length
        elif kind == 2:
            del broken[at : at + length]
        elif kind == 3:
            broken[at:at] = broken[at : at + 8 * length]
        elif random.integers(4) == 0:
            del broken[at:]
    return bytes(broken)


def fuzzed_compressed(random: Generator) -> CompressedImage:
    file = chosen(random, list(sound_files()))
    data = chosen(random, [mutated(file, random), mutated(file, random), file, random.bytes(64)])
    return CompressedImage(format=chosen(random, FORMATS), data=data)


# The input path


class StandIn:
    """For the node: the inputs ask it for a subscription, and gets one that hears nothing."""

    def create_subscription(self, *_: object) -> SimpleNamespace:
        return SimpleNamespace(topic_name='instruction')

    def resolve_topic_name(self, topic: str) -> str:
        return f'/{topic}'

    def get_publishers_info_by_topic(self, _: str) -> list[Any]:
        return []

    def count_publishers(self, _: str) -> int:
        return 1

    def get_logger(self) -> SimpleNamespace:
        return SimpleNamespace(error=lambda text: None)


def shared_by_robots(clock: ManualClock, latch_file: Path) -> Shared:
    node: Any = StandIn()
    return Shared(
        cast(NodeClock, clock),
        Log(node, clock),
        Latches(latch_file, ('',)),
        CommandWatch(2.0, clock),
        Rivals(node),
        RequestCounters(),
        Frames(node, clock),
    )


class Account:
    """The inputs of a robot, and what they did with each image."""

    def __init__(self, latch_file: Path) -> None:
        self.clock = ManualClock()
        self.observations: list[Observation] = []
        self.faults: list[Cause] = []
        shared = shared_by_robots(self.clock, latch_file)
        self.instructions = Instructions(StandIn(), shared, '', '', lambda _: None)
        axes = ContractAxes(shared.frames, Parameters(), 0)
        tool = PoseInput(StandIn(), shared.frames, '', Parameters(), 0)
        inputs = Observations(
            StandIn(),
            shared,
            '',
            Parameters(frozen_image_timeout_s=0.0),  # few raw images, again and again
            Needs(SPEC, (), '', axes, 'base', tool),
            instruction=lambda: self.instructions.text,
            on_observation=self.observations.append,
            on_fault=self.faults.append,
        )
        inputs.listen()
        self.cameras = inputs.cameras
        self.camera = self.cameras.camera('image')
        self.instructions.set('go')

    def shows(
        self, message: Image | CompressedImage, to_rgb: Callable[[Any], NDArray[np.uint8]]
    ) -> Observation | None:
        """The observation that it became; None if it was refused, for a reason that was told."""
        self.observations.clear()
        self.faults.clear()
        self.clock.advance(1 / 30)
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(self.clock.now_ns(), 10**9)
        self.camera.hear(message, to_rgb)
        assert len(self.observations) + len(self.faults) == 1
        assert not self.faults or len(self.faults[0].message) < LONGEST_ERROR, self.faults
        return self.observations[0] if self.observations else None


def assert_whole(image: NDArray[np.uint8]) -> None:
    """uint8 [H, W, 3], and every byte of it can be read."""
    assert image.dtype == np.uint8
    assert image.ndim == 3 and image.shape[2] == 3 and image.size
    assert 0 <= int(image.sum()) <= 255 * image.size


@pytest.mark.parametrize('cv_bridge', [True, False])
def test_10_000_images(
    random: Generator, cv_bridge: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not cv_bridge:
        monkeypatch.setattr(trial, 'verdict', trial.Verdict)
    account = Account(tmp_path / 'latch.json')
    used = 0
    for number in range(10_000):
        message = with_lies(sound_image(random), random)
        stated = (message.height, message.width, 3)
        observation = account.shows(message, image_to_rgb)
        if observation is not None:
            used += 1
            assert observation.image.shape == stated, number
            assert_whole(observation.image)
    counters = account.cameras.counters
    assert counters.received == 10_000
    assert counters.rejected == 10_000 - used
    assert 1_500 < used < 8_500


def test_10_000_compressed_images(random: Generator, tmp_path: Path) -> None:
    account = Account(tmp_path / 'latch.json')
    used = 0
    for _ in range(10_000):
        observation = account.shows(fuzzed_compressed(random), compressed_to_rgb)
        if observation is not None:
            used += 1
            assert_whole(observation.image)
    counters = account.cameras.counters
    assert counters.received == 10_000
    assert counters.rejected == 10_000 - used
    assert 1_250 < used < 8_750


def test_10_000_stamps(random: Generator, tmp_path: Path) -> None:
    """Pictures at any time at all: each is handed on or counted under one name."""
    account = Account(tmp_path / 'latch.json')
    handed_on = 0
    extremes = [-(2**31), -1, 0, 1, INT32_MAX]
    for _ in range(10_000):
        account.observations.clear()
        message = image_message()
        now_s = account.clock.now_ns() // 10**9
        near = now_s + int(random.integers(-3, 3))
        message.header.stamp.sec = min(int(chosen(random, [*extremes, near, near])), INT32_MAX)
        message.header.stamp.nanosec = int(chosen(random, [0, 999_999_999, UINT32_MAX]))
        account.camera.hear(message, image_to_rgb)
        handed_on += len(account.observations)
        account.clock.advance(float(random.integers(3)))
    cameras = account.cameras
    received, refused = cameras.counters.received, cameras.watch_counters.total
    assert received == handed_on + refused == 10_000
    assert 0 < handed_on < 10_000


# Instructions

CHARACTERS = [*map(chr, range(0x250)), '\u2028', '\u2029', '\u202e', '\u200b', '\ufeff', '漢', '😀']


def fuzzed_instruction(random: Generator) -> str:
    pieces = ['pick up the cup', '</s>', '<S>', '<unk>', '<pad>', '{instruction}', '%s', '\\', '']
    length = int(chosen(random, [0, 1, 5, 20, MAX_INSTRUCTION_CHARACTERS, 2000]))
    kind = random.integers(4)
    if kind == 0:
        return ''.join(chosen(random, pieces) for _ in range(random.integers(1, 5)))
    if kind == 1:
        return ''.join(chosen(random, CHARACTERS) for _ in range(length))
    if kind == 2:
        codes = random.integers(0x20, 0x110000, length)
        return ''.join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
    return chosen(random, [' ', 'x', 'é', '漢', '\n', '\0']) * length


def test_5_000_instructions(random: Generator, tmp_path: Path) -> None:
    account = Account(tmp_path / 'latch.json')
    refused = 0
    for _ in range(5_000):
        instruction = fuzzed_instruction(random)
        try:
            check_instruction(instruction)
        except InstructionError as error:
            refused += 1
            assert len(str(error)) < LONGEST_ERROR
            assert str(error).isprintable()
            in_force = ''
        else:
            assert len(instruction) <= MAX_INSTRUCTION_CHARACTERS or is_blank(instruction)
            in_force = '' if is_blank(instruction) else instruction
        account.instructions.set(instruction)
        assert account.instructions.text == in_force
    assert account.instructions.counters.instructions_rejected == refused
    assert 500 < refused < 4_500


# The whole node


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_the_node_outlives_600_messages(
    random: Generator, transport: str, tiny_checkpoint: Path
) -> None:
    parameters = [f'model:={tiny_checkpoint}', 'device:=cpu', f'image_transport:={transport}']
    limits = ['inference_timeout_s:=20.0', 'max_action_age_s:=20.0', 'max_image_age_s:=5.0']
    with running_node(*parameters, *limits) as running:
        person = running.robot
        person.wait_for_state(State.HOLDING)
        person.wait_until_heard()
        for number in range(600):
            message = sound_picture(random, transport)
            if number % 3:
                message = fuzzed_picture(random, transport)
            person.see(message, stamp_ns=int(chosen(random, [0, 1])) or None)
            if number % 10 == 0:
                person.instructions.publish(String(data=fuzzed_instruction(random)))
            time.sleep(0.002)  # a camera of 500 pictures a second; DDS drops what is too much
        assert running.process.poll() is None
        assert_balanced_and_alive(running, functools.partial(sound_picture, random, transport))
    assert running.process.returncode == 0
    assert 'Traceback' not in running.output


def fuzzed_picture(random: Generator, transport: str) -> Image | CompressedImage:
    if transport == 'compressed':
        return fuzzed_compressed(random)
    return with_lies(sound_image(random), random)


def sound_picture(random: Generator, transport: str) -> Image | CompressedImage:
    pixels = random.integers(0, 256, PICTURE.shape, dtype=np.uint8)
    if transport == 'raw':
        return image_message(pixels)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, 'JPEG')
    return CompressedImage(format='jpeg', data=buffer.getvalue())


def assert_balanced_and_alive(
    running: Running, picture: Callable[[], Image | CompressedImage]
) -> None:
    """A good picture gives an action still; then nothing is unaccounted for."""
    person = running.robot
    person.instruct('open the drawer')
    count = len(person.actions)

    def acts() -> bool:
        person.see(picture())
        time.sleep(0.05)
        return len(person.actions) > count and person.status.state == State.RUNNING

    person.wait_for(acts)
    person.say('')
    person.wait_for_state(State.HOLDING, 'no instruction')
    known = len(person.statuses)
    person.wait_for(lambda: len(person.statuses) > known + 2)
    print(f'{person.status.counters.received} received, {person.status.counters.rejected} rejected')
    assert not unaccounted(person.status.counters)
    assert person.status.counters.received > 280
    assert person.status.counters.rejected > 80
    assert person.status.counters.instructions_rejected > 0
