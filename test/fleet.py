# SPDX-License-Identifier: Apache-2.0
"""``make fleet``: robots with a node each, one policy server, and replicas that die and stop.

The server has two replicas of a scripted policy. Each robot is a process of vla_node and a camera.
In turn a replica is killed (SIGKILL) or stopped (SIGSTOP), always the one that more robots are
connected to. A stopped replica is continued later, with all that it has not answered, unless the
server has replaced it by then. With ``--machines 2`` the server is a cluster of two simulated
machines with a replica each, of which one is lost.

At the end every image and inference of each node must be counted under one name, no action may be
late, none may be of an image before the last one's, and no node may have ended. The times without
an action are printed for each fault and each robot.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.executors import SingleThreadedExecutor

from support.graph import Robot, image_message
from support.places import ROOT
from support.vla_serve import Machines, Processes, Server
from vla_ros.client import ReceivedAction
from vla_ros.graph.executor import spinning
from vla_ros.graph.stamps import from_time
from vla_ros.msg import VlaStatus
from vla_ros.reasons import State
from vla_ros.scheduling.accounts import unaccounted
from vla_ros.serving.ports import family

SIZE = (224, 224, 3)  # pixels
INSTRUCTION = 'pick up the cup'
START_S, RECOVERY_S = 120.0, 60.0
CONTINUED_AFTER_S = 2.5  # a stopped replica
IN_TIME_S = 0.05  # beside inference_timeout_s: for an image to the node, and its status back
FAULTS = {'kill': signal.SIGKILL, 'stop': signal.SIGSTOP}
MACHINE = 'machine'  # the second of two is lost


class FleetRobot(Robot):
    """One robot's side, which notes what its node does."""

    def __init__(self, context: rclpy.Context, number: int) -> None:
        super().__init__(context, f'/fleet/robot_{number}')
        self.label = f'robot_{number}'
        self.shown_s: dict[int, float] = {}  # when each image was published, by stamp in ns
        self.late = 0  # actions that were published after their time
        self.late_here = 0  # actions that came after it, also by the way to this process
        self._frames = np.random.default_rng(number).integers(0, 256, (4, *SIZE), dtype=np.uint8)
        self._messages = itertools.cycle([image_message(frame) for frame in self._frames])
        self.finished: list[VlaStatus] = []  # the last status of each configuration

    def _on_action(self, received: ReceivedAction) -> None:
        now_ns, message = self.get_clock().now().nanoseconds, received.message
        ends_ns = from_time(message.valid_until)
        self.late += from_time(message.header.stamp) > ends_ns
        self.late_here += now_ns > ends_ns
        super()._on_action(received)

    def show(self) -> None:
        """Publish an image that is like none before."""
        message = next(self._messages)
        stamp_ns = self.get_clock().now().nanoseconds
        struct.pack_into('<Q', message.data, 0, stamp_ns)
        self.shown_s[stamp_ns] = time.monotonic()
        self.see(message, stamp_ns=stamp_ns)

    @property
    def failures(self) -> int:
        """Inferences so far that gave no action."""
        counters = self.status.counters
        return counters.failed + counters.overrun

    def longest_gap(self, since_s: float, until_s: float) -> float:
        """The longest time between two actions of which the second came in this time [s]."""
        times = list(self.acted_s)
        pairs = itertools.pairwise(times)
        return max((b - a for a, b in pairs if since_s <= b and a <= until_s), default=0.0)

    def holds(self) -> Iterator[tuple[float, float, str]]:
        """When each hold after an action began and ended, monotonic, and its message."""
        began_s, message, is_acting = 0.0, '', False
        for status, heard_s in zip(list(self.statuses), list(self.heard_s), strict=False):
            if status.state == State.HOLDING and not message and is_acting:
                began_s, message = heard_s, status.message
            elif status.state != State.HOLDING and message:
                yield began_s, heard_s, message
                message = ''
            is_acting = status.state in (State.RUNNING, State.HOLDING) and (
                is_acting or status.state == State.RUNNING
            )

    def hold_delay(self, since_s: float) -> float | None:
        """From the image whose inference did not end to the hold [s]; None without a hold."""
        held_s = next((began_s for began_s, _, _ in self.holds() if began_s >= since_s), None)
        if held_s is None:
            return None
        acted = zip(list(self.acted_s), list(self.actions), strict=False)
        last_ns = max(from_time(one.observation_stamp) for at_s, one in acted if at_s <= held_s)
        return held_s - min(at_s for ns, at_s in list(self.shown_s.items()) if ns > last_ns)


