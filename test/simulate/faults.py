# SPDX-License-Identifier: Apache-2.0
"""All kinds of faults, each a function that begins it and may have it end later.

Importing this imports no ROS: what a fault needs of it is imported when it begins.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from simulate.plan import Fault, Shape
    from simulate.world import Camera, Joints, World

_POLICY_FAULT_S = 0.6
NS = 10**9

Begin = Callable[['World', 'Fault'], None]


@dataclass(frozen=True)
class Kind:
    """
    :param clock: what the node has to go by: simulated, system, or either.
    :param cameras: that a robot needs to have, at least.
    :param state: whether a robot needs to have a state.
    :param parameters: that the node needs to have for it.
    """

    begin: Begin
    clock: str = 'either'
    cameras: int = 1
    state: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)

    def is_possible(self, simulated: bool, shape: Shape) -> bool:
        has_parts = len(shape.cameras) >= self.cameras and shape.state_dim >= self.state
        return has_parts and self.clock in ('either', 'simulated' if simulated else 'system')


KINDS: dict[str, Kind] = {}


def kind(
    clock: str = 'either', cameras: int = 1, state: bool = False, **parameters: Any
) -> Callable[[Begin], Begin]:
    def add(begin: Begin) -> Begin:
        KINDS[begin.__name__.strip('_')] = Kind(begin, clock, cameras, state, parameters)
        return begin

    return add


def for_a_while(world: World, fault: Fault, undo: Callable[[], None]) -> None:
    """Undo it after the fault's length, once."""
    done: list[bool] = []

    def once() -> None:
        if not done:
            done.append(True)
            undo()

    world.scheduler.after(fault.length_s, once)
    world.until_healed(once)


# -- cameras ---------------------------------------------------------------------------------------


def _any_camera(world: World, fault: Fault) -> Camera:
    return world.random.choice(world.cameras[fault.robot])


def _turn(world: World, fault: Fault, cameras: list[Camera] | None = None, **knobs: Any) -> None:
    """Turn the knobs of some of a robot's cameras for a while.

    :param cameras: None: all of the robot's, or any one of them.
    """
    if cameras is None:
        all_cameras = world.cameras[fault.robot]
        cameras = world.random.choice((all_cameras, [_any_camera(world, fault)]))
    for camera in cameras:
        for name, value in knobs.items():
            setattr(camera, name, value)
        for_a_while(world, fault, camera.heal)


@kind()
def camera_silent(world: World, fault: Fault) -> None:
    _turn(world, fault, is_silent=True)


@kind()
def camera_late(world: World, fault: Fault) -> None:
    _turn(world, fault, delay_s=world.random.choice((0.1, 0.4, 1.0)))


@kind()
def camera_frozen(world: World, fault: Fault) -> None:
    _turn(world, fault, repeats=1)


@kind(frozen_image_timeout_s=0.7)
def camera_cyclic(world: World, fault: Fault) -> None:
    _turn(world, fault, repeats=world.random.randint(2, 6))


@kind()
def camera_burst(world: World, fault: Fault) -> None:
    camera = _any_camera(world, fault)
    for number in range(world.random.randint(5, 30)):
        world.scheduler.after(0.001 * number, camera.capture)


@kind()
def camera_unplugged(world: World, fault: Fault) -> None:
    camera = _any_camera(world, fault)
    camera.unplug()
    for_a_while(world, fault, camera.heal)


@kind(image_reliability='auto')
def camera_other_quality(world: World, fault: Fault) -> None:
    _any_camera(world, fault).plug_in(world.random.random() < 0.5)


@kind()
def second_camera(world: World, fault: Fault) -> None:
    """On the same topic, with stamps of its own that cross the first one's."""
    camera = _any_camera(world, fault)
    lag_ns = round(world.random.uniform(0.01, 0.2) * 1e9)
    flips = iter(range(10**9))
    camera.restamp = lambda stamp_ns: stamp_ns - lag_ns * (next(flips) % 2)
    for_a_while(world, fault, camera.heal)


@kind()
def stamps_zero(world: World, fault: Fault) -> None:
    _turn(world, fault, restamp=lambda stamp_ns: 0)


