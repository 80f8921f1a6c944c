# SPDX-License-Identifier: Apache-2.0
"""One seed from beginning to end: the node's processes, one after the other, in one world."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from random import Random
from typing import Any

from simulate import imports

imports.install()

import rclpy.context  # noqa: E402
import rclpy.utilities  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from simulate.faults import KINDS, SIGNALS  # noqa: E402
from simulate.graph import Graph, Header  # noqa: E402
from simulate.oracle import WATCHDOG, Oracle, Violation  # noqa: E402
from simulate.plan import FAULTS_END_S, HEAL_S, Fault, Plan, make_plan  # noqa: E402
from simulate.policy import Call, SimulatedPolicy  # noqa: E402
from simulate.rclpy_fake import Context  # noqa: E402
from simulate.scheduler import NS, Killed, Scheduler, SimThread  # noqa: E402
from simulate.threads import Exited, Process  # noqa: E402
from simulate.world import World  # noqa: E402
from vla_ros.cli import node as node_command  # noqa: E402

_START_NS = 1_000 * NS  # of the monotonic clock
_SYSTEM_NS = 1_700_000_000 * NS
_ENOUGH = 3  # actions of each robot in the last phase
_KILL_GHOST_S = (0.5, 2.0)  # so long a killed process is still on the graph
_ADDRESS = re.compile(r'0x[0-9a-f]{6,}')


@dataclass
class Outcome:
    """What came of a seed.

    :param cpu_s: time that it took a core.
    :param digest: of the trace.
    :param kinds: of faults that occurred.
    """

    seed: int
    digest: str
    virtual_s: float
    cpu_s: float
    violations: list[Violation]
    kinds: list[str]
    actions: int
    trace: list[str] = field(default_factory=list)


class Trace:
    """Lines of what happened; their digest, and the lines themselves if they are wanted."""

    def __init__(self, scheduler: Scheduler, folder: str, keep: bool) -> None:
        self._scheduler = scheduler
        self._folder = folder
        self._digest = hashlib.sha256()
        self._keep = keep
        self.lines: list[str] = []

    def add(self, text: str) -> None:
        scheduler = self._scheduler
        line = f'{scheduler.elapsed_s:.9f} {scheduler.current.name} {text}'
        self._digest.update(line.encode('utf-8', 'backslashreplace'))
        if self._keep:
            self.lines.append(line)

    def add_foreign(self, text: str) -> None:
        """Text of the node's, which may name places and addresses."""
        text = text.replace(self._folder, '<folder>')
        self.add(_ADDRESS.sub('0x...', text))

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


