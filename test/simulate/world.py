# SPDX-License-Identifier: Apache-2.0
"""All that is outside the node: cameras, joints, an operator, a supervisor, clocks and other nodes.

It speaks to the node as others do, by messages and requests, and knows of it what it publishes.
Faults (``faults.py``) turn what is here wrong for a while; :meth:`World.heal` makes all sound.
"""

from __future__ import annotations

import array
import io
import itertools
import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from numpy.typing import NDArray
from PIL import Image as PilImage
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from simulate.arms import JOINTS, JointArm
from simulate.goal_client import GoalClient
from simulate.graph import BEST_EFFORT, RELIABLE, Graph, RemotePublisher
from simulate.live_faults import restore
from simulate.plan import Plan
from simulate.policy import SIDE, Frame, PolicyKnobs, pixels
from simulate.scheduler import NS, Scheduler
from simulate.threads import Process
from vla_ros.graph.topics import image_topics
from vla_ros.msg import VlaStatus
from vla_ros.reasons import Reason, State

_LATENCY_S = (0.005, 0.03)  # from capture to publishing
_TRANSPORT_S = (0.0002, 0.004)
_TRIGGER_S = (0.0, 0.012)  # from a rig's trigger to the capture of a camera
_STATE_HZ = 20.0
_POSE_HZ = 30.0
_NOISE_M = 0.001  # of a pose
_OBEYED_S = 0.1  # a twist or a target is for so long
_LAG_S = 0.05  # of a tool behind its target
_CLOCK_HZ = 50.0  # of /clock
_LAST_LOOK_S = (0.2, 0.5)  # the operator's, in the last phase
MAX_SKEW_S = 0.1  # that a clock may move by itself, as documented, and a stamp be ahead
_FREEZE_MEMORY = 8  # images that a stuck driver repeats at most

_INSTRUCTION_REASONS = (
    Reason.NO_INSTRUCTION,
    Reason.INSTRUCTION_REJECTED,
    Reason.INSTRUCTION_EXPIRED,
    Reason.INSTRUCTION_STALE,
    Reason.POLICY_FAILED,
)