@kind()
def stamps_repeated(world: World, fault: Fault) -> None:
    now_ns = world.robot_ns()
    _turn(world, fault, restamp=lambda stamp_ns: now_ns)


@kind()
def stamps_backwards(world: World, fault: Fault) -> None:
    """A recording starts over."""
    back_ns = round(world.random.choice((0.01, 0.1, 0.3, 2.0)) * 1e9)
    _turn(world, fault, restamp=lambda stamp_ns: stamp_ns - back_ns)


@kind()
def stamps_ahead(world: World, fault: Fault) -> None:
    ahead_ns = round(world.random.choice((0.05, 0.12, 0.2, 100.0)) * 1e9)
    _turn(world, fault, restamp=lambda stamp_ns: stamp_ns + ahead_ns)


@kind()
def stamps_old(world: World, fault: Fault) -> None:
    age_ns = round(world.random.choice((0.2, 0.6, 5.0)) * 1e9)
    _turn(world, fault, restamp=lambda stamp_ns: stamp_ns - age_ns)


@kind()
def images_unusable(world: World, fault: Fault) -> None:
    def encoding(message: Any) -> None:
        if hasattr(message, 'encoding'):
            message.encoding = 'infrared9'
        else:
            message.data = message.data[:20]

    def cut(message: Any) -> None:
        message.data = message.data[:40]

    def empty(message: Any) -> None:
        if hasattr(message, 'width'):
            message.width = 0
        message.data = message.data[:0]

    _turn(world, fault, spoil=world.random.choice((encoding, cut, empty)))


# -- parts of an observation -----------------------------------------------------------------------


def _long(fault: Fault) -> Fault:
    """For longer than any time-out."""
    return replace(fault, length_s=max(2.5, fault.length_s))


@kind(cameras=2)
def one_camera_silent(world: World, fault: Fault) -> None:
    _turn(world, _long(fault), [_any_camera(world, fault)], is_silent=True)


@kind(cameras=2, frozen_image_timeout_s=0.7)
def one_camera_frozen(world: World, fault: Fault) -> None:
    _turn(world, _long(fault), [_any_camera(world, fault)], repeats=1)


@kind(cameras=2)
def one_camera_unstamped(world: World, fault: Fault) -> None:
    _turn(world, fault, [_any_camera(world, fault)], restamp=lambda stamp_ns: 0)


@kind(cameras=2)
def one_camera_damaged(world: World, fault: Fault) -> None:
    def cut(message: Any) -> None:
        message.data = message.data[:40]

    _turn(world, fault, [_any_camera(world, fault)], spoil=cut)


def _beyond_tolerance_ns(world: World) -> int:
    tolerance_s = world.plan.parameters['sync_tolerance_s']
    return round((tolerance_s * world.random.uniform(1.0, 1.5) + 0.02) * 1e9)


@kind(cameras=2, max_image_age_s=0.5)
def cameras_apart(world: World, fault: Fault) -> None:
    """The clock of one of them is behind, but its images are fresh."""
    lag_ns = _beyond_tolerance_ns(world)
    camera = _any_camera(world, fault)
    _turn(world, _long(fault), [camera], restamp=lambda stamp_ns: stamp_ns - lag_ns)


@kind(cameras=2)
def cameras_nearly_apart(world: World, fault: Fault) -> None:
    """Some of their images fit together, others do not."""
    lag_ns = round(world.plan.parameters['sync_tolerance_s'] * world.random.uniform(0.8, 1.1) * 1e9)
    camera = _any_camera(world, fault)
    _turn(world, fault, [camera], restamp=lambda stamp_ns: stamp_ns - lag_ns)


@kind(cameras=2)
def one_camera_slow_on_its_way(world: World, fault: Fault) -> None:
    """Its images come after the other's next ones."""
    delay_s = world.random.uniform(0.05, 0.2)
    _turn(world, _long(fault), [_any_camera(world, fault)], delay_s=delay_s)


def _joints(world: World, fault: Fault, **knobs: Any) -> Joints:
    """Turn the knobs of a robot's joints for a while."""
    joints = world.joints[fault.robot]
    for name, value in knobs.items():
        setattr(joints, name, value)
    for_a_while(world, fault, joints.heal)
    return joints