class Simulation:
    """The graph's observer: hands on to trace, oracle and world."""

    def __init__(self, seed: int, keep_trace: bool = False) -> None:
        self.plan: Plan = make_plan(seed)
        self._folder = tempfile.mkdtemp(prefix='vla_ros_simulate_', dir=_memory_folder())
        self.scheduler = Scheduler(Random(f'threads/{seed}'), _START_NS, _SYSTEM_NS)
        self.trace = Trace(self.scheduler, self._folder, keep_trace)
        self.scheduler.on_switch = self._switched
        self.graph = Graph(self.scheduler, self)
        Context.graph = self.graph
        Process.begin(self.scheduler, self._report, lambda: self._end(WATCHDOG))
        self.world = World(self.plan, self.scheduler, self.graph, self.trace.add, self._end)
        self.world.signal_process = self._signal
        self.oracle = Oracle(self.plan, self.world)
        self.world.on_clock_jump = self.oracle.system_clock_jumped
        self._policy_random = Random(f'policy/{seed}')
        self._output = ''
        self._killed_by = ''
        self._is_over = False
        self._healed_ns: int | None = None
        self._actions_before: list[int] = []
        for fault in self.plan.faults:
            self.scheduler.after(fault.start_s, lambda fault=fault: self._begin_fault(fault))
            self.scheduler.after(fault.start_s + fault.length_s, self.oracle.disturbed)
        self.scheduler.after(FAULTS_END_S, self._heal)

    def run(self) -> Outcome:
        started_s = time.process_time()
        gc.disable()
        # A process that is killed leaves tasks of its executor.
        warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
        try:
            while not self._is_over and not self.scheduler.failure:
                self._run_process()
                if not self._is_over:
                    delay_s = self.world.delay(self.world.restart_s)
                    self.scheduler.run_until(self.scheduler.now_ns + round(delay_s * NS))
        finally:
            gc.enable()
            shutil.rmtree(self._folder, ignore_errors=True)
        violations = self.oracle.violations
        if self.scheduler.failure:
            violations.append(Violation(self.scheduler.elapsed_s, self.scheduler.failure))
        for violation in violations:
            self.trace.add_foreign(f'violation {violation}')
        return Outcome(
            seed=self.plan.seed,
            digest=self.trace.digest,
            virtual_s=self.scheduler.elapsed_s,
            cpu_s=time.process_time() - started_s,
            violations=violations,
            kinds=[fault.kind for fault in self.plan.faults],
            actions=sum(robot.actions for robot in self.oracle.robots),
            trace=self.trace.lines,
        )

    # -- the process -------------------------------------------------------------------------------

    def _run_process(self) -> None:
        """Run the node's command until it ends, however it does."""
        scheduler = self.scheduler
        Process.signal_handlers = {}
        self._output, self._killed_by = '', ''
        self.trace.add('process begins')
        self.oracle.process_begins()
        self.world.process_is_up = True
        code = self._call_command()
        self.trace.add_foreign(f'process ends {code} {self._killed_by} {self._output}')
        self.oracle.process_ends(code, self._output, self._killed_by)
        self.world.process_ended()
        scheduler.kill_others()
        scheduler.main.killed = False
        scheduler.main.signals.clear()
        Process.watchdog = None
        self._bury()

    def _call_command(self) -> int | None:
        overrides = {**self.plan.parameters, 'latch_file': f'{self._folder}/latch.json'}
        errors = io.StringIO()
        try:
            with redirect_stderr(errors):
                return node_command.main(
                    [],
                    load_policy=self._load_policy,
                    parameter_overrides=[
                        Parameter(name, value=value) for name, value in overrides.items()
                    ],
                )
        except Exited as end:
            return end.code
        except Killed:
            return None
        except BaseException:
            self._output += traceback.format_exc()
            return 1
        finally:
            self._output += errors.getvalue()

    def _load_policy(self, parameters: Any, progress: Any) -> SimulatedPolicy:
        return SimulatedPolicy.load(
            progress,
            self.world.knobs,
            shape=self.plan.shape,
            random=self._policy_random,
            on_begin=self._call_begins,
            on_end=self._call_ends,
            on_changed_files=self.oracle.files_checked,
        )

    def _bury(self) -> None:
        """Take what the process left from the graph; at once, if it could say goodbye."""
        graph = self.graph
        graph.wake = lambda: None
        graph.services.clear()
        graph.waiting_requests = 0
        graph.subscriptions.clear()
        node = ('vla', '/')
        ghosts = [one for one in graph.publishers if one.node == node]
        nodes, graph.own_nodes = graph.own_nodes, 0

        def vanish() -> None:
            for ghost in ghosts:
                graph.remove(ghost)
            for _ in range(nodes):
                graph.nodes.remove(node)

        if self._killed_by:
            self.scheduler.after(self.world.delay(_KILL_GHOST_S), vanish)
        else:
            vanish()
        rclpy.utilities.g_default_context = None
        rclpy.context.g_logging_ref_count = 0

    def _signal(self) -> None:
        number = self.world.random.choice(SIGNALS)
        self.trace.add(f'signal {number.name}')
        if not self.world.process_is_up:
            return
        self.oracle.process_signalled()
        if not Process.hear_signal(number):
            self._end(number.name)  # it has no handler yet

    def _end(self, why: str) -> None:
        """End the process from outside."""
        self._killed_by = why
        self.trace.add(f'killed by {why}')
        self.scheduler.kill(self.scheduler.main)

    def _report(self, text: str) -> None:
        self._output += text

    # -- faults, and the last phase ----------------------------------------------------------------

    def _begin_fault(self, fault: Fault) -> None:
        self.trace.add(f'fault {fault.kind} robot {fault.robot} for {fault.length_s:.3f} s')
        self.oracle.disturbed()
        KINDS[fault.kind].begin(self.world, fault)

    def _heal(self) -> None:
        self.world.heal()
        self.oracle.disturbed()
        self._healed_ns = self.scheduler.now_ns
        self._actions_before = [robot.actions for robot in self.oracle.robots]
        self._await_actions()

    def _await_actions(self) -> None:
        """Until all robots have acted again, or should have."""
        assert self._healed_ns is not None
        acted = [
            robot.actions - before
            for robot, before in zip(self.oracle.robots, self._actions_before, strict=True)
        ]
        waited_s = (self.scheduler.now_ns - self._healed_ns) / NS
        if min(acted) >= _ENOUGH or waited_s > HEAL_S:
            for robot, count in zip(self.oracle.robots, acted, strict=True):
                if count < _ENOUGH:
                    status = robot.status
                    why = status.message if status else 'no status'
                    self.oracle.violations.append(
                        Violation(
                            self.scheduler.elapsed_s,
                            f'{self.plan.names[robot.number] or "the robot"} acts {count} times in '
                            f'{waited_s:.1f} s after all was healed: {why}',
                        )
                    )
            self._is_over = True
            self._signal()
            self.scheduler.after(10.0, lambda: self._end('end of the simulation'))
            return
        self.scheduler.after(0.1, self._await_actions)

    # -- the observer ------------------------------------------------------------------------------

    def took(self, topic: str, message: Any, info: dict[str, Any]) -> None:
        self.trace.add(f'takes {topic} {_brief(message)} sent {info["source_timestamp"]}')
        self.oracle.took(topic, message, info)

    def published(self, topic: str, message: Any) -> None:
        if topic in ('/parameter_events', '/diagnostics'):
            return
        self.trace.add_foreign(f'publishes {topic} {_brief(message)}')
        self.oracle.published(topic, message)
        self.world.hear(topic, message)
        for number, arm in enumerate(self.world.arms):
            for text in arm.complaints:
                self.oracle.robots[number].controller_complains(text)
            arm.complaints.clear()

    def took_request(self, service: str, request: Any, header: Header) -> None:
        self.trace.add(f'takes request {service} {request}')
        self.oracle.took_request(service, request, header)

    def answered(self, service: str, response: Any, header: Header) -> None:
        self.trace.add_foreign(f'answers {service} {response}')
        self.oracle.answered(service, response, header)

    def changed_state(self, state: str, transition: str) -> None:
        self.trace.add(f'is {state} by {transition}')
        self.oracle.changed_state(state, transition)

    def logged(self, severity: int, text: str) -> None:
        self.trace.add_foreign(f'logs {severity} {text}')
        self.oracle.logged(severity, text)

    def callback_begins(self) -> None:
        self.oracle.callback_begins()

    def _call_begins(self, call: Call) -> None:
        self.trace.add(f'inference {call.number} begins with {_shown(call)} {call.fault}')
        self.oracle.call_begins(call)

    def _call_ends(self, call: Call) -> None:
        self.trace.add(f'inference {call.number} ends after {call.duration_s:.6f} s')
        self.oracle.call_ends(call)
        if call.frames:
            self.world.inference_ended()

    def _switched(self, thread: SimThread) -> None:
        self.trace.add(f'-> {thread.name}')


