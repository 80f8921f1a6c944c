# SPDX-License-Identifier: Apache-2.0
"""An output around a stand-in for the node: time is the test's own, and so are the messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped

from support.fakes import SPEC, a_prediction
from vla_ros.clock import ManualClock
from vla_ros.graph.stamps import to_time
from vla_ros.motion import ActionDescription, Pose, describe, load_contracts
from vla_ros.parameters.definition import Parameters
from vla_ros.ros.frames import Frames
from vla_ros.ros.log import Log
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import Admitted, OutputSetup
from vla_ros.ros.pose_input import PoseInput
from vla_ros.scheduling import Outcome, Result
from vla_ros.types import ActionSpace, Observation

DATA_SET = 'bridge_orig'  # 5 Hz
CONTRACT = load_contracts()[DATA_SET]
NS = 10**9
IMAGE = np.zeros((8, 8, 3), np.uint8)


class Clock(ManualClock):
    def __init__(self) -> None:
        super().__init__()
        self.is_simulated = False
        self.slept_s = 0.0
        self.delay_s = 0.0  # of every look at the monotonic clock: the process is suspended then

    def now(self) -> Moment:
        return Moment(self.now_ns(), self.monotonic_s())

    def monotonic_s(self) -> float:
        if self.delay_s:
            self.advance(self.delay_s)
        return super().monotonic_s()

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        super().sleep(seconds)


class Publisher:
    def __init__(self, topic: str) -> None:
        self.topic_name = f'/{topic}'
        self.sent: list[Any] = []
        self.waited_s = 0.0

    def publish(self, message: Any) -> None:
        self.sent.append(message)

    def wait_for_all_acked(self, timeout: Any) -> None:
        self.waited_s += timeout.nanoseconds / NS


class StandIn:
    """For the node."""

    def __init__(self) -> None:
        self.context = SimpleNamespace(ok=lambda: True)
        self.publishers: dict[str, Publisher] = {}
        self.timer: Callable[[], None] = lambda: None
        self.period_s = 0.0
        self.hears: dict[str, Callable[[Any], None]] = {}

    def create_publisher(self, _: type, topic: str, __: object) -> Publisher:
        return self.publishers.setdefault(topic, Publisher(topic))

    def create_timer(self, period_s: float, callback: Callable[[], None], clock: object) -> object:
        self.timer, self.period_s = callback, period_s
        return callback

    def create_subscription(
        self, _: type, topic: str, callback: Callable[[Any], None], __: object
    ) -> str:
        self.hears[topic] = callback
        return topic

    def destroy_subscription(self, topic: str) -> None:
        del self.hears[topic]

    def destroy_timer(self, _: object) -> None:
        self.timer = lambda: None

    def destroy_publisher(self, _: object) -> None:
        pass

    def get_logger(self) -> Any:
        return SimpleNamespace(**dict.fromkeys(('info', 'warning', 'error'), lambda _: None))


def a_setup(node: StandIn, clock: Clock, **options: Any) -> OutputSetup:
    """
    :param options: parameters.
    """
    anything: Any = node
    frames = Frames(anything, clock)
    shared: Any = SimpleNamespace(clock=clock, log=Log(anything, clock), frames=frames)
    parameters = Parameters(**{'frame_id': 'base', 'unnorm_key': DATA_SET, **options})
    return OutputSetup(
        anything,
        shared,
        '',
        0,
        parameters.frame_id,
        parameters,
        load_contracts(),
        parameters.workspace_m,
        'image',
        PoseInput(anything, frames, '', parameters, 0),
    )


def admitted(
    now: Moment,
    actions: Sequence[Sequence[float]],
    valid_s: float = 1.0,
    *,
    period_s: float | None = None,
    space: ActionSpace = ActionSpace.UNKNOWN,
    age_s: float = 0.0,
    image_age_s: float = 0.0,
) -> Admitted:
    """
    :param now: when the chunk is published.
    :param actions: [K, 7]
    :param period_s: of the policy; None: the contract's.
    :param age_s: how long ago row 0 was due.
    :param image_age_s: of its image.
    """
    observation = Observation.of_one(IMAGE, 'go', now.node_ns - round(image_age_s * NS))
    spec = replace(SPEC, horizon=len(actions), period_s=period_s, action_space=space)
    prediction = a_prediction(actions=np.array(actions, np.float64), unnorm_key=DATA_SET)
    return admitted_result(
        Result(observation, Outcome.PREDICTED, prediction),
        describe(spec, CONTRACT),
        now,
        valid_s,
        age_s,
    )


def admitted_result(
    result: Result, description: ActionDescription, now: Moment, valid_s: float, age_s: float
) -> Admitted:
    """
    :param valid_s: for how long row 0 is valid.
    :param age_s: how long ago row 0 was due.
    """
    due_ns, until_ns = now.node_ns - round(age_s * NS), now.node_ns + round(valid_s * NS)
    return Admitted(result, description, now, due_ns, until_ns, sequence=1)


def pose_message(pose: Pose, frame: str, stamp_ns: int) -> PoseStamped:
    message = PoseStamped()
    message.header.frame_id = frame
    message.header.stamp = to_time(stamp_ns)
    for part, values in (
        (message.pose.position, pose.position),
        (message.pose.orientation, pose.quaternion),
    ):
        for axis, value in zip('xyzw', values.tolist(), strict=False):
            setattr(part, axis, value)
    return message