@kind(state=True)
def state_silent(world: World, fault: Fault) -> None:
    _joints(world, _long(fault), is_silent=True)


@kind(state=True)
def state_missing(world: World, fault: Fault) -> None:
    """It is silent, and the node is activated anew: it has never heard one."""
    _joints(world, _long(fault), is_silent=True)
    for delay_s, number in ((0.0, 4), (0.05, 3)):
        world.change_state(number, delay_s=delay_s)


@kind(state=True)
def state_late(world: World, fault: Fault) -> None:
    _joints(world, fault, delay_s=world.random.choice((0.05, 0.1, 0.4, 1.0)))


@kind(state=True)
def state_old(world: World, fault: Fault) -> None:
    lag_ns = 2 * _beyond_tolerance_ns(world)
    _joints(world, _long(fault), restamp=lambda stamp_ns: stamp_ns - lag_ns)


@kind(state=True)
def state_ahead(world: World, fault: Fault) -> None:
    lead_ns = 2 * _beyond_tolerance_ns(world) + 1_000_000_000
    _joints(world, _long(fault), restamp=lambda stamp_ns: stamp_ns + lead_ns)


@kind(state=True)
def state_of_another_length(world: World, fault: Fault) -> None:
    some = world.random.choice((slice(0), slice(3)))
    _joints(world, fault, spoil=lambda values: values[some])


@kind(state=True)
def state_not_finite(world: World, fault: Fault) -> None:
    value = world.random.choice((float('nan'), float('inf'), float('-inf')))
    _joints(world, fault, spoil=lambda values: [*values[:-1], value])


# -- instructions ----------------------------------------------------------------------------------


@kind()
def instruction_new(world: World, fault: Fault) -> None:
    world.operator.say(fault.robot, world.operator.new_text())


@kind()
def instruction_again(world: World, fault: Fault) -> None:
    status = world.statuses.get(fault.robot)
    world.operator.say(fault.robot, status.instruction if status else '')


@kind()
def instruction_empty(world: World, fault: Fault) -> None:
    world.operator.say(fault.robot, world.random.choice(('', '   ', '\u200b', '\u2800 ')))


@kind()
def instruction_unusable(world: World, fault: Fault) -> None:
    texts = ('x' * 501, 'go\nnow', 'stop </s> go', 'left\u202eright', 'go\u200bon', 'a\ue000b')
    world.operator.say(fault.robot, world.random.choice(texts))


@kind()
def instruction_refused(world: World, fault: Fault) -> None:
    """By the policy itself."""
    world.operator.say(fault.robot, f'impossible {world.operator.new_text()}')


@kind()
def instruction_flood(world: World, fault: Fault) -> None:
    operator = world.operator
    for number in range(world.random.choice((10, 150))):
        text = operator.new_text() if world.random.random() < 0.9 else ''
        world.scheduler.after(0.0005 * number, lambda text=text: operator.say(fault.robot, text))


@kind()
def two_operators(world: World, fault: Fault) -> None:
    """They contradict each other, several times a second."""
    ends_ns = world.scheduler.now_ns + round(fault.length_s * 1e9)

    def say(number: int) -> None:
        if world.scheduler.now_ns < ends_ns:
            world.operator.say(fault.robot, f'no, do {number % 2}')
            world.scheduler.after(world.random.uniform(0.05, 0.4), lambda: say(number + 1))

    say(0)


@kind()
def instruction_late(world: World, fault: Fault) -> None:
    """The link was lost; what was said comes long after."""
    delay_s = world.random.choice((0.5, 1.5, 3.0, 5.0))
    world.operator.say(fault.robot, world.operator.new_text(), delay_s)


@kind()
def operator_with_other_clock(world: World, fault: Fault) -> None:
    """It repeats what it says, as people do."""
    offset_s = world.random.choice((-3600.0, -5.0, -0.5, 0.5, 4.0, 3600.0))
    text = world.operator.new_text()
    for number in range(3):
        world.scheduler.after(
            1.3 * number,
            lambda: world.operator.say(fault.robot, text, clock_offset_s=offset_s),
        )


@kind()
def operator_away(world: World, fault: Fault) -> None:
    world.operator.is_away = True

    def come_back() -> None:
        world.operator.is_away = False

    for_a_while(world, fault, come_back)


