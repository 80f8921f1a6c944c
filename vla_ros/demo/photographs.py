# SPDX-License-Identifier: Apache-2.0
"""``vla_demo --photographs``: images and instructions become actions on real ROS 2 topics.

There are three processes: the node, with a tiny OpenVLA of random weights; a camera that publishes
photographs; and this one, which gives three instructions in turn and prints the actions. The
actions are valid and depend on image and instruction, but mean nothing. All processes use the
namespace /vla_demo, so that no real robot listens.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import PIL.Image
import rclpy
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from vla_ros.client.processes import camera_environment, running
from vla_ros.client.vla_client import ReceivedAction, VlaClient
from vla_ros.console import EndRequest, catching_signals
from vla_ros.graph.stamps import from_duration
from vla_ros.images.raw import image_to_rgb
from vla_ros.motion import shipped_entry
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import State
from vla_ros.scheduling.accounts import EQUATIONS
from vla_ros.share import share_file
from vla_ros.types import PolicyError

NAMESPACE = '/vla_demo'
INSTRUCTIONS = ('pick up the red cup', 'open the drawer', 'move the bowl to the left')
_STATUS_S = 5.0  # it comes once a second
_PHOTOGRAPHS = ('astronaut.png', 'coffee.png', 'chelsea.png', 'motorcycle_left.png')


class DemoFailed(PolicyError):
    """A demonstration that failed."""


class Operator(VlaClient):
    """An operator that gives the instructions in turn, and prints a row for every action.

    Used by the main thread.
    """

    def __init__(self, node: Node, actions: int, watches: bool) -> None:
        """Subscribe to the robot's topics.

        :param actions: number of actions after which it is done.
        :param watches: whether to subscribe to the operator's view, too.
        """
        super().__init__(node=node, depth=10)
        self.heard: list[VlaAction] = []
        self.view: Image | None = None  # the last operator's view
        self.on_status, self.on_action = self._print_state, self._print_action
        self._wanted = actions
        self._shown_state = State.UNKNOWN
        if watches:
            node.create_subscription(Image, self.topic('debug_image'), self._on_view, 1)

    @property
    def done(self) -> bool:
        """Whether all actions have been received."""
        return len(self.heard) >= self._wanted

    def say_next(self) -> None:
        """Publish the instruction whose turn it is; repeating it changes nothing."""
        turn = min(len(self.heard) * len(INSTRUCTIONS) // self._wanted, len(INSTRUCTIONS) - 1)
        self.say(INSTRUCTIONS[turn])

    def _print_state(self, status: VlaStatus) -> None:
        if status.state != self._shown_state and not self.heard:
            self._shown_state = status.state
            print(status.message)

    def _on_view(self, message: Image) -> None:
        self.view = message

    def _print_action(self, received: ReceivedAction) -> None:
        if self.done:
            return
        if not self.heard:
            print(f'\n{"#":>3} {"instruction":26} {"action":^56} {"inference":>9} {"latency":>8}')
        message = received.message
        self.heard.append(message)
        numbers = ' '.join(f'{value:+.4f}' for value in message.action)
        print(
            f'{message.sequence:3d} {message.instruction:26} {numbers:56} '
            f'{_milliseconds(message.inference_time):6.0f} ms '
            f'{_milliseconds(message.latency):5.0f} ms'
        )
        self.say_next()


def _milliseconds(duration: Duration) -> float:
    return 1e3 * from_duration(duration)


def photographs() -> list[Path]:
    """Return the photographs that the package scikit-image has.

    :raises DemoFailed: if the package is not installed.
    """
    try:
        import skimage
    except ImportError as error:
        raise DemoFailed(
            'the photographs come from the package scikit-image: pip install scikit-image'
        ) from error
    return [Path(skimage.__file__).parent / 'data' / name for name in _PHOTOGRAPHS]


def running_camera(
    namespace: str,
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Run ``vla_camera`` with the photographs, and the Fast DDS profile that large images need.

    :raises DemoFailed: if there are no photographs.
    """
    return running(
        'vla_ros.cli.camera',
        *map(str, photographs()),
        *('--ros-args', '-r', f'__ns:={namespace}'),
        environment=camera_environment(),
    )


