# SPDX-License-Identifier: Apache-2.0
"""Recordings of episodes as rosbag2 in mcap, written by a thread of their own.

The executor hands over messages and never waits. What cannot be written is counted under the name
of its cause, and the robot acts on. Independent of ROS: the caller brings the messages and their
serialization.
"""

from vla_ros.recording.episode import Episode, episode_name
from vla_ros.recording.recorder import (
    RECORDING_EQUATIONS,
    Recorder,
    RecorderLimits,
    RecordingCounters,
)
from vla_ros.recording.track import Batch, Track, TrackReport, prepare

__all__ = [
    'RECORDING_EQUATIONS',
    'Batch',
    'Episode',
    'Recorder',
    'RecorderLimits',
    'RecordingCounters',
    'Track',
    'TrackReport',
    'episode_name',
    'prepare',
]