# -- switches --------------------------------------------------------------------------------------


def ask_switch(world: World, fault: Fault, what: str, **options: Any) -> None:
    """One robot's service, or that of all."""
    from std_srvs.srv import SetBool, Trigger

    of_all = world.random.random() < 0.3
    prefix = '' if of_all else world.prefix(fault.robot)
    kinds = {'enable': SetBool.Request(data=True), 'disable': SetBool.Request(data=False)}
    request = kinds.get(what, Trigger.Request())
    name = 'enable' if what in kinds else what
    world.ask(f'/vla/{prefix}{name}', request, **options)


@kind()
def stop(world: World, fault: Fault) -> None:
    ask_switch(world, fault, 'stop')


@kind()
def disable(world: World, fault: Fault) -> None:
    ask_switch(world, fault, 'disable')


@kind()
def enable(world: World, fault: Fault) -> None:
    ask_switch(world, fault, 'enable')


@kind()
def reset(world: World, fault: Fault) -> None:
    ask_switch(world, fault, 'reset')


@kind()
def enable_late(world: World, fault: Fault) -> None:
    """Asked long before it arrives; the robot was disabled meanwhile."""
    ask_switch(world, fault, 'enable', delay_s=world.random.uniform(0.5, 4.0))
    ask_switch(world, fault, world.random.choice(('disable', 'stop')))


@kind(autostart=False)
def activate_late(world: World, fault: Fault) -> None:
    """Asked long before it arrives; the node was deactivated meanwhile."""
    world.change_state(3, delay_s=world.random.uniform(1.5, 4.0))
    world.change_state(4)
    world.operator.is_away = True

    def come_back() -> None:
        world.operator.is_away = False

    for_a_while(world, replace(fault, length_s=4.0), come_back)


@kind()
def switched_again_and_again(world: World, fault: Fault) -> None:
    for _ in range(world.random.randint(5, 20)):
        what = world.random.choice(('stop', 'reset', 'enable', 'disable', 'enable'))
        world.scheduler.after(
            world.random.uniform(0, 0.3), lambda what=what: ask_switch(world, fault, what)
        )


@kind()
def client_gone(world: World, fault: Fault) -> None:
    """It does not wait for the answer."""
    ask_switch(world, fault, world.random.choice(('reset', 'enable')), waits=False)


# -- lifecycle -------------------------------------------------------------------------------------


def _transition(number: int) -> Begin:
    def begin(world: World, fault: Fault) -> None:
        world.change_state(number)

    return begin


for _number, _name in enumerate(('configure', 'cleanup', 'activate', 'deactivate'), 1):
    KINDS[_name] = Kind(_transition(_number))


@kind()
def shutdown(world: World, fault: Fault) -> None:
    world.change_state(world.random.choice((5, 6, 7)))


@kind()
def transition_impossible(world: World, fault: Fault) -> None:
    number, label = world.random.choice(
        ((0, ''), (8, ''), (10, ''), (42, ''), (200, ''), (1, 'nonsense'), (3, 'configure'))
    )
    world.change_state(number, label)


@kind()
def manager_in_a_hurry(world: World, fault: Fault) -> None:
    """It does not wait for the policy, nor for other managers."""
    for _ in range(world.random.randint(3, 12)):
        number = world.random.choice((1, 2, 3, 4, 3, 4))
        world.scheduler.after(
            world.random.uniform(0, 0.5), lambda number=number: world.change_state(number)
        )


@kind()
def start_over(world: World, fault: Fault) -> None:
    """Deactivate, clean up, configure, activate."""
    for delay_s, number in ((0.0, 4), (0.02, 2), (0.04, 1), (1.0, 3)):
        world.scheduler.after(delay_s, lambda number=number: world.change_state(number))


# -- parameters ------------------------------------------------------------------------------------


@kind()
def parameter_instruction(world: World, fault: Fault) -> None:
    world.set_parameters(instruction=world.random.choice(('', world.operator.new_text(), 'a\x1bb')))


