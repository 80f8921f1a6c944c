# SPDX-License-Identifier: Apache-2.0
"""One robot of a node on the graph, for the page's server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from vla_ros.client import ReceivedAction, VlaClient
from vla_ros.clock import Clock, SystemClock
from vla_ros.msg import VlaStatus
from vla_ros.operating import examination
from vla_ros.operating.images import ViewSubscriptions
from vla_ros.operating.reports import action_of, report_of
from vla_ros.text import printable
from vla_ros.web.console import Console
from vla_ros.web.messages import Finding, RobotName
from vla_ros.web.robot import JpegImage, Reply

_LIMIT, _FOLDER = 'max_instruction_age_s', 'recording_folder'
_DEFAULT_FOLDER = '~/.ros/vla_ros/recordings'
_LIMIT_PERIOD_S = 2.0
_REQUESTS: dict[str, Callable[[], Any]] = {  # by command
    'stop': Trigger.Request,
    'reset': Trigger.Request,
    'enable': lambda: SetBool.Request(data=True),
    'disable': lambda: SetBool.Request(data=False),
    'success': Trigger.Request,
}


class Place(NamedTuple):
    """Where a robot is on the graph.

    :param namespace: of its node, beginning with a slash.
    :param node: name of its node.
    :param robot: its name in the parameter ``robots``; empty if there is only one.
    """

    namespace: str
    node: str
    robot: str

    @property
    def title(self) -> str:
        """The prefix of its topics, as people write it."""
        return f'{self.namespace.rstrip("/")}/{self.robot}'

    @property
    def key(self) -> str:
        """Its key in messages and paths: no ROS name has a dot or a hyphen."""
        return self.title.strip('/').replace('/', '.') or '-'

    @property
    def node_name(self) -> str:
        """The full name of its node."""
        return f'{self.namespace.rstrip("/")}/{self.node}'


class GraphRobot:
    """A robot's topics and services.

    ``say``, ``switch``, ``set`` and ``watch`` are called by the thread of the server's loop,
    the rest by the thread that spins the node.
    """

    def __init__(
        self,
        node: Node,
        place: Place,
        loop: asyncio.AbstractEventLoop,
        in_ros: Callable[[Callable[[], None]], None],
        clock: Clock = SystemClock(),
    ) -> None:
        """Listen to the robot; :meth:`join` tells the server of it.

        :param in_ros: calls a function in the thread that spins the node.
        """
        self.place, self._loop, self._in_ros = place, loop, in_ros
        self.views: tuple[str, ...] = ('model', 'operator')
        self.compressed: frozenset[str] = frozenset()  # topics of cameras
        self._client = VlaClient(place.namespace, place.robot, node=node, clock=clock, depth=10)
        self._client.on_status, self._client.on_action = self._hear, self._act
        self._instructions = self._client.instructions  # now, so that the node finds it in time
        self._node = node
        self._asked: Any = None  # the future of the last question for the limit
        self.follow(place)
        topics = {
            'model': self._client.topic('model_image'),
            'operator': self._client.topic('debug_image'),
        }
        self._views = ViewSubscriptions(node, topics, self._show, clock)
        self._console: Console | None = None
        self._timer = node.create_timer(_LIMIT_PERIOD_S, self._ask_limit)

    def follow(self, place: Place) -> None:
        """Talk to the node that has the robot now; its name may differ from that of the one before.

        The clients of that one stay: a stop may be using them, in the other thread.
        """
        node, self.place, self._asked = self._node, place, None
        prefix = f'{place.node_name}/{place.robot}/' if place.robot else f'{place.node_name}/'
        services: dict[str, Client] = {
            name: node.create_client(kind, f'{prefix}{name}')
            for name, kind in (
                *(('stop', Trigger), ('reset', Trigger), ('success', Trigger)),
                ('enable', SetBool),
            )
        }
        self._services = {**services, 'disable': services['enable']}
        self._get = node.create_client(GetParameters, f'{place.node_name}/get_parameters')
        self._set = node.create_client(SetParameters, f'{place.node_name}/set_parameters')

    def join(self, console: Console) -> None:
        """Add the robot to the server's. Called by the thread of the server's loop."""
        console.add(RobotName(self.place.key, self.place.title, self.views), self)
        self._console = console
        self._in_ros(self._catch_up)

    # -- Commands ----------------------------------------------------------------------------------

    def say(self, instruction: str) -> None:
        self._client.say(instruction)

    def switch(self, command: str) -> asyncio.Future[Reply]:
        return self._call(self._services[command], _REQUESTS[command](), lambda answer: answer)

    def set(self, name: str, value: float | bool) -> asyncio.Future[Reply]:
        typed = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[typed])
        return self._call(self._set, request, lambda response: response.results[0])

    def watch(self, views: frozenset[str]) -> None:
        self._in_ros(lambda: self._views.watch(views, self.compressed))

    async def examine(self) -> tuple[Finding, ...]:
        return await examination.examine(self._get, self.place)

    def _call(
        self, service: Client, request: Any, result: Callable[[Any], Any]
    ) -> asyncio.Future[Reply]:
        """Send a request now, and return the future of its reply."""
        replied: asyncio.Future[Reply] = self._loop.create_future()
        if not service.service_is_ready():
            replied.set_result(
                Reply(False, False, f'no node answers {service.srv_name}: NOT confirmed')
            )
            return replied

        def finish(reply: Reply) -> None:
            if not replied.done():
                replied.set_result(reply)

        def on_response(future: Any) -> None:
            told = result(future.result())
            ok = bool(getattr(told, 'success', False) or getattr(told, 'successful', False))
            text = printable(getattr(told, 'message', '') or getattr(told, 'reason', ''))
            self._loop.call_soon_threadsafe(finish, Reply(ok, True, text or 'done'))

        service.call_async(request).add_done_callback(on_response)
        return replied

    # -- what is heard -----------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Tell what was heard before the robot joined."""
        if self._client.status is not None:
            self._hear(self._client.status)
        self._ask_limit()

    def _hear(self, status: VlaStatus) -> None:
        if self._console is not None:
            report = report_of(status)
            self._tell(lambda desk: desk.hear(report))

    def _act(self, received: ReceivedAction) -> None:
        if self._console is not None:
            action = action_of(self.place.key, received)
            self._tell(lambda desk: desk.act(action))

    def _show(self, view: str, image: JpegImage) -> None:
        self._tell(lambda desk: desk.show(view, image))

    def _ask_limit(self) -> None:
        """Ask for the age limit of instructions: it may be set at any time, by anyone.

        And for the folder of recordings, which another configuration may change.
        """
        if not self._get.service_is_ready():
            self._tell(lambda desk: desk.limit(None))
            return
        if self._asked is not None and not self._asked.done():
            self._get.remove_pending_request(self._asked)
        future = self._asked = self._get.call_async(GetParameters.Request(names=[_LIMIT, _FOLDER]))

        def on_response(answered: Any) -> None:
            values = answered.result().values
            is_known = len(values) == 2 and values[0].type == ParameterType.PARAMETER_DOUBLE
            limit_s = values[0].double_value if is_known else None
            self._tell(lambda desk: desk.limit(limit_s))
            folder = printable(values[1].string_value) if is_known else ''
            self._tell(lambda desk: desk.place(folder or _DEFAULT_FOLDER))

        future.add_done_callback(on_response)

    def _tell(self, act: Callable[[Any], None]) -> None:
        console = self._console
        if console is not None and not self._loop.is_closed():
            desk = console.desks[self.place.key]
            self._loop.call_soon_threadsafe(act, desk)
