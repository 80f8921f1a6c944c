# SPDX-License-Identifier: Apache-2.0
"""A robot stack for tests: a camera, a person and an ear, on a ROS graph of the test's own."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from support.forked import Forked
from support.places import ROOT
from vla_ros.client import ReceivedAction, RobotSide
from vla_ros.graph.executor import spinning
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.ros.executor import GuardedExecutor
from vla_ros.ros.node import VlaNode

PATIENCE_S = 300.0  # for what comes sooner or later: on a loaded machine a node loads for a minute
MACHINE_SLACK_S = 0.5  # how late a busy machine may be by itself
UNDER_WAY_S = 0.3  # longer than an inference here, unless it is a late one

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def image_message(picture: np.ndarray = PICTURE, **changes: Any) -> Image:
    height, width, _ = picture.shape
    message = Image(
        height=height, width=width, encoding='rgb8', step=3 * width, data=picture.tobytes()
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return message


_noise = np.random.default_rng(1)


def noise(**changes: Any) -> Image:
    """A picture like no other before, as a camera's."""
    return image_message(_noise.integers(0, 256, PICTURE.shape, dtype=np.uint8), **changes)


class Robot(Node):
    """A robot's side that keeps all it hears. It spins in a thread of its own."""

    def __init__(self, context: rclpy.Context, namespace: str, reliable: bool = True) -> None:
        super().__init__('robot', context=context, namespace=namespace)
        self.actions: list[VlaAction] = []
        self.acted_s: list[float] = []  # when each came, monotonic
        self.statuses: list[VlaStatus] = []
        self.heard_s: list[float] = []  # when each status came, monotonic
        self.stamps: set[tuple[int, int]] = set()
        self.side = RobotSide(node=self, reliable=reliable, depth=100)
        self.side.on_action, self.side.on_status = self._on_action, self._on_status
        [self.images] = self.side.images.values()
        [self.compressed_images] = self.side.compressed_images.values()
        self.instructions = self.side.instructions

    @property
    def status(self) -> VlaStatus:
        return self.side.latest

    def _on_action(self, received: ReceivedAction) -> None:
        self.acted_s.append(received.arrived_s)
        self.actions.append(received.message)

    def _on_status(self, status: VlaStatus) -> None:
        self.heard_s.append(time.monotonic())
        self.statuses.append(status)

    def see(
        self,
        message: Image | CompressedImage | None = None,
        age_s: float = 0.0,
        stamp_ns: int | None = None,
    ) -> None:
        """Publish a picture that was captured ``age_s`` ago, or has just this stamp."""
        message = message or image_message()
        if stamp_ns is None:
            stamp_ns = self.get_clock().now().nanoseconds - round(age_s * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        self.stamps.add((message.header.stamp.sec, message.header.stamp.nanosec))
        publisher = self.images if isinstance(message, Image) else self.compressed_images
        publisher.publish(message)

    def say(self, instruction: str) -> None:
        self.side.say(instruction)

    def instruct(self, instruction: str) -> None:
        """Say it, and return once the node obeys it: a picture may overtake it else."""
        self.say(instruction)
        self.wait_for(lambda: self.status.instruction == instruction)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        assert self.side.wait_until(condition, timeout_s), (
            f'not within {timeout_s} s; {len(self.actions)} actions, status: {self.status}'
        )

    def wait_for_state(
        self,
        state: str,
        why: Reason | str = '',
        message: str = '',
        timeout_s: float = PATIENCE_S,
    ) -> VlaStatus:
        """
        :param why: the reason, or a part of the message.
        :param message: a part of it, beside a reason.
        """
        self.wait_for(
            lambda: self.status.state == state and tells(self.status, why, message), timeout_s
        )
        return self.status

    @contextlib.contextmanager
    def expects_hold(self, why: Reason | str, within_s: float, message: str = '') -> Iterator[None]:
        """What is done inside makes the node say HOLDING, and why; so many seconds are promised.

        From then on it does not act: not for as long as this lasts, and not in the time in which
        what was under way could have become an action.
        """
        known = len(self.statuses)
        started_s = time.monotonic()
        yield
        told: list[int] = []

        def is_told() -> bool:
            told[:] = [
                index
                for index, status in enumerate(self.statuses[known:], known)
                if status.state == State.HOLDING and tells(status, why, message)
            ]
            return bool(told)

        self.wait_for(is_told)
        took_s = self.heard_s[told[0]] - started_s
        print(f'{why!r}: held after {took_s:.3f} s, promised {within_s:g} s')
        time.sleep(UNDER_WAY_S)
        # Between two topics there is no order; but the status counts the actions, each of which has
        # its number.
        published = self.statuses[told[0]].counters.published
        late = [action.sequence for action in self.actions if action.sequence > published]
        assert not late

    def recovers(self) -> None:
        """Pictures come again, and the node acts on one."""
        count = len(self.actions)

        def acts() -> bool:
            return self.status.state == State.RUNNING and len(self.actions) > count

        for _ in range(30):
            self.see(noise())
            if self.side.wait_until(acts, 1.0):
                return
        raise AssertionError(f'it does not act: {self.status}')

    def wait_until_heard(self) -> None:
        """Until the node listens, and its image subscription has followed our reliability.

        While it is made anew for that, a picture can be lost.
        """

        def heard() -> bool:
            topics = (self.images.topic_name, self.compressed_images.topic_name)
            listeners = [i for t in topics for i in self.get_subscriptions_info_by_topic(t)]
            reliability = self.images.qos_profile.reliability
            followed = all(i.qos_profile.reliability == reliability for i in listeners)
            counts = [p.get_subscription_count() for p in (self.images, self.compressed_images)]
            listening = bool(sum(counts) and self.instructions.get_subscription_count())
            return bool(listeners and followed and listening)

        self.wait_for(heard)

    def ask(self, kind: type, name: str, request: Any, timeout_s: float = PATIENCE_S) -> Any:
        """Call a service of the node."""
        client = self.create_client(kind, name)
        assert client.wait_for_service(timeout_s), name
        future = client.call_async(request)
        self.wait_for(future.done, timeout_s)
        self.destroy_client(client)
        return future.result()

    def transition(self, transition_id: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition_id
        return self.ask(ChangeState, 'vla/change_state', request).success

    def lifecycle_state(self) -> str:
        return self.ask(GetState, 'vla/get_state', GetState.Request()).current_state.label

    def get_parameter_of_node(self, name: str) -> ParameterValue:
        request = GetParameters.Request(names=[name])
        return self.ask(GetParameters, 'vla/get_parameters', request).values[0]

    def set_parameter_of_node(self, name: str, value: str | float) -> Any:
        """The result: ``successful`` and ``reason``."""
        typed = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[typed])
        return self.ask(SetParameters, 'vla/set_parameters', request).results[0]


def tells(status: VlaStatus, why: Reason | str, message: str = '') -> bool:
    """Whether the status has this reason, or a message with this part."""
    if isinstance(why, Reason):
        return status.reason == why and message in status.message
    return why in status.message


@contextlib.contextmanager
def spinning_node(context: rclpy.Context, node: Node) -> Iterator[None]:
    """The node in an executor and a thread of its own."""
    if isinstance(node, VlaNode):
        executor = GuardedExecutor(node.requests, context=context)
    else:
        executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    with spinning(executor, f'spin-{node.get_name()}'):
        yield


class CameraThread:
    """Shows a picture thirty times a second; :meth:`show` says which, and may show none."""

    def __init__(self, stack: Robot) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.shown = 0

    def show(self) -> bool:
        """Whether one was shown."""
        self._stack.see(noise())
        return True

    def __enter__(self) -> CameraThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(1 / 30):
            self.shown += self.show()


_namespaces = (f'/test_{number}' for number in itertools.count())


@contextlib.contextmanager
def robot(namespace: str, reliable: bool = True) -> Iterator[Robot]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Robot(context, namespace, reliable)
    with spinning_node(context, node):
        yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


NODE = 'vla_ros.cli.node'
FRESH = ('-m', NODE)  # the node as a person starts it, which imports all anew


@dataclass
class Running:
    """A robot's stack and the node that it speaks to."""

    robot: Robot
    arguments: list[str]
    program: tuple[str, ...]
    environment: Mapping[str, str]
    output: str = ''  # all of it, once the node has ended

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the node, or start it again after it has ended, as launch does."""
        if self.program:
            self.process = self._fresh()
        else:
            self.process = Forked(NODE, self.arguments, self.environment)
        self.has_ended = False

    def _fresh(self) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
        return subprocess.Popen(
            [sys.executable, *self.program, *self.arguments],
            env={**os.environ, **self.environment, 'PYTHONPATH': path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ends(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end; its exit code, negative for a signal."""
        output, _ = self.process.communicate(timeout=timeout_s)
        self.output += output
        self.has_ended = True
        returncode: int = self.process.returncode
        return returncode


@contextlib.contextmanager
def running_node(
    *parameters: str,
    arguments: tuple[str, ...] = (),
    program: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """The node in a process and a namespace of its own; ended by SIGINT.

    :param parameters: each as ``name:=value``.
    :param arguments: more after ``--ros-args``.
    :param program: what a new Python runs, such as ``FRESH``; empty: the node, forked, which takes
        a tenth of the time.
    :param environment: variables in addition to those of this process.
    """
    namespace = next(_namespaces)
    command = ['--ros-args', *arguments, '-r', f'__ns:={namespace}']
    for parameter in parameters:
        command += ['-p', parameter]
    with robot(namespace) as stack:
        running = Running(stack, command, program, environment or {})
        try:
            yield running
        finally:
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGINT)
            if not running.has_ended:
                running.ends()
            print(running.output)
