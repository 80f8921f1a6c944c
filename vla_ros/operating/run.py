# SPDX-License-Identifier: Apache-2.0
"""``vla_console`` from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vla_ros.console import EndRequest, say
from vla_ros.errors import VlaError
from vla_ros.graph.arguments import usable_arguments
from vla_ros.operating.discovery import find_cameras, find_places
from vla_ros.operating.images import CAMERA
from vla_ros.operating.robot import GraphRobot, Place
from vla_ros.web.access import Access
from vla_ros.web.console import MAX_ROBOTS, Console
from vla_ros.web.messages import RobotName
from vla_ros.web.server import Address, serving

_LOOK_S = 1.0
_TICK_S = 0.2


class GraphError(VlaError):
    """A console whose ROS side ended."""


class Graph:
    """The ROS node of the console, and the thread that spins it."""

    def __init__(
        self, console: Console, ros_arguments: Sequence[str], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._console, self._loop = console, loop
        self._context = rclpy.Context()
        with usable_arguments():
            rclpy.init(
                args=[*ros_arguments],
                context=self._context,
                signal_handler_options=SignalHandlerOptions.NO,
            )
            self._node = Node('vla_console', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._node.create_timer(_LOOK_S, self._look)
        self._robots: dict[str, GraphRobot] = {}
        self._is_ending = False
        self._thread = threading.Thread(target=self._spin, name='vla-console-ros', daemon=True)

    @contextlib.contextmanager
    def spinning(self) -> Iterator[None]:
        """Spin until the block ends."""
        self.call(self._look)
        self._thread.start()
        try:
            yield
        finally:
            self._is_ending = True
            self.call(lambda: None)
            self._thread.join(5.0)
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)

    def check(self) -> None:
        """Raise GraphError if nothing is heard of the graph any more."""
        if not self._thread.is_alive():
            raise GraphError('the ROS side of the console failed', 'its traceback is above')

    def call(self, act: Callable[[], None]) -> None:
        """Call a function in the thread that spins."""
        self._executor.create_task(act)

    def _spin(self) -> None:
        try:
            while not self._is_ending and self._context.ok():
                self._executor.spin_once()
        except Exception:
            traceback.print_exc()  # the main thread ends the process

    def _look(self) -> None:
        """Find robots and cameras that came since the last look; none is forgotten."""
        places: dict[str, list[Place]] = {}
        for place in find_places(self._node):
            places.setdefault(place.key, []).append(place)
        for key, found in places.items():
            known = self._robots.get(key)
            if known is None and len(self._robots) < MAX_ROBOTS:
                self._add(found[0])
            elif known is not None and known.place not in found:
                known.follow(found[0])
                say(f'robot {found[0].title} is now of the node {found[0].node_name}')
        for robot in self._robots.values():
            if self._find_cameras(robot):
                name = RobotName(robot.place.key, robot.place.title, robot.views)
                self._loop.call_soon_threadsafe(self._console.rename, name)

    def _add(self, place: Place) -> None:
        robot = GraphRobot(self._node, place, self._loop, self.call)
        self._robots[place.key] = robot
        self._find_cameras(robot)
        self._loop.call_soon_threadsafe(robot.join, self._console)
        say(f'robot {place.title} of the node {place.node_name}')

    def _find_cameras(self, robot: GraphRobot) -> bool:
        """Return whether the node of the robot hears other cameras than before."""
        topics, found = find_cameras(self._node, robot.place)
        views = ('model', 'operator', *(f'{CAMERA}{topic}' for topic in topics))
        if not found or views == robot.views:
            return False
        robot.views = views
        robot.compressed = frozenset(topic for topic, compressed in topics.items() if compressed)
        return True


@contextlib.asynccontextmanager
async def operating(
    access: Access, address: Address, ros_arguments: Sequence[str]
) -> AsyncIterator[tuple[str, Graph]]:
    """Serve the page of the robots on the graph until the block ends; provide its URL.

    The server ends first, so that the leases of its pages end on the graph.

    :param ros_arguments: from ``--ros-args`` on.
    :raises VlaError: if the page can't be served.
    """
    console = Console(access)
    graph = Graph(console, ros_arguments, asyncio.get_running_loop())
    with graph.spinning():
        async with serving(console, address) as url:
            yield url, graph


async def run(
    access: Access, address: Address, ros_arguments: Sequence[str], ended: EndRequest
) -> None:
    """Serve the page until a signal comes.

    :param ros_arguments: from ``--ros-args`` on.
    :raises VlaError: if the page can't be served, or the ROS side fails.
    """
    async with operating(access, address, ros_arguments) as (url, graph):
        say(f'open {url}')
        while not ended.is_set():
            graph.check()
            await asyncio.sleep(_TICK_S)
