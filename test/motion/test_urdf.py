# SPDX-License-Identifier: Apache-2.0
"""Limits from a robot description, which may come from another node."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vla_ros.motion.joint_limits import JointLimit
from vla_ros.motion.urdf import MAX_BYTES, URDFError, load_urdf, read_urdf

ROBOT = """<?xml version="1.0" encoding="latin-1"?>
<robot name="arm" xmlns:x="urn:other">
  <!-- <joint name="old" type="revolute"/> -->
  <link name="base"><joint name="in_link" type="revolute"/></link>
  <joint name="fixed" type="fixed"><parent link="base"/></joint>
  <joint name="shoulder" type="revolute">
    <limit lower="-1.5" upper="2" velocity="3.14" effort="10"/>
    <safety_controller soft_lower_limit="-1.4" soft_upper_limit="9" k_velocity="1"/>
  </joint>
  <joint name="wheel" type="continuous"/>
  <joint name="roll" type="continuous"><limit velocity="2" effort="1" lower="0" upper="0"/></joint>
  <joint name="slide" type="prismatic"><limit upper="0.5" velocity="0.1" effort="1"/></joint>
  <transmission name="t"><joint name="shoulder"><limit velocity="99"/></joint></transmission>
</robot>
"""


def test_limits_are_read_by_name(tmp_path: Path) -> None:
    limits = read_urdf(ROBOT, 'it')
    assert limits == {
        'shoulder': JointLimit(-1.4, 2.0, 3.14),
        'wheel': JointLimit(),
        'roll': JointLimit(-math.inf, math.inf, 2.0),
        'slide': JointLimit(0.0, 0.5, 0.1),
    }
    (tmp_path / 'arm.urdf').write_text(ROBOT)
    assert load_urdf(str(tmp_path / 'arm.urdf')) == limits


def joint(content: str, kind: str = 'revolute', name: str = 'a') -> str:
    return f'<joint name="{name}" type="{kind}">{content}</joint>'


LIMIT = '<limit lower="0" upper="1" velocity="1" effort="1"/>'
BOMB = '<!DOCTYPE robot [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE robot SYSTEM "file:///etc/passwd">'


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'not XML'),
        ('robot', 'not XML'),
        ('<robot>', 'not XML'),
        ('<robot>\0</robot>', 'not XML'),
        ('<robot>&b;</robot>', 'not XML'),
        ('<model/>', "the root 'model'"),
        (f'{BOMB}<robot>&b;</robot>', 'document type'),
        (f'{FILE}<robot/>', 'document type'),
        ('<robot xmlns:xacro="x"><xacro:arm/></robot>', 'xacro robot.urdf.xacro'),
        ('<robot>' + '<a>' * 100 + '</a>' * 100 + '</robot>', '64 deep'),
        (f'<robot>{joint("")}</robot>', 'no limit'),
        (f'<robot>{joint(LIMIT)}{joint(LIMIT)}</robot>', 'twice'),
        (f'<robot>{joint(LIMIT, name="")}</robot>', 'without a name'),
        (f'<robot>{joint(LIMIT.replace("1", "${x}"))}</robot>', "is '${x}'"),
        (f'<robot>{joint(LIMIT.replace("1", "inf"))}</robot>', 'finite'),
        (f'<robot>{joint(LIMIT.replace("1", "nan"))}</robot>', 'finite'),
        (
            '<robot>' + ''.join(joint(LIMIT, name=f'j{one}') for one in range(2001)) + '</robot>',
            'at most 2000',
        ),
        ('x' * (MAX_BYTES + 1), f'at most {MAX_BYTES}'),
    ],
)
def test_other_texts_are_refused(text: str, words: str) -> None:
    with pytest.raises(URDFError) as refused:
        read_urdf(text, 'the description')
    assert words in str(refused.value) and len(str(refused.value)) < 1100
    assert str(refused.value).startswith('the description')


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(URDFError, match=r'none\.urdf does not exist; give the path'):
        load_urdf(str(tmp_path / 'none.urdf'))