@kind()
def parameter_wrong(world: World, fault: Fault) -> None:
    """Unknown, of another type, out of bounds, fixed, or no value at all."""
    name, value = world.random.choice(
        (
            ('nonsense', 1.0),
            ('', 'x'),
            ('image_timeout_s', 'soon'),
            ('image_timeout_s', 2),
            ('image_timeout_s', -1.0),
            ('image_timeout_s', float('nan')),
            ('robots', ['x', 'y']),
            ('autostart', False),
            ('quantization', 'int3'),
            ('model', None),
            ('instruction', 7),
            ('use_sim_time', 'yes'),
        )
    )
    world.set_parameters(**{name: value})


@kind()
def parameters_of_a_new_configuration(world: World, fault: Fault) -> None:
    """Set while the node is unconfigured, if the moment is right; else refused."""
    world.change_state(4)
    world.change_state(2, delay_s=0.03)
    world.scheduler.after(
        0.06, lambda: world.set_parameters(image_timeout_s=round(world.random.uniform(0.5, 1.5), 2))
    )
    world.change_state(1, delay_s=0.1)


@kind()
def speed_limits_changed(world: World, fault: Fault) -> None:
    """While the robot moves, perhaps: lower, higher, and back."""
    for _ in range(world.random.randint(1, 4)):
        name, most = world.random.choice(
            (('max_linear_speed_m_s', 1.0), ('max_angular_speed_rad_s', 3.0))
        )
        value = round(most * world.random.uniform(0.001, 1.0), 3)
        delay_s = world.random.uniform(0.0, 1.0)
        world.scheduler.after(
            delay_s,
            lambda name=name, value=value: world.set_parameters(**{name: max(0.001, value)}),
        )


@kind()
def time_limits_changed(world: World, fault: Fault) -> None:
    """Those that do not fit the others are refused."""
    name = world.random.choice(('image_timeout_s', 'inference_timeout_s', 'max_action_age_s'))
    world.set_parameters(**{name: round(world.random.uniform(0.3, 2.0), 2)})


@kind(clock='system')
def simulated_time_switched_on(world: World, fault: Fault) -> None:
    """Nobody publishes /clock."""
    world.set_parameters(use_sim_time=True)
    for_a_while(world, fault, lambda: world.set_parameters(use_sim_time=False))


# -- clocks ----------------------------------------------------------------------------------------


@kind(clock='system')
def clock_leaps(world: World, fault: Fault) -> None:
    world.jump_system_clock(world.random.choice((0.15, 0.5, 3.0, 3600.0)))


@kind(clock='system')
def clock_goes_back(world: World, fault: Fault) -> None:
    world.jump_system_clock(-world.random.choice((0.15, 0.5, 3.0, 500.0)))


@kind(clock='system')
def clock_is_corrected(world: World, fault: Fault) -> None:
    """By so little that it is no jump."""
    world.jump_system_clock(world.random.uniform(-0.08, 0.08))


@kind(clock='system')
def clock_jumps_as_an_inference_ends(world: World, fault: Fault) -> None:
    seconds = world.random.choice((-0.5, -0.15, 0.15, 0.5))
    world.as_inference_ends.append(lambda: world.jump_system_clock(seconds))


def _simulation(world: World) -> Any:
    assert world.clock is not None
    return world.clock


@kind(clock='simulated')
def simulation_paused(world: World, fault: Fault) -> None:
    clock = _simulation(world)
    factor = clock.factor or 1.0
    clock.set(clock.now_ns(), 0.0)
    for_a_while(world, fault, lambda: clock.set(clock.now_ns(), factor))


@kind(clock='simulated')
def simulation_silent(world: World, fault: Fault) -> None:
    """Time goes on, and nobody says so."""
    clock = _simulation(world)
    clock.is_silent = True

    def speak() -> None:
        clock.is_silent = False

    for_a_while(world, fault, speak)


