# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while the node is active: each fault is injected through the real node.

The node runs in its own process with a scripted policy; the robot's stack hears the hold in time,
finds the fault counted, and sees the node act again once the fault is over. docs/faults.md lists
these tests; see test_faults_start_and_end.py for the others.
"""

from __future__ import annotations

import io
import itertools
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from lifecycle_msgs.msg import Transition
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage

from support.commands import running_python
from support.graph import PICTURE, CameraThread, Robot, image_message, noise, running_node
from support.inputs import shows
from support.nodes import PATIENT, started
from vla_ros.reasons import Reason, State

IMAGE_TIMEOUT_S = 0.8
FROZEN_TIMEOUT_S = 1.0
AT_ONCE_S = 0.0

INPUT_LIMITS = (
    f'image_timeout_s:={IMAGE_TIMEOUT_S}',
    f'frozen_image_timeout_s:={FROZEN_TIMEOUT_S}',
    'no_instruction_timeout_s:=0.5',
)


@pytest.fixture(scope='module')
def node() -> Iterator[Robot]:
    """One node for all faults of the inputs; what is under way when they come takes a while."""
    with running_node('model:=scripted:slow=0.1', *INPUT_LIMITS) as running:
        yield running.robot
    assert running.output.count('Traceback') == 0
    assert running.process.returncode == 0


@pytest.fixture
def stack(node: Robot) -> Iterator[Robot]:
    """RUNNING at the beginning; it must be able to go on at the end."""
    yield started(node)
    node.instruct('go')
    node.recovers()


def counter(stack: Robot, name: str) -> int:
    return getattr(stack.status.counters, name)


def counts(stack: Robot, **expected: int) -> bool:
    """Whether one status has all these counters."""
    status = stack.status
    return all(getattr(status.counters, name) == value for name, value in expected.items())


# -- pictures ----------------------------------------------------------------------------------


BAD_PICTURES = {
    'unknown encoding': ({'encoding': 'infrared9'}, "'infrared9' is not supported"),
    'depth image': ({'encoding': '16UC1'}, 'looks like a depth image'),
    'no pixels': ({'height': 0, 'width': 0, 'step': 0, 'data': b''}, '0 x 0'),
    'cut short': ({'data': bytes(100)}, 'data has 100 bytes'),
    'rows too short': ({'step': 10}, 'step is 10 bytes'),
    'far more data than pixels': ({'data': bytes(2**20)}, 'data has 1048576 bytes, at most'),
    'rows far too long': ({'step': 2**15, 'data': bytes(48 * 2**15)}, 'at most 83968'),
    'absurd size': ({'height': 2**31, 'width': 2**31, 'step': 2**31}, 'pixels are allowed'),
}


@pytest.mark.parametrize('kind', BAD_PICTURES)
def test_an_unusable_picture(stack: Robot, kind: str) -> None:
    changes, why = BAD_PICTURES[kind]
    before = counter(stack, 'rejected')
    with stack.expects_hold(Reason.IMAGE_REJECTED, AT_ONCE_S, message=why):
        stack.see(noise(**changes))
    stack.wait_for(lambda: counter(stack, 'rejected') == before + 1)


def test_an_old_picture(stack: Robot) -> None:
    before = counter(stack, 'stale')
    time.sleep(0.6)
    with stack.expects_hold(Reason.IMAGE_STALE, within_s=AT_ONCE_S):
        # Later than the last one, and yet too old.
        stack.see(noise(), stamp_ns=latest_ns(stack) + 1)
    stack.wait_for(lambda: counter(stack, 'stale') == before + 1)


def latest_ns(stack: Robot) -> int:
    sec, nanosec = max(stack.stamps)
    return sec * 10**9 + nanosec


def test_a_picture_without_a_stamp(stack: Robot) -> None:
    before = counter(stack, 'unstamped')
    with stack.expects_hold(Reason.IMAGE_UNSTAMPED, within_s=AT_ONCE_S):
        stack.see(noise(), stamp_ns=0)
    stack.wait_for(lambda: counter(stack, 'unstamped') == before + 1)


def test_a_picture_from_the_future(stack: Robot) -> None:
    before = counter(stack, 'future')
    with stack.expects_hold(Reason.IMAGE_FUTURE, within_s=AT_ONCE_S):
        stack.see(noise(), age_s=-5.0)
    stack.stamps.remove(max(stack.stamps))
    stack.wait_for(lambda: counter(stack, 'future') == before + 1)


def test_the_same_stamp_again_and_again(stack: Robot) -> None:
    before = counter(stack, 'repeated')
    stamp_ns = latest_ns(stack)
    with stack.expects_hold(Reason.IMAGE_TIMEOUT, within_s=IMAGE_TIMEOUT_S):
        ends_s = time.monotonic() + IMAGE_TIMEOUT_S + 0.2
        while time.monotonic() < ends_s:
            stack.see(noise(), stamp_ns=stamp_ns)
            time.sleep(0.05)
    assert counter(stack, 'repeated') > before


def test_stamps_that_go_backwards(stack: Robot) -> None:
    before = counter(stack, 'backwards')
    with stack.expects_hold(Reason.IMAGE_BACKWARDS, within_s=AT_ONCE_S):
        stack.see(noise(), stamp_ns=latest_ns(stack) - 10**8)
    stack.wait_for(lambda: counter(stack, 'backwards') == before + 1)


def test_two_cameras_whose_stamps_cross(stack: Robot) -> None:
    before = counter(stack, 'backwards')
    for _ in range(3):
        stack.recovers()
        message = 'there is more than one publisher'
        with stack.expects_hold(Reason.IMAGE_BACKWARDS, AT_ONCE_S, message):
            stack.see(noise(), age_s=0.5)
    stack.wait_for(lambda: counter(stack, 'backwards') == before + 3)


def test_pixels_that_do_not_change(stack: Robot) -> None:
    before = counter(stack, 'frozen')
    with stack.expects_hold(Reason.IMAGE_FROZEN, within_s=FROZEN_TIMEOUT_S):
        ends_s = time.monotonic() + FROZEN_TIMEOUT_S + 0.2
        while time.monotonic() < ends_s:
            stack.see(image_message(PICTURE))
            time.sleep(0.05)
    stack.wait_for(lambda: counter(stack, 'frozen') > before)


def test_images_that_come_again_in_turns(stack: Robot) -> None:
    before = counter(stack, 'frozen')
    buffers = itertools.cycle([noise(), noise(), noise()])
    with stack.expects_hold(Reason.IMAGE_FROZEN, within_s=FROZEN_TIMEOUT_S + 0.2):
        ends_s = time.monotonic() + FROZEN_TIMEOUT_S + 0.4
        while time.monotonic() < ends_s:
            stack.see(next(buffers))
            time.sleep(0.05)
    stack.wait_for(lambda: counter(stack, 'frozen') > before)


def test_a_camera_that_falls_silent(stack: Robot) -> None:
    stack.see(noise())
    with stack.expects_hold(Reason.IMAGE_TIMEOUT, IMAGE_TIMEOUT_S, 'for image_timeout_s'):
        pass


def test_a_camera_that_is_killed(stack: Robot, tmp_path: Path) -> None:
    picture = tmp_path / 'picture.png'
    PIL.Image.fromarray(PICTURE).save(picture)
    command = ['-m', 'vla_ros.cli.camera', str(picture), '--ros-args']
    command += ['-r', f'__ns:={stack.get_namespace()}']
    count = len(stack.actions)
    with running_python(*command) as camera:
        stack.wait_for(lambda: len(stack.actions) > count + 5)
        with stack.expects_hold(Reason.IMAGE_TIMEOUT, within_s=IMAGE_TIMEOUT_S):
            camera.send_signal(signal.SIGKILL)


@shows('Publishers', 'the node holds; the status', 'nobody publishes the images')
def test_no_camera_at_all() -> None:
    limits = ('first_image_timeout_s:=0.5', 'autostart:=false')
    with running_node('model:=scripted', 'instruction:=go', *limits) as run:
        stack = run.robot
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        stack.wait_for_state(State.READY)
        with stack.expects_hold(Reason.NO_FIRST_IMAGE, 0.5, 'publishers there: 1'):
            assert stack.transition(Transition.TRANSITION_ACTIVATE)
        stack.wait_until_heard()
        stack.recovers()


@pytest.mark.parametrize('kind', ['damaged', 'cut', 'cut, with an end mark', 'a gap', 'bomb'])
def test_an_unusable_compressed_picture(compressed: Robot, kind: str) -> None:
    jpeg = jpeg_of(np.asarray(noise().data, dtype=np.uint8).reshape(PICTURE.shape))
    content, why = {
        'damaged': (b'\xff\xd8 no picture', 'not a complete JPEG or PNG'),
        'cut': (jpeg[: len(jpeg) // 2], 'not a complete JPEG or PNG'),
        'cut, with an end mark': (jpeg[: len(jpeg) // 2] + b'\xff\xd9', 'Corrupt JPEG data'),
        'a gap': (jpeg[: len(jpeg) // 2] + jpeg[len(jpeg) // 2 + 500 :], 'Corrupt JPEG data'),
        'bomb': (png_of_size(60_000, 60_000), 'pixels'),
    }[kind]
    compressed.see(CompressedImage(format='jpeg', data=jpeg))
    compressed.wait_for_state(State.RUNNING)
    before = counter(compressed, 'rejected')
    with compressed.expects_hold(Reason.IMAGE_REJECTED, AT_ONCE_S, message=why):
        compressed.see(CompressedImage(format='jpeg', data=content))
    compressed.wait_for(lambda: counter(compressed, 'rejected') == before + 1)
    compressed.see(CompressedImage(format='jpeg', data=jpeg))
    compressed.wait_for_state(State.RUNNING)


@pytest.fixture(scope='module')
def compressed() -> Iterator[Robot]:
    parameters = ('model:=scripted', 'instruction:=go', 'image_transport:=compressed')
    with running_node(*parameters, 'image_timeout_s:=60.0') as running:
        running.robot.wait_for_state(State.HOLDING)
        running.robot.wait_until_heard()
        yield running.robot
    assert running.process.returncode == 0


def jpeg_of(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, 'jpeg')
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises that size."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(PICTURE).save(buffer, 'png')
    content = bytearray(buffer.getvalue())
    content[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    return bytes(content)


# -- instructions ------------------------------------------------------------------------------


def test_an_empty_instruction(stack: Robot) -> None:
    before = counter(stack, 'idle')
    with stack.expects_hold(Reason.NO_INSTRUCTION, within_s=AT_ONCE_S):
        stack.say('')
    count = len(stack.actions)
    stack.see(noise())
    stack.wait_for(lambda: counter(stack, 'idle') == before + 1)
    assert len(stack.actions) == count


def test_pictures_without_an_instruction(stack: Robot) -> None:
    message = 'for no_instruction_timeout_s, 0.5 s'
    with stack.expects_hold(Reason.NO_INSTRUCTION, 0.5, message):
        stack.say('')
        ends_s = time.monotonic() + 0.7
        while time.monotonic() < ends_s:
            stack.see(noise())
            time.sleep(0.05)


@pytest.mark.parametrize(
    ('instruction', 'why'),
    [
        ('x' * 10_000, '10000 characters, at most 500'),
        ('pick\x07up', r"control character '\x07'"),
        ('stop </s>', "special token '</s>'"),
    ],
    ids=['too long', 'control character', 'special token'],
)
def test_an_unusable_instruction(stack: Robot, instruction: str, why: str) -> None:
    before = counter(stack, 'instructions_rejected')
    with stack.expects_hold(Reason.INSTRUCTION_REJECTED, AT_ONCE_S, message=why):
        stack.say(instruction)
    count = len(stack.actions)
    stack.see(noise())
    stack.wait_for(lambda: counter(stack, 'instructions_rejected') == before + 1)
    time.sleep(0.2)
    assert len(stack.actions) == count


def test_an_instruction_that_the_policy_refuses() -> None:
    with running_node('model:=scripted:refuse@2') as running:
        stack = started(running.robot)
        with stack.expects_hold(Reason.INSTRUCTION_REJECTED, within_s=AT_ONCE_S):
            stack.see(noise())
        stack.wait_for(lambda: counter(stack, 'instructions_rejected') == 1)
        stack.instruct('go on')
        stack.recovers()


def test_an_instruction_that_nobody_repeats() -> None:
    with running_node('model:=scripted', 'max_instruction_age_s:=1.0') as running:
        stack = started(running.robot)
        with CameraThread(stack):
            for _ in range(15):  # repeated, it stays in force
                stack.say('go')
                time.sleep(0.1)
            assert stack.status.counters.instructions_expired == 0
            with stack.expects_hold(Reason.INSTRUCTION_EXPIRED, within_s=1.0):
                stack.say('go')
        assert stack.status.counters.instructions_expired == 1
        started(stack)


def test_a_new_instruction_during_an_inference() -> None:
    with running_node('model:=scripted:slow=3@2', *PATIENT) as running:
        stack = started(running.robot)
        stack.see(noise())
        stack.wait_for(lambda: counter(stack, 'in_flight') == 1)
        count = len(stack.actions)
        with stack.expects_hold(Reason.INSTRUCTION_CHANGED, within_s=AT_ONCE_S):
            stack.say('stop that')
        stack.wait_for(lambda: counter(stack, 'cancelled') == 1)
        assert len(stack.actions) == count
        stack.recovers()
        assert stack.actions[-1].instruction == 'stop that'


# -- the policy --------------------------------------------------------------------------------

POLICY_FAULTS = {
    'raise': ('failed', Reason.POLICY_FAILED, 'the policy failed'),
    'oom': ('failed', Reason.POLICY_FAILED, 'memory'),
    'nan': ('invalid', Reason.ACTION_INVALID, 'not finite'),
    'inf': ('invalid', Reason.ACTION_INVALID, 'not finite'),
    'dim=3': ('invalid', Reason.ACTION_INVALID, 'has 3 values, expected 7'),
    'unbounded': ('invalid', Reason.ACTION_INVALID, 'not within -1 and 1'),
    'invalid': ('invalid', Reason.ACTION_INVALID, 'invalid action'),
}


@pytest.mark.parametrize('fault', POLICY_FAULTS)
def test_a_policy_that_fails(fault: str) -> None:
    name, reason, message = POLICY_FAULTS[fault]
    with running_node(f'model:=scripted:{fault}@2') as running:
        stack = started(running.robot)
        with stack.expects_hold(reason, AT_ONCE_S, message):
            stack.see(noise())
        stack.wait_for(lambda: counter(stack, name) == 1)
        assert len(stack.actions) == 1
        stack.recovers()
    assert running.process.returncode == 0


def test_a_policy_that_fails_at_random() -> None:
    with running_node('model:=scripted:raise@30%,nan@20%,seed=7') as running:
        stack = started(running.robot)
        with CameraThread(stack):
            stack.wait_for(
                lambda: min(stack.status.counters.failed, stack.status.counters.invalid) >= 5
            )
            stack.wait_for(lambda: len(stack.actions) >= 30)
        status = stack.status
        assert status.counters.taken == (
            status.counters.published
            + status.counters.failed
            + status.counters.invalid
            + status.counters.in_flight
        )


def test_an_inference_that_is_late() -> None:
    limits = ('inference_timeout_s:=0.3', 'max_action_age_s:=1.0')
    with running_node('model:=scripted:slow=5@2', *limits) as running:
        stack = started(running.robot)
        with stack.expects_hold(Reason.INFERENCE_OVERRUN, 0.3, 'inference_timeout_s, 0.3 s'):
            stack.see(noise())
        stack.wait_for(lambda: counter(stack, 'overrun') == 1)
        assert len(stack.actions) == 1
        stack.recovers()


def test_an_inference_that_hears_no_cancel_but_comes_back() -> None:
    limits = ('inference_timeout_s:=0.3', 'max_action_age_s:=5.0', 'image_timeout_s:=60.0')
    with running_node('model:=scripted:hung=1.5@2', *limits) as running:
        stack = started(running.robot)
        with stack.expects_hold(Reason.INFERENCE_OVERRUN, 0.3, 'inference_timeout_s, 0.3 s'):
            stack.see(noise())
        assert counter(stack, 'overrun') == 0  # still at it
        stack.wait_for(lambda: counter(stack, 'overrun') == 1)
        assert len(stack.actions) == 1
        stack.recovers()


def test_an_action_that_is_too_old_when_it_is_ready() -> None:
    limits = (*PATIENT, 'max_image_age_s:=5.0')
    with running_node('model:=scripted:slow=1@2', *limits) as running:
        stack = started(running.robot)
        time.sleep(4.3)
        with stack.expects_hold(Reason.ACTION_TOO_OLD, 1.0, 'max_action_age_s is 5'):
            # Not too old as a picture, and later than the last one.
            stack.see(noise(), stamp_ns=latest_ns(stack) + 1)
        stack.wait_for(lambda: counter(stack, 'overrun') == 1)
        stack.recovers()


def test_deactivation_during_an_inference() -> None:
    with running_node('model:=scripted:slow=3@2', *PATIENT) as running:
        stack = started(running.robot)
        stack.see(noise())
        stack.wait_for(lambda: counter(stack, 'in_flight') == 1)
        assert stack.transition(Transition.TRANSITION_DEACTIVATE)
        stack.wait_for_state(State.READY)
        stack.wait_for(lambda: counter(stack, 'cancelled') == 1)
        assert len(stack.actions) == 1
        assert stack.transition(Transition.TRANSITION_ACTIVATE)
        stack.wait_until_heard()
        stack.recovers()


# -- clocks ------------------------------------------------------------------------------------


class Simulation:
    """Publishes the time of a simulation, which the test sets."""

    def __init__(self, stack: Robot) -> None:
        self._stack = stack
        self._clocks = stack.create_publisher(Clock, '/clock', 10)
        self.now_ns = 1000 * 10**9

    def step(self, seconds: float = 0.02) -> None:
        self.now_ns += round(seconds * 1e9)
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(self.now_ns, 10**9)
        self._clocks.publish(message)

    def runs(self, acts_by: int) -> None:
        """Time passes and the camera looks, until there are so many actions."""

        def enough() -> bool:
            self.step()
            time.sleep(0.02)
            self._stack.see(noise(), stamp_ns=self.now_ns)
            return len(self._stack.actions) >= acts_by

        self._stack.wait_for(enough)
        time.sleep(0.2)  # for the last picture: it must not come after what is done next


@pytest.fixture
def simulated() -> Iterator[tuple[Robot, Simulation]]:
    limits = ('image_timeout_s:=0.8', 'first_image_timeout_s:=60.0')
    with running_node('model:=scripted', 'instruction:=go', 'use_sim_time:=true', *limits) as run:
        run.robot.wait_for_state(State.HOLDING)
        run.robot.wait_until_heard()
        yield run.robot, Simulation(run.robot)
    assert run.process.returncode == 0


def test_simulated_time_that_nobody_publishes(simulated: tuple[Robot, Simulation]) -> None:
    stack, simulation = simulated
    stack.wait_for_state(State.HOLDING, Reason.NO_SIMULATED_TIME)
    stack.see(noise())
    stack.wait_for(lambda: counter(stack, 'future') == 1)
    assert not stack.actions
    simulation.runs(acts_by=3)


@pytest.mark.parametrize('jump_s', [-500.0, -0.5, 3600.0])
def test_a_clock_that_jumps(simulated: tuple[Robot, Simulation], jump_s: float) -> None:
    stack, simulation = simulated
    simulation.runs(acts_by=3)
    with stack.expects_hold(Reason.CLOCK_JUMP, within_s=0.1):
        simulation.step(jump_s)
    stack.wait_for(lambda: counter(stack, 'clock_jumps') == 1)
    simulation.runs(acts_by=len(stack.actions) + 3)


def test_a_second_jump_drops_what_began_after_the_first() -> None:
    """Though the robot still holds for the first, and would say the same of the second."""
    arguments = ('model:=scripted:stuck@4-9', 'instruction:=go', 'use_sim_time:=true', *PATIENT)
    with running_node(*arguments) as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        stack.wait_until_heard()
        simulation = Simulation(stack)
        simulation.runs(acts_by=3)
        acted = len(stack.actions)
        with stack.expects_hold(Reason.CLOCK_JUMP, within_s=0.1):
            simulation.step(-0.15)
        stack.wait_for(lambda: counts(stack, clock_jumps=1, in_flight=0))
        received = counter(stack, 'received')
        for number in (1, 2):
            # So old that by the next jump's clock, too, it is a picture of now.
            stack.see(noise(), stamp_ns=simulation.now_ns - 200_000_000)
            stack.wait_for(partial(counts, stack, received=received + number, in_flight=1))
            simulation.step(-0.15)
            stack.wait_for(partial(counts, stack, clock_jumps=1 + number, in_flight=0))
            assert len(stack.actions) == acted


def test_a_simulation_that_is_reset_to_zero(simulated: tuple[Robot, Simulation]) -> None:
    stack, simulation = simulated
    simulation.runs(acts_by=3)
    simulation.now_ns = 0
    with stack.expects_hold(Reason.CLOCK_JUMP, within_s=0.1):
        simulation.step(0.0)
    stack.wait_for(lambda: counter(stack, 'clock_jumps') == 1)
    simulation.runs(acts_by=len(stack.actions) + 3)
    assert counter(stack, 'clock_jumps') == 1


def test_a_clock_that_stands_still(simulated: tuple[Robot, Simulation]) -> None:
    stack, simulation = simulated
    simulation.runs(acts_by=3)
    stack.wait_for(lambda: counter(stack, 'in_flight') == 0)
    with stack.expects_hold(Reason.IMAGE_TIMEOUT, within_s=0.8):
        for _ in range(20):
            simulation.step(0.0)
            stack.see(noise(), stamp_ns=simulation.now_ns)
            time.sleep(0.05)
    simulation.runs(acts_by=len(stack.actions) + 3)
