# SPDX-License-Identifier: Apache-2.0
"""The timeline, the samples, and what may take part in a message."""

from __future__ import annotations

import json
import math

import pytest

from vla_ros.clock import ManualClock
from vla_ros.reasons import State
from vla_ros.web.history import Samples, Timeline
from vla_ros.web.messages import (
    Command,
    Here,
    Instruct,
    MessageError,
    RobotState,
    from_json,
    to_json,
)
from vla_ros.web.robot import Report

ACTING = Report(State.RUNNING, message='RUNNING')
LATE = Report(State.HOLDING, 'IMAGE_TIMEOUT', 'no image')
STOPPED = Report(State.HOLDING, 'STOPPED', 'stopped')


def test_a_fault_that_returns_soon_is_one_span_of_the_timeline() -> None:
    clock = ManualClock()
    timeline = Timeline(clock)
    for _ in range(5):
        for report in (ACTING, LATE):
            timeline.note(report)
            clock.advance(0.3)
    clock.advance(5.0)
    timeline.note(ACTING)
    clock.advance(5.0)
    timeline.note(LATE)
    timeline.note(STOPPED)
    told = [(one.state, one.reason, one.times, one.is_fault) for one in timeline.events()]
    assert told == [
        ('RUNNING', 'NONE', 5, False),
        ('HOLDING', 'IMAGE_TIMEOUT', 5, True),
        ('RUNNING', 'NONE', 1, False),
        ('HOLDING', 'IMAGE_TIMEOUT', 1, True),
        ('HOLDING', 'STOPPED', 1, False),
    ]
    assert [one.lasted_s is None for one in timeline.events()] == [False] * 4 + [True]
    timeline.lose()
    assert timeline.events()[-1].lasted_s is not None


def test_samples_are_by_the_second_and_only_new_ones_are_sent() -> None:
    clock = ManualClock()
    samples = Samples(clock)
    for second in range(400):
        if second % 2:
            for _ in range(4):
                samples.note(0.1, 0.05)
        clock.advance(1.0)
        assert samples.tick() and not samples.tick()
    rows = samples.rows(0)
    assert len(rows) == 300 and samples.count == 400
    assert rows[-1] == (0.0, 4.0, 0.1, 0.05) and rows[-2] == (1.0, 0.0, None, None)
    assert samples.rows(398) == rows[-2:] and samples.rows(400) == ()
    assert samples.rate_hz() == pytest.approx(2.0, abs=2.0)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '{}',
        '[' * 5000,
        '{"type": "state"}',
        '{"type": ["here"]}',
        '{"type": "here"}',
        '{"type": "here", "now_ms": NaN}',
        '{"type": "here", "now_ms": true}',
        f'{{"type": "here", "now_ms": {"1" * 400}}}',
        '{"type": "here", "now_ms": 1, "robots": "-"}',
        '{"type": "here", "now_ms": 1, "more": 1}',
        '{"type": "instruct", "id": 1, "robot": "-", "text": 5}',
        '{"type": "instruct", "id": -1, "robot": "-", "text": ""}',
        '{"type": "command", "id": 1, "robot": "-", "command": "explode"}',
        '{"type": "watch", "images": [["a"]]}',
        '{"type": "shown", "number": 1.5}',
        json.dumps({'type': 'watch', 'images': [['-', 'model']] * 9}),
        json.dumps({'type': 'instruct', 'id': 1, 'robot': '-', 'text': 'x' * 5000}),
    ],
)
def test_a_malformed_message_is_an_error_for_its_page(text: str) -> None:
    with pytest.raises(MessageError):
        from_json(text)


def test_messages_of_a_page_are_read_and_none_to_it_has_a_nan() -> None:
    assert from_json('{"type":"here","now_ms":2,"robots":["-"]}') == Here(2.0, ('-',))
    assert from_json('{"type":"command","id":1,"robot":"-","command":"stop"}') == Command(
        1, '-', 'stop'
    )
    assert from_json('{"type":"instruct","id":1,"robot":"-","text":"go"}') == Instruct(1, '-', 'go')
    told = json.loads(to_json(RobotState('-', actions_hz=math.nan, elapsed_s=math.inf)))
    assert (told['type'], told['actions_hz'], told['elapsed_s']) == ('state', None, None)