@dataclasses.dataclass
class Fault:
    """What was done, and what followed."""

    kind: str
    robots: int  # connected to the replica
    lost: int = 0  # inferences of all robots
    affected_s: list[float] = dataclasses.field(default_factory=list)  # without an action
    others_s: list[float] = dataclasses.field(default_factory=list)
    holds_s: list[float] = dataclasses.field(default_factory=list)  # from an image to the hold


class Cameras:
    """One thread that shows each robot so many images a second, at moments of its own."""

    def __init__(self, robots: list[FleetRobot], rate_hz: float) -> None:
        self._robots, self._rate_hz = robots, rate_hz
        self._ends = threading.Event()
        self.paused: set[FleetRobot] = set()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Cameras:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(10)

    def _run(self) -> None:
        began_s, step_s = time.monotonic(), 1 / self._rate_hz / len(self._robots)
        for count, robot in enumerate(itertools.cycle(self._robots)):
            if self._ends.wait(max(0.0, began_s + count * step_s - time.monotonic())):
                return
            if robot not in self.paused:
                robot.show()


class Fleet:
    """One run."""

    def __init__(self, server: Processes, robots: list[FleetRobot], cameras: Cameras) -> None:
        self.server, self.robots, self.cameras = server, robots, cameras
        self.period_s = 1 / cameras._rate_hz
        self.faults: list[Fault] = []
        self.ended_s = math.inf  # when the cameras ended, monotonic

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float) -> None:
        until_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > until_s:
                states = [f'{one.label}: {one.status.message}' for one in self.robots]
                raise AssertionError(f'{what}: not within {limit_s:g} s\n' + '\n'.join(states))
            time.sleep(0.02)

    def act(self, count: int = 3) -> None:
        """Return when every robot has acted so often again."""
        wanted = {one: len(one.actions) + count for one in self.robots}
        self.wait_for(
            lambda: all(len(one.actions) >= number for one, number in wanted.items()),
            'every robot acts',
            RECOVERY_S,
        )

    def complete(self) -> list[int]:
        """Return the replicas, once there are two that answer."""
        self.wait_for(lambda: len(self.server.replicas()) == 2, 'two replicas', START_S)
        return self.server.replicas()

    def spread(self) -> None:
        """Have every second robot connect anew until not all are connected to one replica."""
        until_s = time.monotonic() + START_S
        while max(map(self.server.connections, self.complete())) >= len(self.robots):
            assert time.monotonic() < until_s, 'all robots are connected to one replica'
            time.sleep(1.0)  # the proxy may not know the new replica yet
            for robot in self.robots[::2]:
                self._begin_anew(robot)
            self.act()

    def _begin_anew(self, robot: FleetRobot) -> None:
        robot.transition(Transition.TRANSITION_DEACTIVATE)
        self.cameras.paused.add(robot)  # so that each image finds a listener
        robot.transition(Transition.TRANSITION_CLEANUP)
        robot.wait_for_state(State.UNCONFIGURED)
        robot.finished.append(robot.status)
        robot.transition(Transition.TRANSITION_CONFIGURE)
        robot.wait_for_state(State.READY)
        robot.transition(Transition.TRANSITION_ACTIVATE)
        robot.wait_for_state(State.HOLDING)
        robot.wait_until_heard()
        self.cameras.paused.discard(robot)

    def fault(self, kind: str) -> None:
        """Kill or stop the replica with more robots, and wait until all act again."""
        replicas = self.complete()
        victim = max(replicas, key=self.server.connections)
        if isinstance(self.server, Machines):
            [victim] = set(replicas) & set(family(self.server.processes[1].pid))
        one = Fault(kind, self.server.connections(victim))
        failures = {robot: robot.failures for robot in self.robots}
        began_s = time.monotonic()
        if isinstance(self.server, Machines):
            self.server.kill(1)
        else:
            os.kill(victim, FAULTS[kind])
        time.sleep(CONTINUED_AFTER_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
        self.act()
        ended_s = time.monotonic()
        gaps_s = {robot: robot.longest_gap(began_s, ended_s) for robot in self.robots}
        # Nobody tells which robots were connected to it: those that lost an inference, and of the
        # rest those that were longest without an action.
        hit = sorted(
            self.robots,
            key=lambda robot: (robot.failures > failures[robot], gaps_s[robot]),
            reverse=True,
        )
        one.affected_s = [gaps_s[robot] for robot in hit[: one.robots]]
        one.others_s = [gaps_s[robot] for robot in hit[one.robots :]]
        delays = (robot.hold_delay(began_s) for robot in hit[: one.robots])
        one.holds_s = [delay_s for delay_s in delays if delay_s is not None]
        one.lost = sum(robot.failures - failures[robot] for robot in self.robots)
        self.faults.append(one)
        print(describe(one), flush=True)


def describe(fault: Fault) -> str:
    def shown(times: list[float]) -> str:
        return f'{max(times):.2f} s' if times else '-'

    return (
        f'{fault.kind}: {fault.robots} robots connected; {fault.lost} inferences lost; at most '
        f'{shown(fault.affected_s)} without an action, held after {shown(fault.holds_s)}; the '
        f'others {shown(fault.others_s)}'
    )


def faults_found(fleet: Fleet, limit_s: float) -> list[str]:
    """What must not be, in sentences."""
    found = []
    for robot in fleet.robots:
        if robot.late:
            found.append(f'{robot.label}: {robot.late} actions were published after their time')
        odd = [gaps for status in robot.statuses if (gaps := unaccounted(status.counters))]
        if odd:
            found.append(f'{robot.label}: {len(odd)} statuses do not balance, first {odd[0]}')
        stamps = [from_time(one.observation_stamp) for one in robot.actions]
        if stamps != sorted(set(stamps)):
            found.append(f'{robot.label}: an action of an earlier image came later')
        if not set(stamps) <= robot.shown_s.keys():
            found.append(f'{robot.label}: an action of an image that was never shown')
        published = sum(one.counters.published for one in [*robot.finished, robot.status])
        if published != len(robot.actions):
            found.append(f'{robot.label}: {published} actions, {len(robot.actions)} heard')
    held = max((time_s for one in fleet.faults for time_s in one.holds_s), default=0.0)
    if held > limit_s + IN_TIME_S:
        found.append(f'a robot held {held:.3f} s after its image, allowed are {limit_s:g} s')
    return found


def report(fleet: Fleet, found: list[str], options: argparse.Namespace) -> None:
    """Print each robot, each kind of fault, and one line of JSON."""
    robots = []
    print('| robot | images | actions | failed | overrun | late here | longest hold, s | why |')
    print('|---|---|---|---|---|---|---|---|')
    for one in fleet.robots:
        ended = [*one.finished, one.status]
        held = max(
            ((b - a, text) for a, b, text in one.holds() if a < fleet.ended_s), default=(0.0, '')
        )
        row = {
            'robot': one.label,
            'images': len(one.shown_s),
            'actions': len(one.actions),
            'failed': sum(status.counters.failed for status in ended),
            'overrun': sum(status.counters.overrun for status in ended),
            'late_here': one.late_here,
            'longest_hold_s': round(held[0], 2),
            'why': held[1],
        }
        robots.append(row)
        print('| ' + ' | '.join(str(value) for value in row.values()) + ' |')
    kinds = {}
    for kind in (*FAULTS, MACHINE):
        of_kind = [one for one in fleet.faults if one.kind == kind]
        worst = [max(one.affected_s) for one in of_kind if one.affected_s]
        each = [gap_s for one in of_kind for gap_s in one.affected_s]
        others = [gap_s for one in of_kind for gap_s in one.others_s]
        holds = [delay_s for one in of_kind for delay_s in one.holds_s]
        kinds[kind] = {
            'times': len(of_kind),
            'inferences_lost': sum(one.lost for one in of_kind),
            'robots_without_an_action_median_s': round(statistics.median(each), 2) if each else 0,
            'worst_of_each_median_s': round(statistics.median(worst), 2) if worst else 0,
            'most_s': round(max(worst, default=0.0), 2),
            'others_most_s': round(max(others, default=0.0), 2),
            'held_after_most_s': round(max(holds, default=0.0), 3),
        }
        print(f'{kind}: {kinds[kind]}')
    figures = {
        'rate_hz': options.rate,
        'load': os.getloadavg()[0],
        'nice': os.nice(0),
        'faults': kinds,
        'robots': robots,
        'found': found,
    }
    print(json.dumps(figures))


@contextlib.contextmanager
def nodes(
    robots: list[FleetRobot], server: Server | Machines
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A process of vla_node for each robot."""
    parameters = {
        'model': server.url,
        'remote_token_file': str(server.token),
        'instruction': INSTRUCTION,
    }
    running = []
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    environment = {**os.environ, 'PYTHONPATH': path}
    try:
        for one in robots:
            command = [sys.executable, '-m', 'vla_ros.cli.node', '--ros-args']
            command += ['-r', f'__ns:={one.get_namespace()}']
            for name, value in parameters.items():
                command += ['-p', f'{name}:={value}']
            with (server.log.parent / f'{one.label}.log').open('wb') as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        yield running
    finally:
        for process in running:
            process.kill()


@contextlib.contextmanager
def robots_of(count: int) -> Iterator[list[FleetRobot]]:
    """The robots' sides, all in one thread."""
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    robots = [FleetRobot(context, number) for number in range(1, count + 1)]
    for one in robots:
        executor.add_node(one)
    with spinning(executor, 'spin-fleet'):
        yield robots
    for one in robots:
        one.destroy_node()
    rclpy.shutdown(context=context)


def run(fleet: Fleet, options: argparse.Namespace) -> None:
    """Let faults happen until the time is over, or until there were enough."""
    choose = random.Random(options.seed)
    until_s = time.monotonic() + options.seconds
    kinds = options.faults.split(',')
    while time.monotonic() < until_s and len(fleet.faults) < options.count:
        fleet.spread()
        time.sleep(choose.uniform(0.5, 3.0))
        fleet.fault(choose.choice(kinds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=600.0, help='default: %(default)s')
    parser.add_argument('--robots', type=int, default=8, help='default: %(default)s')
    parser.add_argument('--rate', type=float, default=2.0, help='[Hz] (default: %(default)s)')
    parser.add_argument('--faults', default='kill,stop', help='default: %(default)s')
    parser.add_argument('--count', type=int, default=10**6, help='most faults')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--machines', type=int, choices=(1, 2), default=1)
    options = parser.parse_args()
    if options.machines == 2:
        options.faults, options.count = MACHINE, 1
    home = Path(tempfile.mkdtemp(prefix='vla_fleet_'))
    kind = Server if options.machines == 1 else Machines
    server = kind(home, '--model', 'scripted', '--replicas', '2')
    print(f'{server.url}, 2 replicas, {options.robots} robots, {options.rate:g} Hz; logs: {home}')
    try:
        with robots_of(options.robots) as robots, nodes(robots, server) as processes:
            for one in robots:
                one.wait_for_state(State.HOLDING, timeout_s=START_S)
                one.wait_until_heard()
            with Cameras(robots, options.rate) as cameras:
                fleet = Fleet(server, robots, cameras)
                fleet.act()
                run(fleet, options)
                fleet.act()
                fleet.ended_s = time.monotonic()
            last = [len(one.statuses) for one in robots]
            for one, count in zip(robots, last, strict=True):
                one.wait_for(lambda one=one, count=count: len(one.statuses) > count + 2)
            limit_s = robots[0].get_parameter_of_node('inference_timeout_s').double_value
            found = faults_found(fleet, limit_s)
            for one, process in zip(robots, processes, strict=True):
                process.send_signal(signal.SIGINT)
                if code := process.wait(30):
                    found.append(f'the node of {one.label} ended with {code}')
            report(fleet, found, options)
    finally:
        server.end()
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