def _brief(message: Any) -> str:
    """What tells a message from another, in a line."""
    kind = type(message).__name__
    if kind in ('Image', 'CompressedImage'):
        stamp = message.header.stamp
        head = bytes(message.data[:5]).hex()
        return f'{stamp.sec}.{stamp.nanosec:09} {head}'
    if kind == 'TwistStamped':
        linear, angular = message.twist.linear, message.twist.angular
        return f'{linear.x} {linear.y} {linear.z} {angular.x} {angular.y} {angular.z}'
    if kind == 'VlaStatus':
        counters = message.counters
        return (
            f'{message.reason} {message.message} {message.instruction!r} {counters.received} '
            f'{counters.taken} {counters.published}'
        )
    if kind == 'VlaAction':
        stamp = message.observation_stamp
        return (
            f'{message.sequence} of {stamp.sec}.{stamp.nanosec:09} {message.instruction!r} '
            f'{list(message.actions)}'
        )
    if kind == 'PoseStamped':
        stamp, at = message.header.stamp, message.pose.position
        return f'{stamp.sec}.{stamp.nanosec:09} {at.x} {at.y} {at.z}'
    if kind == 'JointState':
        stamp = message.header.stamp
        return f'{stamp.sec}.{stamp.nanosec:09} {list(message.position)}'
    return str(message)


def _shown(call: Call) -> str:
    """What tells the observations of a call from others: robot, camera and number of each image."""
    return ' | '.join(
        ' '.join(f'{one.robot}.{one.camera}.{one.number}' for one in frames.values())
        for frames in call.frames
    )


def _memory_folder() -> str | None:
    return '/dev/shm' if os.path.isdir('/dev/shm') and sys.platform == 'linux' else None


def simulate(seed: int, keep_trace: bool = False) -> Outcome:
    """Run one seed."""
    return Simulation(seed, keep_trace).run()
