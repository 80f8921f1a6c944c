# SPDX-License-Identifier: Apache-2.0
"""Scheduling of inferences: which observation runs when, and the outcome of each.

Independent of ROS and torch.
"""

from vla_ros.scheduling.camera import CameraCounters, CameraWatch
from vla_ros.scheduling.clock import ClockStep, ClockWatch
from vla_ros.scheduling.commands import CommandWatch, StallWatch
from vla_ros.scheduling.gate import ActionGate, OutcomeCounters
from vla_ros.scheduling.inference import Deadline, WorkerLimits
from vla_ros.scheduling.latency import LatencyWindow, Percentiles
from vla_ros.scheduling.phase import Phase, WorkerStatus
from vla_ros.scheduling.replanning import rows_played_ns
from vla_ros.scheduling.result import Outcome, Result, failure_text
from vla_ros.scheduling.slot import LatestSlots, SlotClosed, SlotStatistics
from vla_ros.scheduling.stamps import clock_advice
from vla_ros.scheduling.worker import BuildPolicy, InferenceWorker

__all__ = [
    'ActionGate',
    'BuildPolicy',
    'CameraCounters',
    'CameraWatch',
    'ClockStep',
    'ClockWatch',
    'CommandWatch',
    'Deadline',
    'InferenceWorker',
    'LatencyWindow',
    'LatestSlots',
    'Outcome',
    'OutcomeCounters',
    'Percentiles',
    'Phase',
    'Result',
    'SlotClosed',
    'SlotStatistics',
    'StallWatch',
    'WorkerLimits',
    'WorkerStatus',
    'clock_advice',
    'failure_text',
    'rows_played_ns',
]
