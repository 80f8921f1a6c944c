# SPDX-License-Identifier: Apache-2.0
"""The counters' equations: the message tells them, and every counter has one owner."""

from __future__ import annotations

import dataclasses
import re

import pytest

from support.places import ROOT
from vla_ros.motion import MotionCounters
from vla_ros.motion.joint_states import JointCounters
from vla_ros.motion.joints import ClippedJoints
from vla_ros.motion.pose import PoseCounters
from vla_ros.msg import VlaCounters
from vla_ros.recording import RECORDING_EQUATIONS, RecordingCounters
from vla_ros.ros.cameras import ImageCounters
from vla_ros.ros.gripper_output import GripperCounters
from vla_ros.ros.instructions import InstructionCounters
from vla_ros.ros.shared import RequestCounters
from vla_ros.scheduling.accounts import EQUATIONS, GAUGES, TWIST_EQUATIONS, unaccounted
from vla_ros.scheduling.assembly import AssemblyCounters
from vla_ros.scheduling.camera import CameraCounters
from vla_ros.scheduling.gate import DraftCounters, OutcomeCounters
from vla_ros.scheduling.slot import SlotStatistics

OWNERS = (
    AssemblyCounters,
    ImageCounters,
    InstructionCounters,
    CameraCounters,
    OutcomeCounters,
    DraftCounters,
    SlotStatistics,
    MotionCounters,
    PoseCounters,
    ClippedJoints,
    GripperCounters,
    JointCounters,
    RecordingCounters,
    RequestCounters,
)
# No fields of a dataclass.
WITHOUT_A_FIELD = {'in_flight', 'clock_jumps'}


def test_the_message_tells_the_equations() -> None:
    """A comment may go on in the next line, which then begins with a plus."""
    text = (ROOT / 'msg' / 'VlaCounters.msg').read_text()
    comments = re.sub(r'\n#\s+\+', ' +', text)
    told = {
        total: tuple(parts.split(' + '))
        for total, parts in re.findall(r'(\w+) = (\w+(?: \+ \w+)+)$', comments, re.MULTILINE)
    }
    del told['requests']  # of service requests, which no field counts
    assert told == {**EQUATIONS, **TWIST_EQUATIONS, **RECORDING_EQUATIONS}


def test_every_counter_of_the_message_has_one_owner() -> None:
    counters = VlaCounters.get_fields_and_field_types()
    owned = [one.name for owner in OWNERS for one in dataclasses.fields(owner)]
    assert sorted(owned + list(WITHOUT_A_FIELD)) == sorted(counters)
    assert {*GAUGES} <= {*counters}


@pytest.mark.parametrize('total', EQUATIONS)
def test_each_part_counts_once(total: str) -> None:
    assert unaccounted(VlaCounters()) == {}
    assert unaccounted(VlaCounters(**{total: 3}))[total] == 3
    for part in EQUATIONS[total]:
        assert unaccounted(VlaCounters(**{part: 2}))[total] == -2
        balanced = unaccounted(VlaCounters(**{total: 2, part: 2}))
        assert total not in balanced


def test_a_twist_is_accounted_for_where_there_are_twists() -> None:
    counters = VlaCounters(published=3, taken=3, observations=3, joined=3, received=3, motions=2)
    assert unaccounted(counters) == {}
    assert unaccounted(counters, TWIST_EQUATIONS) == {'published': 1}
    counters.motions_refused = 1
    assert unaccounted(counters, TWIST_EQUATIONS) == {}
