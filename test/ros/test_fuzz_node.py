# SPDX-License-Identifier: Apache-2.0
"""Everything that the node offers on the ROS graph, with random fields, types and timing.

Nothing ends the node, every request is answered and counted once, and it acts again afterwards.
The seed is printed; ``FUZZ_SEEDS=0-9`` in the environment runs others.
"""

from __future__ import annotations

import importlib
import os
import random
import re
import time
from typing import Any

import pytest
from action_msgs.srv import CancelGoal
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.client import Client
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from support.graph import CameraThread, Robot, noise, running_node
from vla_ros.action import ExecuteInstruction
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import State

REQUESTS = 200
ACTS_WITHIN_S = 5.0
INTEGERS = {'int8': (-(2**7), 2**7), 'uint8': (0, 2**8), 'byte': (0, 2**8), 'octet': (0, 2**8)}
INTEGERS |= {f'int{bits}': (-(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in (16, 32, 64)}
INTEGERS |= {f'uint{bits}': (0, 2**bits) for bits in (16, 32, 64)}
WORDS = ['', 'go', 'a', 'b', 'vla', 'instruction', 'model', 'robots', 'use_sim_time', 'stop </s>']
WORDS += ['\x1b[31m', 'ä漢😀', 'x' * 3000, '\u200b', 'activate', 'configure', 'cleanup', '../..']
WORDS += ['max_action_age_s', 'hang_timeout_s', 'image_transport', 'raw', 'nan', '-1']
_GOALS = ExecuteInstruction.Impl
_SERVICES = {
    'ExecuteInstruction_SendGoal': _GOALS.SendGoalService,
    'ExecuteInstruction_GetResult': _GOALS.GetResultService,
}
FLOATS = [0.0, -1.0, 1.0, 1e308, -1e308, float('nan'), float('inf'), 5e-324, 0.5, 3600.0]


def seeds() -> list[int]:
    first, _, last = os.environ.get('FUZZ_SEEDS', '0-1').partition('-')
    return list(range(int(first), int(last or first) + 1))


def value(kind: str, draw: random.Random, depth: int = 0) -> Any:
    """Of a field of this type, as ``get_fields_and_field_types`` names it."""
    if match := re.fullmatch(r'sequence<(.*?)(?:, (\d+))?>', kind):
        most = min(int(match[2] or 4), 4) if depth else 6
        return [value(match[1], draw, depth + 1) for _ in range(draw.randrange(most + 1))]
    if match := re.fullmatch(r'(.*)\[(\d+)\]', kind):
        return [value(match[1], draw, depth + 1) for _ in range(int(match[2]))]
    if kind.startswith('string'):
        return draw.choice(WORDS)
    if kind == 'boolean':
        return draw.random() < 0.5
    if kind in ('float', 'double'):
        return draw.choice(FLOATS[:3] if kind == 'float' else FLOATS)
    if kind in INTEGERS:
        low, end = INTEGERS[kind]
        near = [low, end - 1, *range(-2, 12), draw.randrange(low, end)]
        number = draw.choice([one for one in near if low <= one < end])
        return bytes([number]) if kind in ('byte', 'octet') else number
    package, name = kind.split('/')
    if name.endswith('_Goal'):
        return filled(ExecuteInstruction.Goal(), draw, depth + 1)
    return filled(getattr(importlib.import_module(f'{package}.msg'), name)(), draw, depth + 1)


def filled(message: Any, draw: random.Random, depth: int = 0) -> Any:
    for name, kind in message.get_fields_and_field_types().items():
        setattr(message, name, value(kind, draw, depth))
    return message


def random_request(kind: type, draw: random.Random) -> Any:
    """One that does not end the node for good: that is what a shutdown is for."""
    request = filled(kind.Request(), draw)
    if kind is ChangeState:
        choices = [*range(5), 8, 60, 99, 255]
        request.transition.id = draw.choice(choices)
        request.transition.label = draw.choice(['', '', 'activate', 'deactivate', 'no such'])
    if kind in (SetParameters, SetParametersAtomically) and draw.random() < 0.7:
        for one in request.parameters:
            one.name = draw.choice([*Parameters.__dataclass_fields__, 'use_sim_time'])
            one.value.type = draw.choice([1, 2, 3, 4, 4, 9, 77])
    if kind in (*_SERVICES.values(), CancelGoal) and draw.random() < 0.8:
        goal_id = request.goal_info.goal_id if kind is CancelGoal else request.goal_id
        goal_id.uuid = [draw.randrange(12)] * 16  # one that may be known, or all of them
    if kind is _GOALS.SendGoalService and draw.random() < 0.5:
        request.goal.instruction, request.goal.time_limit.sec = 'go', draw.choice([1, 2**31 - 1])
    return request


class Storm:
    def __init__(self, stack: Robot, seed: int) -> None:
        self.draw = random.Random(seed)
        self.sent = self.accepted_goals = 0
        self._stack = stack
        self._clocks = stack.create_publisher(Clock, '/clock', 10)
        self._images = stack.create_publisher(Image, 'image', 10)
        self._clients = self._make_clients()

    def _make_clients(self) -> dict[type, list[Client]]:
        namespace = self._stack.get_namespace()
        offered: list[tuple[str, list[str]]] = []

        def found() -> bool:
            offered[:] = self._stack.get_service_names_and_types_by_node('vla', namespace)
            return len(offered) > 10

        self._stack.wait_for(found)
        clients: dict[type, list[Client]] = {}
        for name, [kind] in sorted(offered):
            package, _, typename = kind.split('/')
            service = _SERVICES.get(typename)
            if service is None:
                service = getattr(importlib.import_module(f'{package}.srv'), typename)
            clients.setdefault(service, []).append(self._stack.create_client(service, name))
        for one in [client for same in clients.values() for client in same]:
            assert one.wait_for_service(10.0)
        return clients

    def blows(self, requests: int) -> None:
        """Until all that was asked has been answered."""
        futures: list[Any] = []
        results: list[Any] = []  # which come when their goals end
        goals: list[tuple[bytes, Any]] = []
        for _ in range(requests):
            kind = self.draw.choice(list(self._clients))
            client = self.draw.choice(self._clients[kind])
            request = random_request(kind, self.draw)
            future = client.call_async(request)
            (results if kind is _GOALS.GetResultService else futures).append(future)
            if kind is _GOALS.SendGoalService:
                goals.append((bytes(request.goal_id.uuid), future))
            self.sent += kind not in (*_SERVICES.values(), CancelGoal)
            self._say_something()
            if self.draw.random() < 0.5:  # otherwise several at once, but not more than fit
                self._stack.wait_for(lambda: all(one.done() for one in futures[-8:]))
            time.sleep(self.draw.choice([0.0, 0.0, 0.005, 0.05]))
        self._stack.wait_for(lambda: all(future.done() for future in futures))
        [canceling] = self._clients[CancelGoal]
        self._stack.wait_for(canceling.call_async(CancelGoal.Request()).done)
        self._stack.wait_for(lambda: all(result.done() for result in results))
        self.sent += self._counted_goals(goals)

    def _counted_goals(self, goals: list[tuple[bytes, Any]]) -> int:
        """Of these, the number of those whose identifier no accepted goal had before."""
        accepted: set[bytes] = set()
        count = 0
        for key, answer in goals:
            count += key not in accepted
            accepted |= {key} if answer.result().accepted else set()
        self.accepted_goals += len(accepted)
        return count

    def _say_something(self) -> None:
        for _ in range(self.draw.randrange(3)):
            what = self.draw.randrange(4)
            if what == 0:
                self._clocks.publish(filled(Clock(), self.draw))
            elif what == 1:
                self._images.publish(filled(Image(), self.draw))
            elif what == 2:
                self._stack.instructions.publish(filled(String(), self.draw))
            else:
                self._stack.see(noise())

    def ask(self, kind: type, name: str, request: Any) -> Any:
        self.sent += 1
        return self._stack.ask(kind, f'vla/{name}', request, timeout_s=30.0)

    def heals(self) -> None:
        """What an operator does who wants the node as it was."""

        def transition(number: int) -> None:
            request = ChangeState.Request()
            request.transition.id = number
            self.ask(ChangeState, 'change_state', request)

        self.set_parameters({'use_sim_time': False})
        for number in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            transition(number)
        fixed = ('robots', 'autostart', 'enabled', 'latch_file', 'max_command_age_s')
        defaults = {
            name: field.default
            for name, field in Parameters.__dataclass_fields__.items()
            if name not in fixed
        }
        self.set_parameters({**defaults, 'model': 'scripted'})
        transition(Transition.TRANSITION_CONFIGURE)
        self._stack.wait_for_state(State.READY)
        transition(Transition.TRANSITION_ACTIVATE)
        self._stack.wait_until_heard()
        assert self.ask(Trigger, 'reset', Trigger.Request()).success
        assert self.ask(SetBool, 'enable', SetBool.Request(data=True)).success

    def set_parameters(self, values: dict[str, Any]) -> None:
        from rclpy.parameter import Parameter

        parameters = [Parameter(name, value=v).to_parameter_msg() for name, v in values.items()]
        self.ask(SetParameters, 'set_parameters', SetParameters.Request(parameters=parameters))

    @property
    def counted(self) -> int:
        return (
            self._stack.status.counters.requests_accepted
            + self._stack.status.counters.requests_refused
        )


@pytest.mark.parametrize('seed', seeds())
def test_nothing_that_is_asked_or_said_ends_the_node(seed: int) -> None:
    with running_node('model:=scripted') as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        storm = Storm(stack, seed)
        storm.blows(REQUESTS)
        assert running.process.poll() is None
        storm.heals()
        count = len(stack.actions)
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: len(stack.actions) > count, timeout_s=ACTS_WITHIN_S)
        stack.wait_for(lambda: storm.counted == storm.sent)
        counters = stack.status.counters
        print(
            f'seed {seed}: {storm.sent} requests, {counters.requests_refused} refused, '
            f'{counters.messages_refused} messages refused, {storm.accepted_goals} goals accepted'
        )
        assert stack.status.counters.requests_refused > REQUESTS / 20
    assert running.process.returncode == 0
