# SPDX-License-Identifier: Apache-2.0
"""What is written in several places says the same."""

from __future__ import annotations

import ast
import json
import re
from enum import IntEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from std_msgs.msg import String

from support.places import ROOT
from vla_ros.msg import VlaAction, VlaCounters, VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.types import ActionSpace

SPDX = 'SPDX-License-Identifier: Apache-2.0'


def test_the_newest_change_is_this_version() -> None:
    version = ElementTree.parse(ROOT / 'package.xml').getroot().findtext('version')
    changes = re.findall(r'^(\d+\.\d+\.\d+) \(', (ROOT / 'CHANGELOG.rst').read_text(), re.MULTILINE)
    assert changes[0] == version
    assert "version=manifest.findtext('version')" in (ROOT / 'setup.py').read_text()


def test_every_source_file_names_its_license() -> None:
    folders = ('.ci', 'action', 'launch', 'msg', 'scripts', 'test', 'tools', 'training', 'vla_ros')
    files = [file for name in folders for file in (ROOT / name).rglob('*')]
    files += [ROOT / 'CMakeLists.txt', ROOT / 'Makefile', ROOT / 'setup.py']
    sources = {'', '.action', '.in', '.msg', '.py', '.sh', '.css', '.html', '.js', '.svg'}
    without = [
        file
        for file in files
        if file.is_file() and file.suffix in sources and 'data' not in file.parts
        if file.stat().st_size and SPDX not in ''.join(file.read_text().splitlines()[:2])
    ]
    assert not without


def test_pip_and_colcon_install_the_same_commands() -> None:
    setup = ast.parse((ROOT / 'setup.py').read_text())
    [commands] = [
        ast.literal_eval(node.value)
        for node in setup.body
        if isinstance(node, ast.Assign) and node.targets[0].id == 'COMMANDS'
    ]
    listed = re.search(r'set\(commands\n(.*?)\)', (ROOT / 'CMakeLists.txt').read_text(), re.DOTALL)
    assert listed is not None
    cmake = dict(line.strip().split('=') for line in listed[1].strip().splitlines())
    assert {name.removeprefix('vla_'): module for name, module in commands.items()} == {
        name.removeprefix('vla_'): module for name, module in cmake.items()
    }
    for module in commands.values():
        assert (ROOT / Path(*module.split('.')).with_suffix('.py')).is_file()


def test_every_launch_or_config_file_is_named_in_the_readme() -> None:
    readme = (ROOT / 'README.md').read_text()
    for file in [*(ROOT / 'launch').iterdir(), *(ROOT / 'config').iterdir()]:
        assert file.is_dir() or file.name in readme


def published_topics() -> dict[str, Any]:
    """By name, what the node publishes or hears; for a path of Foxglove's."""
    own = {'/action': VlaAction, '/status': VlaStatus, '/debug_image': Image}
    return own | {'/instruction': String, '/diagnostics': DiagnosticArray}


def leaves(layout: Any) -> list[str]:
    """The panels of a layout that is split in two again and again."""
    if isinstance(layout, str):
        return [layout]
    assert layout['direction'] in ('row', 'column')
    assert 0 < layout['splitPercentage'] < 100
    return leaves(layout['first']) + leaves(layout['second'])


def type_of(message: Any, path: str) -> str:
    """The type of a field of the message, or of messages in it."""
    *parents, field = path.split('.')
    for parent in parents:
        message = type(getattr(message(), parent))
    return message.get_fields_and_field_types()[field]


def test_the_foxglove_layout_shows_topics_and_fields_that_there_are() -> None:
    layout = json.loads((ROOT / 'config' / 'foxglove_layout.json').read_text())
    panels = layout['configById']
    assert sorted(leaves(layout['layout'])) == sorted(panels)
    topics = published_topics()
    paths = [path['value'] for panel in panels.values() for path in panel.get('paths', [])]
    for path in paths:
        topic, fields, index = re.fullmatch(r'(/\w+)\.([\w.]+?)(\[\d\])?', path).groups()
        assert type_of(topics[topic], fields).startswith('sequence') == bool(index), path
    assert {f'/action.action[{index}]' for index in range(7)} < set(paths)
    assert panels['Image!view']['imageMode']['imageTopic'] == '/debug_image'
    assert panels['RawMessages!status']['topicPath'] == '/status'
    assert panels['DiagnosticSummary!diagnostics']['topicToRender'] == '/diagnostics'
    publish = panels['Publish!instruction']
    assert (publish['topicName'], publish['datatype']) == ('/instruction', 'std_msgs/msg/String')
    String(**json.loads(publish['value']))


def test_the_rviz_file_shows_the_operators_view() -> None:
    content = yaml.safe_load((ROOT / 'config' / 'vla.rviz').read_text())
    displays = {d['Class']: d for d in content['Visualization Manager']['Displays']}
    assert displays['rviz_default_plugins/Image']['Topic']['Value'] == '/debug_image'
    assert 'rviz_default_plugins/TF' in displays


def tables_of_faults() -> str:
    return ''.join(file.read_text() for file in sorted((ROOT / 'docs' / 'faults').glob('*.md')))


def collect_tests() -> list[str]:
    """Names of all tests, also where this run has only some of them."""

    class Collection:
        names: tuple[str, ...] = ()

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.names = tuple(item.nodeid for item in session.items)

    collection = Collection()
    options = ['--collect-only', '--quiet', '--no-summary', '-p', 'no:xdist', str(ROOT / 'test')]
    assert pytest.main(options, plugins=[collection]) == 0
    return [*collection.names]


