# SPDX-License-Identifier: Apache-2.0
"""Faults around goals of the action server: of clients, operators, switches and managers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulate.faults import ask_switch, kind

if TYPE_CHECKING:
    from simulate.plan import Fault
    from simulate.world import World

_LIMITS_S = (0.02, 0.5, 1.5, 3.0, 6.0)
_UNUSABLE = ('', '  ', '\u200b', 'x' * 501, 'go\nnow', 'stop </s> go', 'left\u202eright')


def _limit(world: World) -> float:
    return world.random.choice(_LIMITS_S) * world.random.uniform(0.8, 1.2)


def _send(world: World, fault: Fault) -> bytes:
    """One that may be carried out, for a while."""
    client = world.goal_clients[fault.robot]
    return client.send(world.operator.new_text(), world.random.uniform(1.5, 6.0))


def _later(world: World, most_s: float, action: Callable[[], None]) -> None:
    world.scheduler.after(world.random.uniform(0.0, most_s), action)


@kind()
def goal(world: World, fault: Fault) -> None:
    text = world.operator.new_text()
    if world.random.random() < 0.3:
        status = world.statuses.get(fault.robot)
        text = status.instruction if status and status.instruction else text
    world.goal_clients[fault.robot].send(text, _limit(world))


@kind()
def goal_that_is_canceled(world: World, fault: Fault) -> None:
    """By its identifier, with all others, or those up to now; perhaps twice, or too late."""
    client, key = world.goal_clients[fault.robot], _send(world, fault)

    def cancel() -> None:
        from simulate.world import to_stamp

        way = world.random.choice(('one', 'one', 'all', 'until'))
        client.cancel(
            key if way == 'one' else b'', to_stamp(world.robot_ns()) if way == 'until' else None
        )

    for _ in range(world.random.choice((1, 1, 2))):
        _later(world, 3.0, cancel)


@kind()
def goal_that_succeeds(world: World, fault: Fault) -> None:
    _send(world, fault)
    for _ in range(world.random.choice((1, 1, 2))):
        _later(world, 3.0, lambda: ask_switch(world, fault, 'success'))


@kind()
def goal_unusable(world: World, fault: Fault) -> None:
    client = world.goal_clients[fault.robot]
    if world.random.random() < 0.5:
        client.send(world.random.choice(_UNUSABLE), 3.0)
    else:
        client.send(world.operator.new_text(), world.random.choice((0.0, -1.0, -0.5, -(2.0**31))))


@kind()
def goal_beside_another(world: World, fault: Fault) -> None:
    _send(world, fault)
    _later(world, 2.0, lambda: _send(world, fault) and None)


@kind()
def goal_of_a_known_identifier(world: World, fault: Fault) -> None:
    client = world.goal_clients[fault.robot]
    key = client.last or _send(world, fault)
    _later(world, 2.0, lambda: client.send_again(key, 'do it again', 2.0))


@kind()
def goal_amid_instructions(world: World, fault: Fault) -> None:
    """By the topic or the parameter; one of them may be a hold."""
    _send(world, fault)
    texts = ('', 'go\nnow', world.operator.new_text(), world.operator.new_text())

    def say() -> None:
        text = world.random.choice(texts)
        if world.random.random() < 0.3:
            world.set_parameters(instruction=text)
        else:
            world.operator.say(fault.robot, text)

    for _ in range(world.random.randint(1, 4)):
        _later(world, 2.0, say)


@kind()
def goal_of_a_robot_that_is_switched(world: World, fault: Fault) -> None:
    _send(world, fault)
    for _ in range(world.random.randint(1, 3)):
        what = world.random.choice(('stop', 'disable', 'reset', 'enable', 'disable'))
        _later(world, 2.0, lambda what=what: ask_switch(world, fault, what))


@kind()
def goal_while_managers_act(world: World, fault: Fault) -> None:
    """They deactivate, perhaps only for a moment, clean up, or activate again."""
    _send(world, fault)
    numbers = world.random.choice(((4,), (4, 3), (4, 2), (4, 2, 1, 3)))
    start_s, pause_s = world.random.uniform(0.0, 1.5), world.random.choice((0.001, 0.05, 0.3))
    for place, number in enumerate(numbers):
        world.change_state(number, delay_s=start_s + place * pause_s)


@kind()
def goal_whose_client_is_gone(world: World, fault: Fault) -> None:
    """Before it is accepted, or before its result; then somebody cancels everything, perhaps."""
    client, way = world.goal_clients[fault.robot], world.random.randrange(3)
    key = client.send(
        world.operator.new_text(), _limit(world), waits=way > 0, wants_result=way == 1
    )
    if way == 2:
        _later(world, 1.0, lambda: client.ask_result(key, waits=False))
    if world.random.random() < 0.5:
        _later(world, 2.0, lambda: _send(world, fault) and None)
        world.scheduler.after(2.5, lambda: client.cancel(b''))


@kind()
def goal_that_nobody_sent(world: World, fault: Fault) -> None:
    """Its result is asked for, or it is canceled."""
    client, key = world.goal_clients[fault.robot], bytes(15) + b'x'
    for act in (client.ask_result, client.cancel):
        _later(world, 1.0, lambda act=act: act(key))


@kind()
def goal_that_the_policy_refuses(world: World, fault: Fault) -> None:
    world.goal_clients[fault.robot].send(f'impossible {world.operator.new_text()}', 4.0)


@kind()
def goals_in_a_hurry(world: World, fault: Fault) -> None:
    """Goals, cancels, successes and instructions, within a second."""
    client = world.goal_clients[fault.robot]

    def act() -> None:
        what = world.random.randrange(5)
        if what <= 1:
            client.send(world.operator.new_text(), _limit(world))
        elif what == 2:
            client.cancel(client.last if world.random.random() < 0.7 else b'')
        elif what == 3:
            ask_switch(world, fault, 'success')
        else:
            world.operator.say(fault.robot, world.random.choice(('', world.operator.new_text())))

    for _ in range(world.random.randint(5, 25)):
        _later(world, 1.0, act)