def to_stamp(ns: int) -> Time:
    return Time(sec=ns // NS, nanosec=ns % NS)


class SimulatedClock:
    """A simulation's time, and its publisher on /clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._publisher = RemotePublisher(
            world.graph, '/clock', Clock, ('simulator', '/'), RELIABLE, depth=1
        )
        self.factor = world.random.choice((1.0, 1.0, 0.7, 1.5))
        self.hz = _CLOCK_HZ
        self.is_silent = False
        self._time_ns = 5 * NS
        self._since_ns = world.scheduler.now_ns
        self._tick()

    def now_ns(self) -> int:
        passed_ns = self._world.scheduler.now_ns - self._since_ns
        return self._time_ns + round(passed_ns * self.factor)

    def set(self, time_ns: int, factor: float) -> None:
        """Go on from here, so fast; 0 stands still."""
        self._time_ns, self.factor = time_ns, factor
        self._since_ns = self._world.scheduler.now_ns

    def _tick(self) -> None:
        if not self.is_silent:
            message = Clock(clock=to_stamp(self.now_ns()))
            self._publisher.publish(message, self._world.delay(_TRANSPORT_S))
        self._world.scheduler.after(1 / self.hz, self._tick)


class Rig:
    """All cameras of one robot: triggered together, or each by itself."""

    def __init__(self, world: World, robot: int) -> None:
        self._world = world
        topics = image_topics(world.plan.shape.cameras).values()
        self.cameras = [Camera(world, robot, number, name) for number, name in enumerate(topics)]
        self._period_s = 1 / world.plan.camera_hz[robot]
        triggered = [self.cameras]
        if not world.plan.synchronised:
            triggered = [[camera] for camera in self.cameras]
        for cameras in triggered:
            first_s = world.random.uniform(0, self._period_s)
            world.scheduler.after(first_s, lambda cameras=cameras: self._trigger(cameras))

    def _trigger(self, cameras: list[Camera]) -> None:
        world = self._world
        for camera in cameras:
            if len(cameras) == 1:
                camera.expose()
            else:
                world.scheduler.after(world.delay(_TRIGGER_S), camera.expose)
        period_s = self._period_s * world.random.uniform(0.8, 1.2)
        world.scheduler.after(period_s, lambda: self._trigger(cameras))


class Camera:
    """One of a robot's. The knobs are the faults'; :meth:`heal` turns them back."""

    def __init__(self, world: World, robot: int, number: int, topic: str) -> None:
        """
        :param number: of the camera, among the robot's.
        :param topic: without the robot's prefix.
        """
        self._world = world
        self._robot, self._number = robot, number
        self.topic = f'/{world.prefix(robot)}{topic}'
        self._frame = 0
        self._last: list[bytes] = []
        self._publishers: dict[type, RemotePublisher] = {}  # by the type of their messages
        self.heal()
        self.plug_in(world.plan.cameras_reliable[robot])

    def heal(self) -> None:
        self.is_silent = False
        self.delay_s = 0.0  # on its way
        self.repeats = 0  # so many images in turn; 0: new ones
        self.restamp: Callable[[int], int] = lambda stamp_ns: stamp_ns
        self.spoil: Callable[[Any], None] = lambda message: None
        self._repeated = 0
        if not self._publishers:
            self.plug_in(self._world.plan.cameras_reliable[self._robot])

    def plug_in(self, reliable: bool) -> None:
        """Begin to publish each image raw and compressed."""
        self.unplug()
        node = (f'camera_{self._robot}_{self._number}', '/')
        reliability = RELIABLE if reliable else BEST_EFFORT
        for kind, suffix in ((Image, ''), (CompressedImage, '/compressed')):
            self._publishers[kind] = RemotePublisher(
                self._world.graph, self.topic + suffix, kind, node, reliability
            )

    def unplug(self) -> None:
        for publisher in self._publishers.values():
            publisher.destroy()
        self._publishers = {}

    def expose(self) -> None:
        """Capture an image, unless the camera is silent."""
        if not self.is_silent:
            self.capture()

    def capture(self) -> None:
        """See the robot, and publish that a little later."""
        world = self._world
        stamp_ns = self.restamp(world.robot_ns())
        content = self._next_content()
        world.scheduler.after(world.delay(_LATENCY_S), lambda: self._publish(content, stamp_ns))

    def _next_content(self) -> bytes:
        if self.repeats and self._last:
            buffers = self._last[-self.repeats :]
            self._repeated += 1
            return buffers[self._repeated % len(buffers)]
        self._frame += 1
        frame = Frame(self._robot, self._number, self._frame)
        content = pixels(frame, self._world.random)
        self._last = [*self._last[1 - _FREEZE_MEMORY :], content]
        return content

    def _publish(self, content: bytes, stamp_ns: int) -> None:
        delay_s = self._world.delay(_TRANSPORT_S) + self.delay_s
        for kind, publisher in self._publishers.items():
            if not self._world.graph.count(publisher.endpoint.topic, is_publisher=False):
                continue
            message = _compressed(content) if kind is CompressedImage else _raw(content)
            message.header.stamp = to_stamp(max(0, stamp_ns))
            self.spoil(message)
            publisher.publish(message, delay_s)


def _raw(content: bytes) -> Image:
    message = Image(height=SIDE, width=SIDE, encoding='rgb8', step=3 * SIDE)
    message.data = array.array('B', content)
    return message


def _compressed(content: bytes) -> CompressedImage:
    file = io.BytesIO()
    PilImage.frombytes('RGB', (SIDE, SIDE), content).save(file, 'PNG')
    message = CompressedImage(format='rgb8; png compressed bgr8')
    message.data = array.array('B', file.getvalue())
    return message


class Joints:
    """The source of a robot's state. The knobs are the faults'; :meth:`heal` turns them back."""

    def __init__(self, world: World, robot: int) -> None:
        self._world = world
        self._robot = robot
        self._count = 0
        node = (f'joints_{robot}', '/')
        names = ('state',) if world.plan.has_joints else ('state', 'joint_states')
        self._publishers = [
            RemotePublisher(
                world.graph, f'/{world.prefix(robot)}{name}', JointState, node, BEST_EFFORT
            )
            for name in names
        ]
        self.heal()
        world.scheduler.after(world.random.uniform(0, 1 / _STATE_HZ), self._tick)

    def heal(self) -> None:
        self.is_silent = False
        self.delay_s = 0.0  # on its way
        self.restamp: Callable[[int], int] = lambda stamp_ns: stamp_ns
        self.spoil: Callable[[list[float]], list[float]] = lambda values: values

    def _tick(self) -> None:
        if not self.is_silent:
            self._measure()
        period_s = self._world.random.uniform(0.9, 1.1) / _STATE_HZ
        self._world.scheduler.after(period_s, self._tick)

    def _measure(self) -> None:
        """Publish a state that differs from all others: its number stands in it."""
        world = self._world
        self._count += 1
        delay_s = world.delay(_TRANSPORT_S) + self.delay_s
        stamp = to_stamp(max(0, self.restamp(world.robot_ns())))
        for publisher in self._publishers:
            topic = publisher.endpoint.topic
            if not world.graph.count(topic, is_publisher=False):
                continue
            names = JOINTS if topic.endswith('joint_states') else ()
            size = len(names) or world.plan.shape.state_dim
            noise = [world.random.uniform(-1, 1) for _ in range(size - 2)]
            values = self.spoil([float(self._robot), float(self._count), *noise])
            message = JointState(name=list(names), position=values)
            message.header.stamp = stamp
            publisher.publish(message, delay_s)


class Tool:
    """Follows a robot's twists, roughly, and tells its pose. The knobs are the faults'."""

    def __init__(self, world: World, robot: int) -> None:
        self._world = world
        self.position = np.array([0.4, 0.0, 0.3])
        self._turn = np.array([0.0, 0.0, 0.0, 1.0])  # quaternion
        self._target: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._twist = np.zeros(6)
        self._twist_ns = self._moved_ns = world.scheduler.now_ns
        topic, node = f'/{world.prefix(robot)}ee_pose', (f'arm_{robot}', '/')
        self._publisher = RemotePublisher(world.graph, topic, PoseStamped, node, BEST_EFFORT)
        self.heal()
        world.scheduler.after(world.random.uniform(0, 1 / _POSE_HZ), self._tick)

    def heal(self) -> None:
        self.is_silent = False
        self.follows = True  # its targets
        self.delay_s = 0.0  # on its way
        self.restamp: Callable[[int], int] = lambda stamp_ns: stamp_ns
        self.spoil: Callable[[PoseStamped], None] = lambda message: None

    def follow(self, message: Any) -> None:
        """Hear a twist."""
        self._move()
        linear, angular = message.twist.linear, message.twist.angular
        self._twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        self._twist_ns = self._world.scheduler.now_ns

    def aim(self, message: Any) -> None:
        """Hear a target."""
        self._move()
        point, turn = message.pose.position, message.pose.orientation
        self._target = (
            np.array([point.x, point.y, point.z]),
            np.array([turn.x, turn.y, turn.z, turn.w]),
        )
        self._twist_ns = self._world.scheduler.now_ns

    def _move(self) -> None:
        now_ns = self._world.scheduler.now_ns
        until_ns = min(now_ns, self._twist_ns + round(_OBEYED_S * NS))
        passed_s = max(0, until_ns - self._moved_ns) / NS
        self._moved_ns = now_ns
        if not self.follows:
            return
        if self._target is None:
            step = self._twist * passed_s
            self.position = self.position + step[:3]
            self._turn = _product(_quaternion(step[3:]), self._turn)
            return
        point, turn = self._target
        share = 1 - math.exp(-passed_s / _LAG_S)
        self.position = self.position + share * (point - self.position)
        self._turn = self._turn + share * (turn * np.sign(turn @ self._turn or 1.0) - self._turn)
        self._turn = self._turn / np.linalg.norm(self._turn)

    def _tick(self) -> None:
        if not self.is_silent:
            self._tell()
        period_s = self._world.random.uniform(0.9, 1.1) / _POSE_HZ
        self._world.scheduler.after(period_s, self._tick)

    def _tell(self) -> None:
        world = self._world
        self._move()
        message = PoseStamped()
        message.header.frame_id = 'base_link'
        message.header.stamp = to_stamp(max(0, self.restamp(world.robot_ns())))
        noise = [world.random.uniform(-_NOISE_M, _NOISE_M) for _ in range(3)]
        point, orientation = message.pose.position, message.pose.orientation
        point.x, point.y, point.z = (self.position + noise).tolist()
        orientation.x, orientation.y, orientation.z, orientation.w = self._turn.tolist()
        self.spoil(message)
        self._publisher.publish(message, world.delay(_TRANSPORT_S) + self.delay_s)


def _quaternion(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quaternion, x, y, z, w, of a rotation vector."""
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.array([0.0, 0.0, 0.0, 1.0])
    return np.array([*(vector / angle * math.sin(angle / 2)), math.cos(angle / 2)])


def _product(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quaternion of two rotations, the second one first; of norm 1."""
    (x, y, z, w), (a, b, c, d) = one, two
    product = np.array(
        [
            w * a + x * d + y * c - z * b,
            w * b - x * c + y * d + z * a,
            w * c + x * b - y * a + z * d,
            w * d - x * a - y * b - z * c,
        ]
    )
    normalized: NDArray[np.float64] = product / np.linalg.norm(product)
    return normalized


class Operator:
    """Looks at every robot's status now and then, and does what it says is needed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._said_ns: dict[int, int] = {}
        self._said: dict[int, str] = {}
        self._count = 0
        self.looks_s = world.plan.operator_s
        self.is_away = False
        self._publishers = [
            RemotePublisher(
                world.graph, f'/{world.prefix(robot)}instruction', String, ('operator', '/')
            )
            for robot in range(len(world.plan.names))
        ]
        world.scheduler.after(world.delay(self.looks_s), self._look)

    def new_text(self) -> str:
        self._count += 1
        return f'pick up block {self._count}'

    def say(self, robot: int, text: str, delay_s: float = 0.0, clock_offset_s: float = 0.0) -> None:
        """Publish an instruction."""
        world = self._world
        self._said_ns[robot], self._said[robot] = world.scheduler.now_ns, text
        self._publishers[robot].publish(
            String(data=text), world.delay(_TRANSPORT_S) + delay_s, round(clock_offset_s * NS)
        )

    def _look(self) -> None:
        world = self._world
        if not self.is_away:
            for robot in range(len(world.plan.names)):
                self._tend(robot)
        world.scheduler.after(world.delay(self.looks_s), self._look)

    def _tend(self, robot: int) -> None:
        world = self._world
        status = world.statuses.get(robot)
        if status is None or not world.process_is_up:
            return
        prefix = world.prefix(robot)
        if status.state in (State.UNCONFIGURED, State.ERROR):
            if status.reason == Reason.SHUT_DOWN:
                world.signal_process()  # nothing else ends that
            else:
                self._bring_up()
        elif status.state == State.READY:
            world.change_state(Transition.TRANSITION_ACTIVATE)
        elif status.state in (State.HOLDING, State.RUNNING):
            if status.reason == Reason.STOPPED:
                world.ask(f'/vla/{prefix}reset', Trigger.Request())
            elif status.reason == Reason.DISABLED:
                world.ask(f'/vla/{prefix}enable', SetBool.Request(data=True))
            elif status.reason in _INSTRUCTION_REASONS:
                self._instruct(robot)
            else:
                self._repeat(robot)

    def _instruct(self, robot: int) -> None:
        """Say what to do, or send a goal; a detector may see its end."""
        world = self._world
        if not world.plan.sends_goals:
            self.say(robot, self.new_text())
            return
        world.goal_clients[robot].send(self.new_text(), world.random.uniform(0.8, 5.0))
        if world.random.random() < 0.3:
            service = f'/vla/{world.prefix(robot)}success'
            world.ask(service, Trigger.Request(), delay_s=world.random.uniform(0.3, 3.0))

    def _bring_up(self) -> None:
        """Configure; activate at once, as managers do, or when it is ready, or while it loads."""
        world = self._world
        world.change_state(Transition.TRANSITION_CONFIGURE)
        activates = world.random.choice(('at once', 'later', 'when ready'))
        if activates != 'when ready':
            delay_s = 0.01 if activates == 'at once' else world.random.uniform(0.02, 0.5)
            world.change_state(Transition.TRANSITION_ACTIVATE, delay_s=delay_s)

    def _repeat(self, robot: int) -> None:
        """An instruction that ages has to be said again."""
        limit_s = self._world.plan.parameters['max_instruction_age_s']
        since_s = (self._world.scheduler.now_ns - self._said_ns.get(robot, 0)) / NS
        if limit_s and since_s > 0.3 * limit_s:
            self.say(robot, self._said.get(robot) or self.new_text())


class World:
    """Everything that the node meets. Its timed events never block."""

    def __init__(
        self,
        plan: Plan,
        scheduler: Scheduler,
        graph: Graph,
        on_note: Callable[[str], None],
        on_end_process: Callable[[str], None],
    ) -> None:
        """
        :param on_note: told, for the trace, what happens.
        :param on_end_process: ends the process as a fatal signal does.
        """
        self.plan = plan
        self.scheduler = scheduler
        self.graph = graph
        self.random = Random(f'world/{plan.seed}')
        self.note = on_note
        self.end_process = on_end_process
        self.knobs = PolicyKnobs(duration_s=plan.inference_s)
        self.statuses: dict[int, VlaStatus] = {}
        self.process_is_up = False
        self.is_healed = False
        self.signal_process: Callable[[], None] = lambda: None
        self.restart_s = (0.2, 1.0)
        self.on_clock_jump: Callable[[float], None] = lambda _: None
        self.stalls: list[tuple[int, int]] = []  # of the executor's thread: from, to
        self.worker_stalls: list[tuple[int, int]] = []
        self.as_inference_ends: list[Callable[[], None]] = []  # happens with the next one
        self.clock = SimulatedClock(self) if plan.simulated_time else None
        robots = range(len(plan.names))
        self.cameras = [Rig(self, robot).cameras for robot in robots]  # of each robot
        self.joints = [Joints(self, robot) for robot in robots if plan.shape.state_dim]
        self.tools = [Tool(self, robot) for robot in robots if plan.has_tool]
        self.arms = [JointArm(self, robot) for robot in robots if plan.has_joints]
        self.goal_clients = [GoalClient(self, robot) for robot in robots]
        self.operator = Operator(self)
        self._undo: list[Callable[[], None]] = []

    def prefix(self, robot: int) -> str:
        name = self.plan.names[robot]
        return f'{name}/' if name else ''

    def delay(self, bounds_s: tuple[float, float]) -> float:
        return self.random.uniform(*bounds_s)

    def transport_s(self) -> float:
        """How long a message or a request is on its way."""
        return self.delay(_TRANSPORT_S)

    def robot_ns(self) -> int:
        """The robot's true time, as a camera stamps it."""
        return self.clock.now_ns() if self.clock else self.scheduler.system_ns()

    # -- what anybody may ask of the node ----------------------------------------------------------

    def ask(
        self,
        service: str,
        request: Any,
        delay_s: float = 0.0,
        clock_offset_s: float = 0.0,
        waits: bool = True,
    ) -> None:
        """
        :param waits: whether the client is still there when the answer comes.
        """
        self.graph.request(
            service,
            request,
            (lambda response: None) if waits else None,
            self.scheduler.system_ns() + round(clock_offset_s * NS),
            self.delay(_TRANSPORT_S) + delay_s,
        )

    def change_state(self, number: int, label: str = '', **options: Any) -> None:
        request = ChangeState.Request()
        request.transition.id, request.transition.label = number, label
        self.ask('/vla/change_state', request, **options)

    def set_parameters(self, **values: Any) -> None:
        self.set_each(list(values.items()))

    def set_each(self, values: list[tuple[str, Any]]) -> None:
        """Set parameters one after the other, by one request."""
        request = SetParameters.Request(parameters=[parameter(*one) for one in values])
        self.ask('/vla/set_parameters', request)

    def set_together(self, values: list[tuple[str, Any]]) -> None:
        """Set all of them, or none."""
        request = SetParametersAtomically.Request(parameters=[parameter(*one) for one in values])
        self.ask('/vla/set_parameters_atomically', request)

    def read_parameters(self, names: list[str]) -> None:
        self.ask('/vla/get_parameters', GetParameters.Request(names=names))

    def hear(self, topic: str, message: Any) -> None:
        """Take what the node publishes."""
        for robot in range(len(self.plan.names)):
            name = topic.removeprefix(f'/{self.prefix(robot)}')
            if name == 'status':
                self.statuses[robot] = message
            elif name == 'twist':
                self.tools[robot].follow(message)
            elif name == 'target_pose':
                self.tools[robot].aim(message)
            elif name in ('joint_commands', 'joint_trajectory'):
                self.arms[robot].hear(message)

    # -- faults of the machine ---------------------------------------------------------------------

    def jump_system_clock(self, seconds: float) -> None:
        self.scheduler.system_offset_ns += round(seconds * NS)
        self.on_clock_jump(seconds)

    def stall(self, seconds: float, main: bool, worker: bool) -> None:
        """Let threads of the process, if there is one, not run for a while."""
        if not self.process_is_up:
            return
        for thread in self.scheduler.threads:
            if main if thread is self.scheduler.main else worker:
                self.scheduler.stall(thread, seconds)
        now_ns = self.scheduler.now_ns
        stalled = (now_ns, now_ns + round(seconds * NS))
        if main:
            self.stalls.append(stalled)
        if worker:
            self.worker_stalls.append(stalled)

    def suspend(self, seconds: float) -> None:
        """Let the whole process not run for a while, as SIGSTOP does; it is not stuck."""
        self.stall(seconds, main=True, worker=True)
        until_ns = self.scheduler.now_ns + round(seconds * NS)
        Process.suspended_until_ns = max(Process.suspended_until_ns, until_ns)

    def process_ended(self) -> None:
        """With it end the stalls of its threads."""
        self.process_is_up = False
        self.statuses.clear()
        for arm in self.arms:
            arm.process_ended()
        now_ns = self.scheduler.now_ns
        for stalls in (self.stalls, self.worker_stalls):
            stalls[:] = [(start_ns, min(end_ns, now_ns)) for start_ns, end_ns in stalls]
        Process.suspended_until_ns = min(Process.suspended_until_ns, now_ns)

    def inference_ended(self) -> None:
        """Its result is on its way to the executor's thread."""
        happenings, self.as_inference_ends = self.as_inference_ends, []
        for happen in happenings:
            happen()

    # -- the last phase ----------------------------------------------------------------------------

    def until_healed(self, undo: Callable[[], None]) -> None:
        """Have this called in the last phase, if not before."""
        self._undo.append(undo)

    def heal(self) -> None:
        """Make all sound that is the world's; the operator does the rest."""
        self.note('heal')
        self.is_healed = True
        for undo in self._undo:
            undo()
        self._undo.clear()
        for part in (*itertools.chain(*self.cameras), *self.joints, *self.tools, *self.arms):
            part.heal()
        self.knobs.fault, self.knobs.load, self.knobs.warmup = '', '', ''
        self.knobs.files_changed = False
        self.graph.deaf_subscribers = False
        if self.clock is not None:
            self.clock.is_silent, self.clock.hz = False, _CLOCK_HZ
            self.clock.set(self.clock.now_ns(), 1.0)
            self.set_parameters(use_sim_time=True)
        restore(self)
        self.operator.is_away = False
        self.operator.looks_s = _LAST_LOOK_S
        self.restart_s = (0.2, 0.3)


def parameter(name: str, value: Any) -> Parameter:
    """With the type that the value has; a list is of texts."""
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, 'bool_value'),
        int: (ParameterType.PARAMETER_INTEGER, 'integer_value'),
        float: (ParameterType.PARAMETER_DOUBLE, 'double_value'),
        str: (ParameterType.PARAMETER_STRING, 'string_value'),
        list: (ParameterType.PARAMETER_STRING_ARRAY, 'string_array_value'),
        type(None): (ParameterType.PARAMETER_NOT_SET, ''),
    }
    kind, field = kinds[type(value)]
    typed = ParameterValue(type=kind)
    if field:
        setattr(typed, field, value)
    return Parameter(name=name, value=typed)