def watch(
    operator: Operator,
    processes: list[subprocess.Popen[bytes]],
    timeout_s: float,
    stopped: EndRequest,
) -> None:
    """Wait until all actions have been received.

    :raises DemoFailed: if the node is in ERROR, a process ended, or ``timeout_s`` is over.
    :raises KeyboardInterrupt: once ``stopped`` is set.
    """

    def check() -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        if operator.latest.state == State.ERROR:
            raise DemoFailed(f'the node is in {operator.latest.message}')
        for process in processes:
            if process.poll() is not None:
                raise DemoFailed(f'{process.args!r} ended with code {process.returncode}')

    operator.check = check
    if not operator.repeat_until(operator.say_next, lambda: operator.done, timeout_s):
        raise DemoFailed(
            f'{len(operator.heard)} actions within {timeout_s:g} s; {operator.last_words()}'
        )


def print_summary(operator: Operator) -> None:
    """Print the rate and the latency of the actions, and the counters of the images."""
    status, first, last = operator.latest, operator.heard[0], operator.heard[-1]
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec / 1e9 for m in (first, last)]
    rate_hz = (len(operator.heard) - 1) / max(stamps[1] - stamps[0], 1e-9)
    latencies_ms = sorted(_milliseconds(message.latency) for message in operator.heard)
    different = len({tuple(message.action) for message in operator.heard})
    print(
        f'\n{len(operator.heard)} actions ({different} different) at {rate_hz:.1f} Hz, '
        f'{status.policy.device} {status.policy.dtype}; capture to publish: median '
        f'{latencies_ms[len(latencies_ms) // 2]:.0f} ms, most {latencies_ms[-1]:.0f} ms'
    )
    counters = status.counters
    parts = {name: getattr(counters, name) for name in EQUATIONS['received']}
    told = ' + '.join(f'{count} {name}' for name, count in parts.items() if count)
    print(f'images: {counters.received} received = {told}')


def write_contract(folder: Path) -> Path:
    """Write a contract for the random policy, whose values are about as large as bridge_orig's."""
    path = folder / 'contracts.yaml'
    path.write_text(json.dumps({'random': shipped_entry('bridge_orig')}))
    return path


def write_view(view: Image | None, path: Path) -> None:
    """Write the operator's view as a PNG.

    :raises DemoFailed: if there is none, or it can't be written.
    """
    if view is None:
        raise DemoFailed('nothing was received on debug_image')
    try:
        PIL.Image.fromarray(image_to_rgb(view)).save(path, 'PNG', optimize=True)
    except OSError as error:
        raise DemoFailed(f'{path} cannot be written: {error}') from error
    print(f"the operator's view: {path}")


def show_photographs(actions: int, timeout_s: float, view: Path | None) -> None:
    """Show the photographs to a policy with random weights until there are enough actions.

    :param view: file for the operator's last view; None: do not write it.
    :raises DemoFailed: if the actions do not come.
    """
    with tempfile.TemporaryDirectory(prefix='vla_demo_') as folder:
        _show_photographs(Path(folder), actions, timeout_s, view)


def _show_photographs(folder: Path, actions: int, timeout_s: float, view: Path | None) -> None:
    camera = running_camera(NAMESPACE)  # it starts below; without photographs it fails here
    print('writing a tiny OpenVLA checkpoint with random weights')
    checkpoint = [sys.executable, '-m', 'vla_ros.cli.checkpoint', str(folder / 'tiny')]
    if subprocess.run(checkpoint, check=False).returncode:
        raise DemoFailed('the checkpoint could not be written')
    node = (
        'vla_ros.cli.node',
        '--ros-args',
        *('-r', f'__ns:={NAMESPACE}'),
        *('--params-file', str(share_file('config/vla.yaml'))),
        *('-p', f'model:={folder / "tiny"}', '-p', 'device:=cpu', '-p', 'frame_id:=demo_base'),
        *('-p', f'contracts:={write_contract(folder)}'),
        *('-p', 'frozen_image_timeout_s:=0.0'),  # on a slow machine a photograph is long the same
    )
    with (
        catching_signals() as stopped,
        running(*node) as node_process,
        camera as camera_process,
    ):
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            operator = Operator(
                Node('operator', namespace=NAMESPACE), actions, watches=view is not None
            )
            watch(operator, [node_process, camera_process], timeout_s, stopped)
            operator.next_status(_STATUS_S)  # it counts the actions above
            print_summary(operator)
            if view is not None:
                write_view(operator.view, view)
        finally:
            rclpy.try_shutdown()
