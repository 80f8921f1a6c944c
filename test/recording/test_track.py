# SPDX-License-Identifier: Apache-2.0
"""Episodes on disk: what is written, and what is counted when the disk takes no more.

The recorder's thread is stepped by the bag of the test, so that nothing depends on time.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from support.bags import TYPES
from vla_ros.reasons import Reason
from vla_ros.recording import Batch, Episode, Recorder, RecorderLimits, Track, episode_name
from vla_ros.recording.bag import Bag as WrittenBag
from vla_ros.replay.bag import Bag, BagError

TOPIC, KIND = '/instruction', 'std_msgs/msg/String'
PLENTY = 10**9
IMPOSSIBLE = 'no message can be made of this'
Text = TYPES.types[KIND]


def serialize(text: str) -> bytes:
    if text == IMPOSSIBLE:
        raise ValueError('no such message')
    return bytes(TYPES.serialize_cdr(Text(text), KIND))


def episode(name: str) -> Episode:
    return Episode(name, {TOPIC: KIND}, {'instruction': 'go'})


def batch(number: int, *texts: str, size: int = 10) -> Batch:
    return Batch(number * 1000, size, [(TOPIC, text) for text in texts])


def counts(track: Track) -> dict[str, int]:
    """Of all counters that are not zero; they always balance."""
    found = vars(track.report().counters)
    parts = [value for name, value in found.items() if name != 'recording_messages']
    assert found['recording_messages'] == sum(parts)
    return {name.removeprefix('recording_'): value for name, value in found.items() if value}


def texts_of(path: Path) -> list[str]:
    with Bag(path) as bag:
        return [bag.decode(raw).data for raw in bag.messages([TOPIC])]


def facts_of(path: Path) -> dict[str, str]:
    metadata = yaml.safe_load((path / 'metadata.yaml').read_text())
    return dict(metadata['rosbag2_bagfile_information']['custom_data'])


@contextmanager
def recorder(folder: Path, max_waiting_bytes: int = PLENTY) -> Iterator[Recorder]:
    """A recorder that has carried out all its jobs at the end."""
    made = Recorder(RecorderLimits(folder, 1000, max_waiting_bytes))
    made.start()
    try:
        yield made
    finally:
        made.close()
        assert made.join(30.0)


def free(*answers: int) -> Any:
    """The free space of the disk, by question; the last answer stays."""
    left = list(answers)
    return mock.patch.object(
        RecorderLimits, 'free_bytes', lambda _: left.pop(0) if len(left) > 1 else left[0]
    )


def test_an_episode_is_a_rosbag2_with_its_facts(tmp_path: Path) -> None:
    folder = tmp_path / 'recordings'
    with recorder(folder) as thread:
        track = Track(thread, serialize)
        track.begin(episode('one'))
        track.add(batch(1, 'a', 'b'))
        track.add(batch(2, 'c'))
        track.end('NO_INSTRUCTION')
        track.add(batch(3, 'of no episode'))
        assert track.mark_success() == 'one'  # after its end
        track.begin(episode('two'))
        track.add(batch(4, 'd'))
        track.end('STOPPED')
    assert counts(track) == {'messages': 4, 'written': 4}
    assert track.report()[1:] == ('two', False, None)
    assert (texts_of(folder / 'one'), texts_of(folder / 'two')) == (['a', 'b', 'c'], ['d'])
    facts = facts_of(folder / 'one')
    assert facts['vla_ros.instruction'] == 'go'
    assert (facts['vla_ros.success'], facts['vla_ros.end']) == ('true', 'NO_INSTRUCTION')
    assert facts_of(folder / 'two')['vla_ros.success'] == 'false'
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / 'one')} == {0o700}


@pytest.mark.parametrize('text', ['yes', '12:30', '0o17', '1_000', '~', 'open "a: b" 杯 🤖 #1'])
def test_a_fact_is_the_same_text_for_every_reader_of_yaml(text: str, tmp_path: Path) -> None:
    with recorder(tmp_path) as thread:
        track = Track(thread, serialize)
        track.begin(Episode('one', {TOPIC: KIND}, {'instruction': text}))
        track.add(batch(1, 'a'))
        track.end('STOPPED')
        track.mark_success()
    told = facts_of(tmp_path / 'one')
    assert told['vla_ros.instruction'] == text and told['vla_ros.success'] == 'true'
    # What has no quotes is a number or a bool in one version of YAML or the other.
    assert '    vla_ros.instruction: "' in (tmp_path / 'one' / 'metadata.yaml').read_text()
    assert texts_of(tmp_path / 'one') == ['a']


def test_names_sort_by_time_and_fit_into_any_file_system() -> None:
    name = episode_name(1_795_873_212_345_678_901, 'left', 'Pick/up:\nthe "Ü" cup! ' * 9)
    assert name == '20261128T134012.345Z_left_pick-up-the-cup-pick-up-the-cup-pick-up'
    assert episode_name(0, '', '杯') == '19700101T000000.000Z'


def test_a_slow_disk_drops_messages_and_delays_nobody(tmp_path: Path) -> None:
    may_write, is_writing = threading.Event(), threading.Event()

    class SlowBag(WrittenBag):
        def write(self, topic: str, time_ns: int, data: bytes) -> None:
            is_writing.set()
            assert may_write.wait(30.0)
            super().write(topic, time_ns, data)

    with recorder(tmp_path, max_waiting_bytes=100) as thread:
        track = Track(thread, serialize, SlowBag)
        track.begin(episode('slow'))
        track.add(batch(0, 'larger than all, but alone', size=5000))
        assert is_writing.wait(30.0)
        # The disk is stuck, and every call returns.
        taken = [track.add(batch(number, 'x', 'y', size=60)) for number in range(1, 4)]
        assert taken == [False, False, False]
        assert counts(track) == {'messages': 7, 'waiting': 1, 'dropped': 6}
        cause = track.report().cause
        assert cause is not None and cause.reason is Reason.RECORDING_BEHIND
        assert '6 messages' in cause.message and 'recording_queue_mb' in cause.message
        track.end('STOPPED')  # is never dropped
        may_write.set()
    assert counts(track) == {'messages': 7, 'written': 1, 'dropped': 6}
    assert facts_of(tmp_path / 'slow')['vla_ros.messages_lost'] == '6'


def test_no_space_ends_the_recording_of_an_episode_and_not_of_the_next(tmp_path: Path) -> None:
    with free(5000, 5000, 999, 999, 999, 5000), recorder(tmp_path) as thread:
        track = Track(thread, serialize)
        track.begin(episode('filling'))
        for number in range(3):
            track.add(batch(number, f'{number}'))
        track.end('STOPPED')
        track.begin(episode('full'))
        track.add(batch(3, 'x'))
        track.end('STOPPED')
    # The first has room for its beginning and one message.
    assert counts(track) == {'messages': 4, 'written': 1, 'no_space': 3}
    cause = track.report().cause
    assert cause is not None and cause.reason is Reason.RECORDING_NO_SPACE
    assert 'recording_min_free_gb' in cause.message
    assert texts_of(tmp_path / 'filling') == ['0']
    assert facts_of(tmp_path / 'filling')['vla_ros.end'] == 'RECORDING_NO_SPACE'
    assert not (tmp_path / 'full').exists()
    with recorder(tmp_path) as thread:  # somebody has made room
        track = Track(thread, serialize)
        track.begin(episode('later'))
        assert track.add(batch(4, 'y'))
        track.end('STOPPED')
    assert counts(track) == {'messages': 1, 'written': 1}


def _full(bag: WrittenBag) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('call', ['write', 'flush', 'close'])
def test_an_error_of_the_disk_keeps_what_was_written(call: str, tmp_path: Path) -> None:
    with recorder(tmp_path) as thread:
        track = Track(thread, serialize)
        track.begin(episode('cut'))
        track.add(batch(1, 'a'))
        done = threading.Event()
        thread.put(done.set)
        assert done.wait(30.0)
        with mock.patch.object(WrittenBag, call, lambda bag, *_: _full(bag)):
            track.add(batch(2, 'b', 'c'))
            track.add(batch(3, 'd'))
            track.end('STOPPED')
            thread.put((ended := threading.Event()).set)
            assert ended.wait(30.0)
        cause = track.report().cause
        assert cause is not None and cause.reason is Reason.RECORDING_FAILED
        assert 'No space left on device' in cause.message
        track.begin(episode('next'))
        track.add(batch(4, 'e'))
        track.end('STOPPED')
    failed = 0 if call == 'close' else 3
    assert counts(track).get('failed', 0) == failed
    with pytest.raises(BagError, match='the recorder was killed'):
        texts_of(tmp_path / 'cut')  # it names the file
    kept = ['a', 'b', 'c', 'd'] if call == 'close' else ['a']
    assert texts_of(tmp_path / 'cut' / 'cut.mcap') == kept
    assert texts_of(tmp_path / 'next') == ['e']


def test_a_success_that_is_not_recorded_tells_why(tmp_path: Path) -> None:
    with free(999), recorder(tmp_path) as thread:
        track = Track(thread, serialize)
        track.begin(episode('full'))
        track.add(batch(0, 'x'))
        assert track.mark_success() == 'full'
        track.add(batch(1, 'y'))
    cause = track.report().cause
    assert cause is not None and cause.reason is Reason.RECORDING_NO_SPACE
    assert counts(track) == {'messages': 2, 'no_space': 2}


def test_a_message_that_cannot_be_made_costs_only_its_batch(tmp_path: Path) -> None:
    with recorder(tmp_path) as thread:
        track = Track(thread, serialize)
        track.begin(episode('one'))
        track.add(batch(1, 'the other one of its batch', IMPOSSIBLE))
        track.add(batch(2, 'a'))
        track.end('STOPPED')
    assert counts(track) == {'messages': 3, 'failed': 2, 'written': 1}
    assert texts_of(tmp_path / 'one') == ['a']
    cause = track.report().cause
    assert cause is not None and 'no such message' in cause.message


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with recorder(tmp_path / 'file' / 'inside') as thread:
        track = Track(thread, serialize)
        track.begin(episode('one'))
        track.add(batch(1, 'a'))
        track.end('STOPPED')
        track.mark_success()
    assert counts(track) == {'messages': 1, 'failed': 1}
    cause = track.report().cause
    assert cause is not None and 'recording_folder' in cause.message


def test_two_nodes_that_record_to_one_folder_at_the_same_moment(tmp_path: Path) -> None:
    names = []
    for number in range(3):
        with recorder(tmp_path) as thread:
            track = Track(thread, serialize)
            track.begin(episode('one'))
            track.add(batch(1, f'{number}'))
            track.end('STOPPED')
            track.mark_success()
        names.append(track.report().episode)
        assert track.report().cause is None
    assert names == ['one', 'one_2', 'one_3']
    for number, name in enumerate(names):
        assert texts_of(tmp_path / name) == [f'{number}']
        assert facts_of(tmp_path / name)['vla_ros.success'] == 'true'


def test_a_recording_that_is_removed_while_it_is_written_is_told(tmp_path: Path) -> None:
    with recorder(tmp_path) as thread:
        track = Track(thread, serialize)
        track.begin(episode('removed'))
        track.add(batch(1, 'a'))
        thread.put((written := threading.Event()).set)
        assert written.wait(30.0)
        shutil.rmtree(tmp_path)
        track.add(batch(2, 'b'))
        track.add(batch(3, 'c'))
        thread.put((noticed := threading.Event()).set)
        assert noticed.wait(30.0)
        cause = track.report().cause
        assert cause is not None and 'it was removed while it was written' in cause.message
        track.end('STOPPED')
        track.begin(episode('next'))
        track.add(batch(4, 'd'))
        track.end('STOPPED')
    assert counts(track) == {'messages': 4, 'written': 2, 'failed': 2}
    assert texts_of(tmp_path / 'next') == ['d'] and not (tmp_path / 'removed').exists()


def test_a_recorder_that_is_killed_leaves_what_it_was_given(tmp_path: Path) -> None:
    """What a killed process leaves is the file as the operating system has it."""
    bag = WrittenBag(tmp_path / 'killed', {TOPIC: KIND})
    for number in range(3):
        bag.write(TOPIC, number, serialize(f'{number}'))
        bag.flush()
    bag.write(TOPIC, 3, serialize('in memory'))
    left = shutil.copytree(tmp_path / 'killed', tmp_path / 'left')
    bag.cut()
    assert texts_of(left / 'killed.mcap') == ['0', '1', '2']
