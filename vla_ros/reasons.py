"""Why a robot does not act: a number for programs, a message for people.

Programs decide by the number, never by the message. Standard library only.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Reason(IntEnum):
    """Why the node is in ERROR, or a robot in HOLDING; the numbers are those of VlaStatus.msg.

    A number is never reused, and none is ever given to another reason.
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


class Cause(NamedTuple):
    """
    :param message: one sentence: what is missing or wrong, the value, what is allowed, what to do.
    """

    reason: Reason
    message: str
