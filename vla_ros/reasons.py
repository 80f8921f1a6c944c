# SPDX-License-Identifier: Apache-2.0
"""States of the node for a robot, and reasons why it does not act.

The numbers are for programs and the messages for people; programs must not parse messages. Standard
library only.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """A state of the node for a robot; the numbers are those of VlaStatus.msg."""

    UNKNOWN = 0  # before the first status
    UNCONFIGURED = 1
    LOADING = 2
    WARMING_UP = 3
    READY = 4
    RUNNING = 5
    HOLDING = 6
    ERROR = 7


class Reason(IntEnum):
    """The reason of an ERROR of the node or a hold; the numbers are those of VlaStatus.msg.

    The number of a reason never changes, and is never reused for another one.
    """

    NONE = 0

    # The node can't act: ERROR, UNCONFIGURED
    INVALID_PARAMETER = 1
    LOADING_FAILED = 2
    WARMUP_FAILED = 3
    LOAD_TIMEOUT = 4
    WARMUP_TIMEOUT = 5
    CHECKPOINT_CHANGED = 6
    TRANSITION_FAILED = 7
    POLICY_HUNG = 8
    SHUT_DOWN = 9
    SERVER_REFUSED = 10

    # The operator
    STOPPED = 20
    DISABLED = 21
    NO_INSTRUCTION = 22
    INSTRUCTION_REJECTED = 23
    INSTRUCTION_EXPIRED = 24
    INSTRUCTION_STALE = 25
    INSTRUCTION_CHANGED = 26
    INSTRUCTION_CONFLICT = 27

    # Images
    NO_IMAGE_YET = 40
    NO_FIRST_IMAGE = 41
    IMAGE_TIMEOUT = 42
    IMAGE_REJECTED = 43
    IMAGE_UNSTAMPED = 44
    IMAGE_FUTURE = 45
    IMAGE_BACKWARDS = 46
    IMAGE_FROZEN = 47
    IMAGE_STALE = 48
    IMAGES_APART = 49
    STATE_MISSING = 50
    STATE_STALE = 51
    STATE_REJECTED = 52

    # The policy
    INFERENCE_OVERRUN = 60
    ACTION_TOO_OLD = 61
    POLICY_FAILED = 62
    ACTION_INVALID = 63

    # The machine and the ROS graph
    CLOCK_JUMP = 80
    NO_SIMULATED_TIME = 81
    EXECUTOR_STALLED = 82
    SECOND_NODE = 83
    SECOND_PUBLISHER = 84

    # The robot is RUNNING, but the node could not turn its last action into motion.
    MOTION_NO_CONTRACT = 100
    MOTION_SHAPE = 101
    MOTION_NOT_FINITE = 102
    MOTION_NO_TIME = 103
    MOTION_NOT_A_DISPLACEMENT = 104
    MOTION_ROWS_PAST = 105
    MOTION_NO_POSE = 106
    MOTION_POSE_STALE = 107
    MOTION_POSE_UNCOVERED = 108
    MOTION_POSE_FRAME = 109
    MOTION_POSE_INVALID = 110
    MOTION_POSE_JUMP = 111
    MOTION_GRIPPER_AHEAD = 112
    MOTION_NOT_JOINT_POSITIONS = 113
    MOTION_NO_JOINTS = 114
    MOTION_JOINTS_STALE = 115
    MOTION_JOINTS_INVALID = 116
    MOTION_JOINT_LIMITS = 117
    MOTION_NOT_FOLLOWED = 118
    MOTION_NO_TRANSFORM = 119
    MOTION_JOINT_GROUPS = 120
    MOTION_DELAYED = 121

    # The node acts, but not all of the episode is recorded.
    RECORDING_NO_SPACE = 140
    RECORDING_FAILED = 141
    RECORDING_BEHIND = 142


class Cause(NamedTuple):
    """A reason with its message.

    :param message: one sentence: what is missing or wrong, the value, what is allowed, what to do.
    """

    reason: Reason
    message: str