@kind(clock='simulated')
def simulation_restarted(world: World, fault: Fault) -> None:
    clock = _simulation(world)
    clock.set(world.random.choice((0, clock.now_ns() // 2)), clock.factor)


@kind(clock='simulated')
def simulation_leaps(world: World, fault: Fault) -> None:
    clock = _simulation(world)
    clock.set(clock.now_ns() + 60 * 10**9, clock.factor)


@kind(clock='simulated')
def simulation_coarse(world: World, fault: Fault) -> None:
    clock = _simulation(world)
    hz = clock.hz
    clock.hz = 5.0

    def refine() -> None:
        clock.hz = hz

    for_a_while(world, fault, refine)


# -- the machine -----------------------------------------------------------------------------------


@kind()
def executor_stalls_briefly(world: World, fault: Fault) -> None:
    world.stall(world.random.uniform(0.05, 0.9), main=True, worker=False)


@kind(hang_timeout_s=4.0)
def executor_stalls(world: World, fault: Fault) -> None:
    world.stall(world.random.uniform(1.1, 3.0), main=True, worker=False)


@kind()
def executor_stalls_as_an_inference_ends(world: World, fault: Fault) -> None:
    """Its action is too old when the executor runs again, or may be."""
    seconds = world.random.choice((0.3, 0.6, 0.9, 1.5))
    world.as_inference_ends.append(lambda: world.stall(seconds, main=True, worker=False))


@kind()
def inference_late_while_the_executor_stalls(world: World, fault: Fault) -> None:
    """Nobody looks while it is late."""
    _policy('deaf', _very_late)(world, fault)
    world.knobs.share = 1.0
    world.as_inference_ends.append(lambda: world.stall(0.95, main=True, worker=False))


@kind()
def worker_stalls(world: World, fault: Fault) -> None:
    world.stall(world.random.uniform(0.05, 0.8), main=False, worker=True)


@kind()
def process_is_stuck(world: World, fault: Fault) -> None:
    """As where native code keeps the interpreter's lock. (The start may take its time.)"""
    if world.statuses:  # a moment later: until then the watchdog is patient
        world.scheduler.after(0.1, lambda: world.stall(1000.0, main=True, worker=True))
    elif not world.is_healed:
        world.scheduler.after(0.1, lambda: process_is_stuck(world, fault))


@kind()
def process_is_suspended(world: World, fault: Fault) -> None:
    seconds = world.random.choice((0.3, 1.5, 4.0))
    world.suspend(seconds)
    if world.random.random() < 0.5:  # and commands come meanwhile
        ask_switch(world, fault, 'enable', delay_s=0.1)
        world.operator.say(fault.robot, world.operator.new_text(), 0.05)


@kind()
def deaf_subscribers(world: World, fault: Fault) -> None:
    """They acknowledge nothing."""
    world.graph.deaf_subscribers = True

    def hear() -> None:
        world.graph.deaf_subscribers = False

    for_a_while(world, fault, hear)


# -- the policy ------------------------------------------------------------------------------------


def _very_late(world: World) -> float:
    return world.plan.parameters['inference_timeout_s'] + world.random.uniform(0.1, 0.4)


def _policy(fault_name: str, delay: Callable[[World], float] = lambda world: 0.0) -> Begin:
    def begin(world: World, fault: Fault) -> None:
        knobs = world.knobs
        knobs.fault, knobs.delay_s = fault_name, delay(world)
        knobs.share = world.random.choice((0.2, 1.0))

        def mend() -> None:
            knobs.fault = ''

        # For long enough that an inference begins.
        for_a_while(world, replace(fault, length_s=max(_POLICY_FAULT_S, fault.length_s)), mend)

    return begin


def _just_late(world: World) -> float:
    return world.plan.parameters['inference_timeout_s'] * world.random.uniform(0.7, 1.5)


def _barely_late(world: World) -> float:
    """The executor may not have looked yet."""
    return world.plan.parameters['inference_timeout_s'] + world.random.uniform(0.001, 0.015)


def _for_ever(world: World) -> float:
    return 1000.0


for _fault in ('raise', 'memory', 'nan', 'inf', 'size', 'unbounded', 'invalid', 'refuse'):
    KINDS[f'policy_{_fault}'] = Kind(_policy(_fault))
KINDS['policy_slow'] = Kind(_policy('slow', _just_late))
KINDS['policy_deaf'] = Kind(_policy('deaf', _very_late))
KINDS['policy_barely_late'] = Kind(_policy('exact', _barely_late))
KINDS['policy_hung'] = Kind(_policy('hung', _for_ever))


@kind(max_image_age_s=0.5, inference_timeout_s=0.5, max_action_age_s=1.5)
def actions_too_old(world: World, fault: Fault) -> None:
    """Neither the images nor the inferences are, each by itself; actions are by a lower limit."""
    fault = replace(fault, length_s=max(_POLICY_FAULT_S, fault.length_s))
    cameras = world.cameras[fault.robot]
    _turn(world, fault, cameras, restamp=lambda stamp_ns: stamp_ns - 400_000_000)
    _policy('exact', lambda world: 0.47)(world, fault)
    world.knobs.share = 1.0
    world.set_parameters(max_action_age_s=0.75)
    for_a_while(world, fault, lambda: world.set_parameters(max_action_age_s=1.5))


@kind()
def checkpoint_changes(world: World, fault: Fault) -> None:
    world.knobs.files_changed = True

    def mend() -> None:
        world.knobs.files_changed = False

    for_a_while(world, fault, mend)


def _preparation(phase: str, what: str) -> Begin:
    def begin(world: World, fault: Fault) -> None:
        setattr(world.knobs, phase, what)
        world.knobs.delay_s = world.random.choice((0.5, 5.0)) if what == 'slow' else 1000.0
        for delay_s, number in ((0.0, 4), (0.05, 2), (0.1, 1)):
            world.change_state(number, delay_s=delay_s)

        def mend() -> None:
            setattr(world.knobs, phase, '')

        for_a_while(world, fault, mend)

    return begin


for _phase in ('load', 'warmup'):
    for _what in ('fail', 'slow', 'hung'):
        KINDS[f'{_phase}_{_what}'] = Kind(_preparation(_phase, _what))


# -- the process and the graph ---------------------------------------------------------------------


@kind()
def interrupted(world: World, fault: Fault) -> None:
    world.signal_process()


@kind()
def killed(world: World, fault: Fault) -> None:
    if world.process_is_up:
        world.end_process('SIGKILL')


@kind()
def killed_while_stopped(world: World, fault: Fault) -> None:
    """A supervisor starts it again; the stop has to be known."""
    ask_switch(world, fault, 'stop')
    world.scheduler.after(world.random.uniform(0.02, 0.2), lambda: killed(world, fault))


@kind(instruction='stack the blocks')
def killed_while_held(world: World, fault: Fault) -> None:
    """The operator has said hold, or what can't be obeyed, and a parameter says otherwise."""
    world.operator.say(fault.robot, world.random.choice(('', 'go\nnow')))
    world.scheduler.after(world.random.uniform(0.02, 0.2), lambda: killed(world, fault))


@kind()
def second_node(world: World, fault: Fault) -> None:
    node = ('vla', '/')
    world.graph.nodes.append(node)
    for_a_while(world, fault, lambda: world.graph.nodes.remove(node))


def _second_publisher(topic: str, message: str) -> Begin:
    def begin(world: World, fault: Fault) -> None:
        from geometry_msgs.msg import TwistStamped

        from simulate.graph import RemotePublisher
        from vla_ros.msg import VlaAction

        kinds = {'TwistStamped': TwistStamped, 'VlaAction': VlaAction}
        name = f'/{world.prefix(fault.robot)}{topic}'
        publisher = RemotePublisher(world.graph, name, kinds[message], ('teleoperation', '/'))
        for_a_while(world, fault, publisher.destroy)

    return begin


KINDS['second_publisher_of_actions'] = Kind(_second_publisher('action', 'VlaAction'))
KINDS['second_publisher_of_twists'] = Kind(
    _second_publisher('twist', 'TwistStamped'), parameters={'motion': 'twist'}
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


# -- the pose of the tool --------------------------------------------------------------------------

_FROM_POSE = {'chunk_timing': 'from_pose', 'motion': 'twist'}


def _tool(world: World, fault: Fault, **knobs: Any) -> None:
    """Turn the knobs of a robot's tool for a while, if another fault has not taken its motion."""
    for tool in world.tools[fault.robot : fault.robot + 1]:
        for name, value in knobs.items():
            setattr(tool, name, value)
        for_a_while(world, fault, tool.heal)


@kind(**_FROM_POSE)
def pose_silent(world: World, fault: Fault) -> None:
    _tool(world, fault, is_silent=True)


@kind(**_FROM_POSE)
def pose_late(world: World, fault: Fault) -> None:
    _tool(world, fault, delay_s=world.random.choice((0.05, 0.1, 0.3, 1.0)))


@kind(**_FROM_POSE)
def pose_that_is_none(world: World, fault: Fault) -> None:
    """Not finite, no rotation, in another frame, without a stamp, or of the future."""
    what = world.random.choice(('finite', 'rotation', 'frame', 'stamp', 'ahead'))
    lead_ns = world.random.choice((NS // 20, NS))

    def spoil(message: Any) -> None:
        if what == 'finite':
            message.pose.position.y = float('nan')
        elif what == 'rotation':
            message.pose.orientation.w = 2.0
        elif what == 'frame':
            message.header.frame_id = 'camera'

    def restamp(stamp_ns: int) -> int:
        return {'stamp': 0, 'ahead': stamp_ns + lead_ns}.get(what, stamp_ns)

    _tool(world, fault, spoil=spoil, restamp=restamp)


@kind(**_FROM_POSE)
def pose_jumps(world: World, fault: Fault) -> None:
    """The arm is where it was not; as if two publishers took turns, perhaps."""

    def spoil(message: Any) -> None:
        message.pose.position.x += 0.5

    if world.random.random() < 0.3:
        _tool(world, fault, spoil=lambda one: spoil(one) if world.random.random() < 0.2 else None)
    else:
        _push(world, fault, np.array([0.0, 0.3, 0.0]))


def _push(world: World, fault: Fault, step: NDArray[np.float64]) -> None:
    for tool in world.tools[fault.robot : fault.robot + 1]:
        tool.position = tool.position + step


@kind(workspace_m='0.35, 0.45, -0.05, 0.05, 0.27, 0.33', motion='twist')
def tool_is_pushed_out_of_its_workspace(world: World, fault: Fault) -> None:
    metres, axis = world.random.choice((0.06, 0.2)), np.eye(3)[world.random.randrange(3)]
    _push(world, fault, world.random.choice((-1, 1)) * metres * axis)


@kind(clock='system', motion='pose')
def tool_does_not_follow(world: World, fault: Fault) -> None:
    """Its targets; it stands still, or is held in place."""
    _tool(world, _long(fault), follows=False)


# -- the joints of an arm --------------------------------------------------------------------------


def _arm(world: World, fault: Fault, **knobs: Any) -> None:
    """Turn the knobs of a robot's joints for a while, if it is sent positions of joints."""
    for arm in world.arms[fault.robot : fault.robot + 1]:
        for name, value in knobs.items():
            setattr(arm, name, value)
        for_a_while(world, fault, arm.heal)


@kind(clock='system', motion='forward')
def joints_silent(world: World, fault: Fault) -> None:
    _arm(world, fault, is_silent=True)


@kind(clock='system', motion='forward')
def joints_do_not_follow(world: World, fault: Fault) -> None:
    _arm(world, _long(fault), follows=False)


@kind(clock='system', motion='joint_trajectory')
def joints_late(world: World, fault: Fault) -> None:
    _arm(world, fault, delay_s=world.random.choice((0.03, 0.1, 0.3, 1.0)))


def _spoilt_joints(world: World, fault: Fault) -> None:
    """Not finite, without one of them or with one twice, without a stamp, or of the future."""
    what = world.random.choice(('finite', 'missing', 'length', 'twice', 'empty', 'stamp', 'ahead'))

    def spoil(message: Any) -> None:
        if what == 'finite':
            message.position[2] = float('nan')
        elif what == 'missing':
            message.name, message.position = message.name[1:], message.position[1:]
        elif what == 'length':
            message.position = message.position[:3]
        elif what == 'twice':
            message.name = [*message.name[:-1], message.name[0]]
        elif what == 'empty':
            message.name, message.position = [], []

    def restamp(stamp_ns: int) -> int:
        return {'stamp': 0, 'ahead': stamp_ns + NS}.get(what, stamp_ns)

    _arm(world, fault, spoil=spoil, restamp=restamp)


for _name, _motion in (('joints', 'forward'), ('joints_of_trajectories', 'joint_trajectory')):
    KINDS[f'{_name}_that_are_none'] = Kind(
        _spoilt_joints, clock='system', parameters={'motion': _motion}
    )