def test_every_fault_of_the_table_is_injected_by_the_test_it_names() -> None:
    rows = re.findall(r'^\|.*\| (test_\S.*?) \|$', tables_of_faults(), re.M)
    files = sorted(str(path) for path in ROOT.glob('test/faults/test_*.py'))  # nothing but faults
    listed = [name.partition('::') for name in collect_tests()]
    collected = {test for _, _, test in listed}
    names = {Path(file).name for file in files}
    faults = {test for file, _, test in listed if Path(file).name in names}

    def is_named(test: str, row: str) -> bool:
        """A row may stand for all parameters of a test, or leave out the end of their list."""
        return test in (row, f'{row}[{test.partition("[")[2]}') or (
            row.endswith('...]') and test.startswith(row.removesuffix('...]'))
        )

    assert [row for row in rows if not any(is_named(test, row) for test in collected)] == []
    assert [test for test in faults if not any(is_named(test, row) for row in rows)] == []
    assert len(rows) >= 40
    tables = re.findall(r'^\|.*\|$', (ROOT / 'docs' / 'serving.md').read_text(), re.M)
    served = set(re.findall(r'\btest_\w+', ''.join(tables)))
    assert served - {test.partition('[')[0] for test in collected} == set()
    assert len(served) >= 30


def test_a_reason_has_the_same_number_everywhere() -> None:
    told = {
        name.removeprefix('REASON_'): getattr(VlaStatus, name)
        for name in vars(type(VlaStatus))
        if name.startswith('REASON_')
    }
    assert told == {reason.name: reason.value for reason in Reason}


@pytest.mark.parametrize(
    ('message', 'prefix', 'numbers'),
    [(VlaStatus, 'STATE_', State), (VlaAction, 'ACTION_SPACE_', ActionSpace)],
)
def test_a_number_is_the_same_in_messages_and_code(
    message: Any, prefix: str, numbers: type[IntEnum]
) -> None:
    told = {
        name.removeprefix(prefix): getattr(message, name)
        for name in vars(type(message))
        if name.startswith(prefix)
    }
    assert told == {one.name: one.value for one in numbers}


# Numbers that were ever given out. Add to them; change none.
REASONS = {
    **dict(NONE=0, INVALID_PARAMETER=1, LOADING_FAILED=2, WARMUP_FAILED=3, LOAD_TIMEOUT=4),
    **dict(WARMUP_TIMEOUT=5, CHECKPOINT_CHANGED=6, TRANSITION_FAILED=7, POLICY_HUNG=8),
    **dict(SERVER_REFUSED=10),
    **dict(SHUT_DOWN=9, STOPPED=20, DISABLED=21, NO_INSTRUCTION=22, INSTRUCTION_REJECTED=23),
    **dict(INSTRUCTION_EXPIRED=24, INSTRUCTION_STALE=25, INSTRUCTION_CHANGED=26),
    **dict(INSTRUCTION_CONFLICT=27, NO_IMAGE_YET=40, NO_FIRST_IMAGE=41, IMAGE_TIMEOUT=42),
    **dict(IMAGE_REJECTED=43, IMAGE_UNSTAMPED=44, IMAGE_FUTURE=45, IMAGE_BACKWARDS=46),
    **dict(IMAGE_FROZEN=47, IMAGE_STALE=48, INFERENCE_OVERRUN=60, ACTION_TOO_OLD=61),
    **dict(POLICY_FAILED=62, ACTION_INVALID=63, CLOCK_JUMP=80, NO_SIMULATED_TIME=81),
    **dict(EXECUTOR_STALLED=82, SECOND_NODE=83, SECOND_PUBLISHER=84, MOTION_NO_CONTRACT=100),
    **dict(MOTION_SHAPE=101, MOTION_NOT_FINITE=102, MOTION_NO_TIME=103),
    **dict(MOTION_NOT_A_DISPLACEMENT=104, IMAGES_APART=49, STATE_MISSING=50, STATE_STALE=51),
    **dict(STATE_REJECTED=52, MOTION_ROWS_PAST=105, MOTION_NO_POSE=106, MOTION_POSE_STALE=107),
    **dict(MOTION_POSE_UNCOVERED=108, MOTION_POSE_FRAME=109, MOTION_POSE_INVALID=110),
    **dict(MOTION_POSE_JUMP=111, MOTION_GRIPPER_AHEAD=112, MOTION_NOT_JOINT_POSITIONS=113),
    **dict(MOTION_NO_JOINTS=114, MOTION_JOINTS_STALE=115, MOTION_JOINTS_INVALID=116),
    **dict(MOTION_JOINT_LIMITS=117, MOTION_NOT_FOLLOWED=118, MOTION_NO_TRANSFORM=119),
    **dict(MOTION_JOINT_GROUPS=120, MOTION_DELAYED=121, RECORDING_NO_SPACE=140),
    **dict(RECORDING_FAILED=141, RECORDING_BEHIND=142),
}


def test_no_reasons_number_was_ever_reused() -> None:
    assert {reason.name: reason.value for reason in Reason}.items() >= REASONS.items()


def test_the_table_of_faults_names_reasons_and_counters_that_there_are() -> None:
    row = r'^\| [^|]* \| [^|]* \| ([^|]*?) ?\| ([^|]*?) ?\| test_'
    rows = re.findall(row, tables_of_faults(), re.M)
    assert len(rows) > 60
    for reasons, counters in rows:
        for name in filter(None, reasons.split(', ')):
            assert name in Reason.__members__, name
        for name in filter(None, counters.split(', ')):
            assert hasattr(VlaCounters, name), name
