# SPDX-License-Identifier: Apache-2.0
"""Recordings as users have them: each gives all of its messages, or one line that says what to do.

docs/inputs.md has a table of what is tested here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import PIL.Image
import pytest
import yaml
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.rosbag2.storage_mcap import zstd

from support.bags import LATENCY_NS, STORAGES, TYPES, Recorder, at, recording
from support.inputs import shows
from support.mcap import CHUNK, DATA_END, MAGIC, MESSAGE, Mcap, Message, message, record
from vla_ros.cli import replay
from vla_ros.replay import bag as bags
from vla_ros.replay import mcap_file, storage
from vla_ros.replay.bag import Bag, BagError, UnreadableMessage
from vla_ros.replay.recorded import read_recorded

IMAGE, STRING = 'sensor_msgs/msg/Image', 'std_msgs/msg/String'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
TOPIC = '/camera/image'
RED = np.full((24, 32, 3), (200, 30, 30), np.uint8)
CHANNELS = {
    1: (TOPIC, IMAGE, 'cdr', 'ros2msg'),
    2: ('/instruction', STRING, 'cdr', 'ros2msg'),
}
FOREIGN = {
    3: ('/json', 'Pose', 'json', 'jsonschema'),
    4: ('/proto', IMAGE, 'protobuf', 'protobuf'),
    5: ('/untyped', '', 'json', ''),
    6: ('/flat', 'Grid', 'flatbuffer', 'flatbuffer'),
}


def image(number: float) -> bytes:
    """An image that was captured at this second."""
    sec, nanosec = divmod(at(number) - LATENCY_NS, 10**9)
    header = TYPES.types['std_msgs/msg/Header'](
        stamp=TYPES.types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec),
        frame_id='camera',
    )
    message = TYPES.types[IMAGE](header, 24, 32, 'rgb8', 0, 96, RED.reshape(-1))
    return bytes(TYPES.serialize_cdr(message, IMAGE))


def words(text: str) -> bytes:
    return bytes(TYPES.serialize_cdr(TYPES.types[STRING](data=text), STRING))


def images(*numbers: float, channel: int = 1) -> list[Message]:
    return [Message(channel, at(number), image(number)) for number in numbers]


SAID = [Message(2, at(-1), words('pick up the cup'))]
SIX = [[*SAID, *images(0, 1, 2)], images(3, 4, 5)]


def record_six(path: Path, storage: str, numbers: range = range(6)) -> Path:
    with recording(path, storage) as recorder:
        recorder.string('/instruction', -1.0, 'pick up the cup')
        for number in numbers:
            recorder.image(TOPIC, number, RED)
    return path


def times_of(path: Path, topic: str = TOPIC) -> list[float]:
    """The seconds of all messages; the announced and the counted number are that of the list."""
    with Bag(path) as bag:
        times = [raw.bag_time_ns for raw in bag.messages([topic])]
        assert bag.topics[topic].count == len(times)
        assert bag.topics[topic].missing == 0
    return [(time_ns - at(0)) / 1e9 for time_ns in times]


def refused(path: Path) -> str:
    """The one line with which the recording is rejected when it is opened or read."""
    with pytest.raises(BagError) as told, Bag(path) as bag:
        for _ in bag.messages([TOPIC]):
            pass
    assert f'bag {path} ' in str(told.value) and '\n' not in str(told.value)
    assert told.value.advice
    return str(told.value)


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in folder.iterdir()}


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Replay a recording; return the counts of its images."""

    def run(bag: Path, *options: object) -> dict[str, Any]:
        arguments = [bag, 'scripted', '--output', tmp_path / 'replayed', *options]
        shutil.rmtree(tmp_path / 'replayed', ignore_errors=True)
        capsys.readouterr()
        assert replay.main([str(one) for one in arguments]) == 0, capsys.readouterr().err
        [counts] = json.loads(capsys.readouterr().out.splitlines()[-1])['runs']
        assert counts['images'] == counts['used'] + sum(counts['skipped'].values())
        return dict(counts)

    yield run


# -- sqlite3: what is beside the database, and within ----------------------------------------------


@contextlib.contextmanager
def open_database(bag: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(bag / f'{bag.name}.db3')) as database:
        database.execute(f'PRAGMA journal_mode={mode}')
        database.execute('PRAGMA wal_autocheckpoint=0')
        yield database


def killed_recorder(path: Path, bag: Path, mode: str) -> Path:
    """A recording whose recorder was killed after images 3 to 5; the last is not committed."""
    record_six(bag, 'sqlite3', range(3))
    shutil.copytree(bag, path)
    (path / f'{bag.name}.db3').rename(path / 'bag.db3')
    with open_database(bag, mode) as database:
        add = 'INSERT INTO messages (topic_id, timestamp, data) VALUES (2, ?, ?)'
        for number in (3, 4, 5):
            database.execute(add, (at(number), image(number)))
            if mode == 'wal':
                database.commit()
        if mode != 'wal':  # what is not committed is in the file already, and has to be undone
            database.execute('PRAGMA cache_size=0')
            database.execute('PRAGMA cache_spill=1')
            for number in range(6, 300):
                database.execute(add, (at(number), bytes(2000)))
        for suffix in ('', '-wal', '-journal'):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(bag / f'{bag.name}.db3{suffix}', path / f'bag.db3{suffix}')
        database.rollback()
    (path / 'metadata.yaml').unlink()
    return path


@shows(
    'Recordings',
    'read',
    'with a write-ahead log (`.db3-wal`) or a journal (`.db3-journal`) beside it',
)
def test_a_write_ahead_log_is_applied(tmp_path: Path, run: Run) -> None:
    """Of 6 images, 3 are only in the log."""
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'wal')
    before = state_of(folder)
    assert sorted(before) == ['bag.db3', 'bag.db3-wal']
    assert times_of(folder / 'bag.db3') == [0, 1, 2, 3, 4, 5]
    counts = run(folder / 'bag.db3', '--limit', 4)
    assert (counts['used'], counts['skipped']) == (4, {'after_limit': 2})
    assert state_of(folder) == before
    (folder / 'bag.db3-wal').unlink()
    assert times_of(folder / 'bag.db3') == [0, 1, 2]


@shows(
    'Recordings',
    'read',
    'with a write-ahead log (`.db3-wal`) or a journal (`.db3-journal`) beside it',
)
def test_an_interrupted_transaction_is_undone(tmp_path: Path) -> None:
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'delete')
    before = state_of(folder)
    assert sorted(before) == ['bag.db3', 'bag.db3-journal']
    assert times_of(folder / 'bag.db3') == [0, 1, 2]
    assert state_of(folder) == before


@shows('Recordings', 'rejected', 'the log is cut off or damaged')
def test_a_damaged_log_loses_nothing_in_silence(tmp_path: Path) -> None:
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'wal')
    log = folder / 'bag.db3-wal'
    data, random, rejected = log.read_bytes(), np.random.default_rng(0), 0
    for number in range(60):
        changed = bytearray(data)
        place = int(random.integers(1, len(data)))
        if number % 2:
            del changed[place:]
        else:
            changed[place] ^= 0xFF
        log.write_bytes(changed)
        try:
            assert times_of(folder / 'bag.db3') == [0, 1, 2, 3, 4, 5]
        except BagError as error:
            assert 'bag.db3-wal is cut off or damaged' in str(error)
            rejected += 1
    assert rejected > 50


@pytest.mark.parametrize('byte', range(8, 16))
def test_a_damaged_salt_loses_nothing_in_silence(byte: int, tmp_path: Path) -> None:
    """The last frame is not taken for one of before a restart, since there was none."""
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'wal')
    log = folder / 'bag.db3-wal'
    changed = bytearray(log.read_bytes())
    page_size = int.from_bytes(changed[8:12], 'big')
    last = len(changed) - page_size - 24
    assert any(changed[last + 4 : last + 8])  # it ends a transaction
    changed[last + byte] ^= 0xFF
    log.write_bytes(changed)
    assert 'bag.db3-wal is cut off or damaged' in refused(folder / 'bag.db3')


def test_a_log_that_began_anew_is_applied(tmp_path: Path) -> None:
    """Behind its new frames are those of before, which are in the database already."""
    folder, bag = tmp_path / 'killed', record_six(tmp_path / 'bag', 'sqlite3', range(3))
    folder.mkdir()
    with open_database(bag, 'wal') as database:
        add = 'INSERT INTO messages (topic_id, timestamp, data) VALUES (2, ?, ?)'
        for number in (3, 4):
            database.execute(add, (at(number), image(number)))
            database.commit()
        database.execute('PRAGMA wal_checkpoint(RESTART)').fetchall()
        database.execute(add, (at(5), image(5)))
        database.commit()
        for suffix in ('', '-wal'):
            shutil.copy(bag / f'bag.db3{suffix}', folder)
    assert times_of(folder / 'bag.db3') == [0, 1, 2, 3, 4, 5]


def test_the_log_of_a_linked_database_is_applied(tmp_path: Path) -> None:
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'wal')
    (tmp_path / 'link.db3').symlink_to(folder / 'bag.db3')
    assert times_of(tmp_path / 'link.db3') == [0, 1, 2, 3, 4, 5]


@shows('Recordings', 'rejected', 'the log is of another database')
def test_a_log_of_another_database_is_not_applied(tmp_path: Path) -> None:
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'wal')
    with recording(tmp_path / 'other', 'sqlite3') as recorder:
        for number in range(40):
            recorder.string('/other', number, 'x' * 5000)
    shutil.copy(tmp_path / 'other' / 'other.db3', folder / 'bag.db3')
    told = refused(folder / 'bag.db3')
    assert 'bag.db3 and bag.db3-wal do not fit together' in told or 'cannot be read' in told


@shows('Recordings', 'rejected', 'it is being written, or there is no space for a copy')
def test_a_database_that_is_being_written_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'wal')
    copy = shutil.copyfile

    def copy_while_written(source: Path, target: Path) -> None:
        copy(source, target)
        with source.open('ab') as file:
            file.write(b'more')

    monkeypatch.setattr(shutil, 'copyfile', copy_while_written)
    told = refused(folder / 'bag.db3')
    assert 'bag.db3 is being written; close the recorder' in told
    assert "`sqlite3 bag.db3 'pragma wal_checkpoint(truncate)'`" in told


@shows('Recordings', 'rejected', 'it is being written, or there is no space for a copy')
def test_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = killed_recorder(tmp_path / 'killed', tmp_path / 'bag', 'wal')

    def full(source: Path, target: Path) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shutil, 'copyfile', full)
    assert 'cannot be copied (No space left on device); close the recorder' in refused(
        folder / 'bag.db3'
    )


ENDLESS = (
    'CREATE VIEW messages AS WITH RECURSIVE one(id) AS (SELECT 1 UNION ALL SELECT id FROM one) '
    "SELECT id, 2 AS topic_id, id AS timestamp, x'00' AS data FROM one"
)


@shows('Recordings', 'rejected', 'messages without a topic, time or data; a damaged page')
@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ('DELETE FROM topics WHERE id = 2', '6 messages belong to no topic'),
        ('DROP TABLE messages', 'is a database of sqlite3, but not of a recording'),
        (f'DROP TABLE messages; {ENDLESS}', 'is a database of sqlite3, but not of a recording'),
        ('UPDATE messages SET data = NULL WHERE id = 3', 'a message without time or data'),
        ("UPDATE messages SET timestamp = 'x' WHERE id = 3", 'a message without time or data'),
        ("UPDATE messages SET timestamp = 'x'", 'a message without time or data'),
    ],
)
def test_a_changed_database(change: str, told: str, tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', 'sqlite3')
    with open_database(bag, 'delete') as database:
        if 'UPDATE' in change:  # without NOT NULL
            query = "SELECT sql FROM sqlite_master WHERE name = 'messages'"
            [(sql,)] = database.execute(query).fetchall()
            database.execute('ALTER TABLE messages RENAME TO old')
            database.execute(sql.replace('NOT NULL', ''))
            database.execute('INSERT INTO messages SELECT * FROM old')
        database.executescript(change)
        database.commit()
    assert told in refused(bag)


@shows('Recordings', 'rejected', 'an index that lacks messages')
def test_an_index_that_lacks_messages(tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', 'sqlite3')
    with open_database(bag, 'delete') as database:
        database.execute('DROP INDEX timestamp_idx')
        database.execute('CREATE INDEX timestamp_idx ON messages (timestamp) WHERE topic_id = 9')
        database.execute('PRAGMA writable_schema=1')
        change = "UPDATE sqlite_master SET sql = ? WHERE name = 'timestamp_idx'"
        database.execute(change, ('CREATE INDEX timestamp_idx ON messages (timestamp)',))
        database.commit()
    assert '6 messages, of which its index lists 0; make the index again' in refused(bag)


@shows(
    'Recordings',
    'read',
    'folder with metadata.yaml; one file of it',
    'no quality of service, no definitions of types (before Iron)',
)
@pytest.mark.parametrize('schema', ['no qos', 'bad qos', 'old'])
def test_a_database_without_quality_of_service(schema: str, tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', 'sqlite3')
    with open_database(bag, 'delete') as database:
        if schema == 'old':  # as before Foxy
            for table in ('schema', 'metadata', 'message_definitions'):
                database.execute(f'DROP TABLE {table}')
            for column in ('offered_qos_profiles', 'type_description_hash'):
                database.execute(f'ALTER TABLE topics DROP COLUMN {column}')
        else:
            text = '' if schema == 'no qos' else '- history: 3'
            database.execute('UPDATE topics SET offered_qos_profiles = ?', (text,))
        database.commit()
    assert times_of(bag) == times_of(bag / 'bag.db3') == [0, 1, 2, 3, 4, 5]


# -- a folder, its metadata, and its files ---------------------------------------------------------


def metadata_of(bag: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the metadata of a recording."""
    file = bag / 'metadata.yaml'
    content = yaml.safe_load(file.read_text())
    change(content['rosbag2_bagfile_information'])
    file.write_text(yaml.safe_dump(content))
    return bag


def announce(count: int) -> Callable[[dict[str, Any]], object]:
    """Announce so many images."""

    def change(metadata: dict[str, Any]) -> None:
        for one in metadata['topics_with_message_count']:
            if one['topic_metadata']['name'] == TOPIC:
                one['message_count'] = count

    return change


@shows(
    'Recordings',
    'read',
    'metadata.yaml announces more messages',
    'metadata.yaml announces fewer messages',
)
@pytest.mark.parametrize('storage', STORAGES)
def test_metadata_counts_more_or_less(storage: str, tmp_path: Path, run: Run) -> None:
    bag = record_six(tmp_path / 'bag', storage)
    counts = run(metadata_of(bag, announce(9)))
    assert (counts['used'], counts['skipped']) == (6, {'missing': 3})
    counts = run(bag, '--limit', 2)
    assert (counts['used'], counts['skipped']) == (2, {'after_limit': 4, 'missing': 3})
    counts = run(metadata_of(bag, announce(2)))
    assert (counts['used'], counts['skipped']) == (6, {})
    counts = run(bag, '--limit', 4)
    assert (counts['used'], counts['skipped']) == (4, {'after_limit': 2})


def test_missing_instructions_are_reported(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = record_six(tmp_path / 'bag', 'sqlite3')
    metadata_of(bag, lambda one: one['topics_with_message_count'][0].update(message_count=3))
    arguments = [bag, 'scripted', '--output', tmp_path / 'out']
    assert replay.main([str(one) for one in arguments]) == 0
    text = 'instructions are missing: the recording announces 3 messages and has 1 on /instruction'
    assert text in capsys.readouterr().err


def split(tmp_path: Path, storage: str) -> Path:
    """A recording in two files, which overlap in time as merged ones do."""
    suffix = 'db3' if storage == 'sqlite3' else 'mcap'
    bag = record_six(tmp_path / 'bag', storage, range(0, 6, 2))
    other = record_six(tmp_path / 'other', storage, range(1, 6, 2))
    shutil.move(other / f'other.{suffix}', bag)

    def change(metadata: dict[str, Any]) -> None:
        metadata['relative_file_paths'] = [f'bag/bag.{suffix}', f'other.{suffix}']
        announce(6)(metadata)

    return metadata_of(bag, change)


@shows('Recordings', 'read', 'several files (split, merged), also overlapping in time')
@pytest.mark.parametrize('storage', STORAGES)
def test_a_recording_in_several_files(storage: str, tmp_path: Path, run: Run) -> None:
    bag = split(tmp_path, storage)
    assert times_of(bag) == [0, 1, 2, 3, 4, 5]
    counts = run(bag, '--limit', 5)
    assert (counts['used'], counts['skipped']) == (5, {'after_limit': 1})


@shows(
    'Recordings',
    'rejected',
    'metadata.yaml lists a file that is absent',
    'the folder has a file that metadata.yaml does not list',
    'metadata.yaml is absent or damaged',
)
@pytest.mark.parametrize('storage', STORAGES)
def test_a_file_is_absent_or_unlisted(storage: str, tmp_path: Path) -> None:
    bag = split(tmp_path, storage)
    suffix = 'db3' if storage == 'sqlite3' else 'mcap'
    shutil.copytree(bag, tmp_path / 'unlisted')
    metadata_of(tmp_path / 'unlisted', lambda one: one['relative_file_paths'].pop())
    told = refused(tmp_path / 'unlisted')
    assert f'metadata.yaml does not list other.{suffix}; if the recorder was killed, ' in told
    assert f'`ros2 bag reindex {tmp_path / "unlisted"}`' in told
    (bag / f'other.{suffix}').rename(tmp_path / f'lost.{suffix}')
    told = refused(bag)
    assert f'metadata.yaml lists other.{suffix}, which is not in the folder; copy ' in told
    (bag / 'metadata.yaml').unlink()
    told = refused(bag)
    assert f'has no metadata.yaml, but bag.{suffix}' in told and 'ros2 bag reindex' in told


def test_metadata_with_nothing_but_files(tmp_path: Path) -> None:
    """As `ros2 bag reindex` leaves it."""
    bag = record_six(tmp_path / 'bag', 'mcap')
    file = yaml.safe_dump({'relative_file_paths': ['bag.mcap'], 'topics_with_message_count': None})
    text = 'rosbag2_bagfile_information:\n  ' + file.replace('\n', '\n  ')
    (bag / 'metadata.yaml').write_text(text)
    assert times_of(bag) == [0, 1, 2, 3, 4, 5]


@shows('Recordings', 'rejected', 'more files than a process may open')
def test_more_files_than_a_process_may_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = record_six(tmp_path / 'bag', 'mcap')

    def full(*_: object) -> None:
        raise OSError(24, 'Too many open files')

    monkeypatch.setattr(bags, 'open_file', full)
    assert 'Too many open files); allow more open files than' in refused(bag)


def test_a_file_that_is_listed_twice_is_read_once(tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', 'mcap')
    metadata_of(bag, lambda one: one['relative_file_paths'].append('bag.mcap'))
    assert times_of(bag) == [0, 1, 2, 3, 4, 5]


def test_a_topic_that_only_the_metadata_has(tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', 'mcap')
    metadata_of(
        bag,
        lambda one: one['topics_with_message_count'][1]['topic_metadata'].update(name='/renamed'),
    )
    with Bag(bag) as read:
        assert (read.topics['/renamed'].count, read.topics['/renamed'].missing) == (0, 6)
        assert read.topics[TOPIC].count == 6


@shows('Recordings', 'rejected', 'folder of several recordings')
def test_what_a_folder_holds_instead(tmp_path: Path) -> None:
    record_six(tmp_path / 'day' / 'one', 'mcap')
    record_six(tmp_path / 'day' / 'two', 'sqlite3')
    assert 'but recordings: one, two; name one of them' in refused(tmp_path / 'day')
    (tmp_path / 'ros1').mkdir()
    (tmp_path / 'ros1' / 'old.bag').write_bytes(b'#ROSBAG V2.0\n')
    assert '`rosbags-convert --src old.bag' in refused(tmp_path / 'ros1')
    told = refused(tmp_path / 'day' / 'one' / 'metadata.yaml')
    assert 'is the metadata of a recording; name the folder that has it' in told


# -- single files of every kind --------------------------------------------------------------------


@shows('Recordings', 'rejected', 'ROS 1, a .bag or in mcap')
def test_a_recording_of_ros_1(tmp_path: Path) -> None:
    with Writer1(tmp_path / 'old.bag'):
        pass
    told = refused(tmp_path / 'old.bag')
    assert 'old.bag is a recording of ROS 1; convert it with `rosbags-convert' in told
    ros1 = {1: ('/image', 'sensor_msgs/Image', 'ros1', 'ros1msg')}
    (tmp_path / 'old.mcap').write_bytes(bytes(Mcap(ros1, profile='ros1')))
    assert 'old.mcap has messages of ROS 1; convert' in refused(tmp_path / 'old.mcap')


@shows('Recordings', 'rejected', 'empty file; zeros; pointer of Git LFS; gzip, bzip2, xz, lz4, ZIP')
@pytest.mark.parametrize(
    ('content', 'told'),
    [
        (b'', 'is empty: the recorder was killed, or a copy failed; copy the recording again'),
        (bytes(5000), 'is zeros, as a full disk or a power failure leaves them; copy'),
        (b'\x1f\x8b\x08' + bytes(9), 'is compressed with gzip; unpack it first'),
        (b'PK\x03\x04', 'is a ZIP archive; unpack it first'),
        (b'version https://git-lfs.github.com/spec/v1', 'download the file with `git lfs pull`'),
        (b'\x37\x7f\x06\x83', 'is the log of a database; name the .db3 beside it'),
        (b'hello', 'is neither mcap nor sqlite3; name a folder that ros2 bag wrote'),
    ],
)
def test_files_that_are_something_else(content: bytes, told: str, tmp_path: Path) -> None:
    for name in ('bag.mcap', 'bag.db3', 'bag'):
        (tmp_path / name).write_bytes(content)
        assert told in refused(tmp_path / name)


@shows('Recordings', 'read', 'file with another name or suffix')
@pytest.mark.parametrize('storage', STORAGES)
def test_a_file_is_known_by_its_content(storage: str, tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', storage)
    [file] = set(bag.iterdir()) - {bag / 'metadata.yaml'}
    for name in ('bag.db3', 'bag.mcap', 'bag'):
        shutil.copy(file, tmp_path / f'copied_{name}')
        assert times_of(tmp_path / f'copied_{name}') == [0, 1, 2, 3, 4, 5]


def test_a_pipe_of_any_name_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    assert 'is not a regular file' in refused(tmp_path / 'pipe')


# -- compression -----------------------------------------------------------------------------------


def compressed(path: Path, storage: str, mode: CompressionMode) -> Path:
    writer = Writer(path, version=9, storage_plugin=STORAGES[storage])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        recorder = Recorder(writer, TYPES)
        recorder.string('/instruction', -1.0, 'pick up the cup')
        for number in range(6):
            recorder.image(TOPIC, number, RED)
    return path


@shows(
    'Recordings',
    'read',
    'zstd: files, messages or chunks; lz4: chunks',
    'a listed file is compressed and metadata.yaml says it is not, or the reverse',
)
@pytest.mark.parametrize(
    ('storage', 'mode'),
    [
        ('sqlite3', CompressionMode.MESSAGE),
        ('sqlite3', CompressionMode.FILE),
        ('mcap', CompressionMode.MESSAGE),
        ('mcap', CompressionMode.FILE),
        ('mcap', CompressionMode.STORAGE),
    ],
)
def test_compressed_recordings(
    storage: str, mode: CompressionMode, tmp_path: Path, run: Run
) -> None:
    bag = compressed(tmp_path / 'bag', storage, mode)
    [file] = set(bag.iterdir()) - {bag / 'metadata.yaml'}
    assert (file.suffix == '.zstd') == (mode is CompressionMode.FILE)
    assert run(bag)['used'] == run(file)['used'] == 6
    if mode is not CompressionMode.STORAGE:
        untold = shutil.copytree(bag, tmp_path / 'untold')
        metadata_of(untold, lambda one: one.update(compression_format='', compression_mode=''))
        assert times_of(untold) == [0, 1, 2, 3, 4, 5]
    if mode is CompressionMode.FILE:  # `ros2 bag play` leaves the file beside
        plain = file.with_suffix('')
        plain.write_bytes(zstd.decompress(file.read_bytes()))
        assert times_of(bag) == [0, 1, 2, 3, 4, 5]
        file.rename(tmp_path / 'away.zstd')
        assert times_of(bag) == [0, 1, 2, 3, 4, 5]
        plain.unlink()
        file.write_bytes((tmp_path / 'away.zstd').read_bytes()[:-20])
        assert f'{file.name} is cut off or damaged' in refused(bag)
        file.write_bytes(zstd.compress((tmp_path / 'away.zstd').read_bytes()))
        assert 'is compressed twice; unpack it with `zstd -d`' in refused(bag)


@shows('Recordings', 'rejected', 'no space for the temporary copy')
def test_no_room_for_an_unpacked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = compressed(tmp_path / 'bag', 'mcap', CompressionMode.FILE)

    def full(source: object, target: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shutil, 'copyfileobj', full)
    told = refused(bag)
    assert 'cannot be unpacked into ' in told and '(No space left on device); make space' in told
    assert told.endswith('the environment variable TMPDIR')


@shows('Recordings', 'counted as not usable', 'a message that unpacks to more than 1 GiB')
def test_a_message_is_unpacked_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = compressed(tmp_path / 'bag', 'mcap', CompressionMode.MESSAGE)
    with Bag(bag) as read:
        [raw, *_] = read.messages([TOPIC])
        assert read.decode(raw).height == 24
        monkeypatch.setattr(bags, 'MAX_BYTES', len(image(0)) - 1)
        with pytest.raises(UnreadableMessage):
            read.decode(raw)


@shows('Recordings', 'rejected', 'a compressed file that is cut off; another compression')
def test_an_unknown_compression(tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', 'sqlite3')
    metadata_of(bag, lambda one: one.update(compression_format='bz2', compression_mode='MESSAGE'))
    assert 'compressed with bz2; convert it with `ros2 bag convert`' in refused(bag)
    (tmp_path / 'x.mcap').write_bytes(bytes(Mcap(CHANNELS, SIX, compression='snappy', qos='')))
    assert 'is compressed with snappy; convert it' in refused(tmp_path / 'x.mcap')


# -- mcap: with and without an index ---------------------------------------------------------------

WHOLE = Mcap(CHANNELS, SIX)


@shows(
    'Recordings',
    'read',
    'no index, no statistics, no summary, or wrong ones',
    'no end, as of a recorder that was killed, with whole records',
    'times that are not in order, chunks that overlap',
    'empty profile; quality of service absent or malformed',
    'channels with JSON, protobuf or other encodings beside those of ROS 2',
)
@pytest.mark.parametrize(
    'file',
    [
        WHOLE,
        replace(WHOLE, compression='lz4', pack=lz4.frame.compress),
        replace(WHOLE, compression='zstd', pack=zstd.compress),
        replace(WHOLE, has_index=False),
        replace(WHOLE, statistics={}),
        replace(WHOLE, described_in_summary=False),
        replace(WHOLE, described_in_summary=False, statistics={}),
        replace(WHOLE, is_finished=False),
        replace(WHOLE, is_finished=False, has_index=False),
        replace(WHOLE, statistics={1: 2}),
        replace(WHOLE, hidden={1}),
        replace(WHOLE, hidden={1}, statistics={2: 1}, is_finished=False),
        replace(WHOLE, profile=''),
        replace(WHOLE, qos='- history: 1'),
        replace(WHOLE, qos='{'),
        replace(WHOLE, channels=CHANNELS | FOREIGN),
        replace(WHOLE, channels=CHANNELS | {1: (TOPIC, IMAGE, 'cdr', 'unheard of')}),
        Mcap(CHANNELS, loose=[*SAID, *images(0, 1, 2, 3, 4, 5)]),
        Mcap(CHANNELS, loose=[*images(3, 2, 5), *SAID, *images(1, 0, 4)], is_finished=False),
        Mcap(CHANNELS, [images(0, 1), []], loose=[*SAID, *images(3, 4, 5, 2)]),
        Mcap(CHANNELS, [images(4, 2), [*images(5, 0), *SAID], images(3, 1)]),
        Mcap(CHANNELS, [images(*numbers) for numbers in ((4, 2), (5, 0), (3, 1))], [*SAID]),
        replace(WHOLE, channels_first=True),
        replace(WHOLE, types_in_summary=False),
        replace(WHOLE, types_in_summary=False, has_index=False),
        replace(WHOLE, statistics_tail=bytes(7)),
    ],
    ids=range(26),
)
def test_sound_files_of_mcap(file: Mcap, tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    path.write_bytes(bytes(file))
    assert times_of(path) == [0, 1, 2, 3, 4, 5]
    assert times_of(path, '/instruction') == [-1]
    with Bag(path) as bag:
        [raw, *_] = bag.messages([TOPIC])
        assert bag.decode(raw).data.tobytes() == RED.tobytes()


def test_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    texts = [str(number) for number in range(6)]
    said = [Message(2, at(0), words(text)) for text in texts]
    chunks = Mcap(CHANNELS, [said[:2], said[2:4]], is_finished=False)
    (tmp_path / 'bag.mcap').write_bytes(bytes(chunks) + b''.join(map(message, said[4:])))
    with Bag(tmp_path / 'bag.mcap') as bag:
        raws = bag.messages(['/instruction'])
        assert [bag.decode(raw).data for raw in raws] == texts


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the chunks that were unpacked."""
    sizes: list[int] = []

    def unpack(data: bytes, size: int) -> bytes:
        sizes.append(size)
        return storage.unpack(data, size)

    monkeypatch.setattr(mcap_file, 'unpack', unpack)
    return sizes


def zipped(*chunks: list[Message]) -> bytes:
    return bytes(Mcap(CHANNELS, chunks, compression='zstd', pack=zstd.compress))


def test_a_chunk_is_unpacked_once_and_not_before_its_time(
    tmp_path: Path, unpacked: list[int]
) -> None:
    """Six chunks over the same time, as of six recordings in one file; then another."""
    chunks = [*(images(number, number + 6) for number in range(6)), images(12)]
    (tmp_path / 'bag.mcap').write_bytes(zipped(*chunks))
    with Bag(tmp_path / 'bag.mcap') as bag:
        assert not unpacked
        counts = [len(unpacked) for _ in bag.messages([TOPIC])]
    assert counts == [1, 2, 3, 4, 5, *[6] * 7, 7]


def test_a_file_is_not_read_before_its_time(tmp_path: Path, unpacked: list[int]) -> None:
    bag = record_six(tmp_path / 'bag', 'mcap')
    (bag / 'bag.mcap').unlink()
    for name, *numbers in (('a.mcap', 0, 1), ('b.mcap', 4, 5), ('c.mcap', 2, 3)):
        (bag / name).write_bytes(zipped(images(*numbers)))
    metadata_of(bag, lambda one: one.update(relative_file_paths=['a.mcap', 'b.mcap', 'c.mcap']))
    with Bag(bag) as read:
        assert [len(unpacked) for _ in read.messages([TOPIC])] == [1, 1, 2, 2, 3, 3]


@shows('Recordings', 'rejected', 'chunks that overlap in time by more than 2 GiB')
def test_overlap_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcap_file, '_MAX_WAITING_BYTES', 4 * len(image(0)))
    (tmp_path / 'bag.mcap').write_bytes(zipped(images(0, 2, 4), images(1, 3, 5)))
    told = refused(tmp_path / 'bag.mcap')
    assert 'too many chunks that overlap in time; order its messages: `mcap sort' in told
    (tmp_path / 'bag.mcap').write_bytes(zipped(images(0, 1, 2), images(3, 4, 5)))
    assert times_of(tmp_path / 'bag.mcap') == [0, 1, 2, 3, 4, 5]


def test_an_unfinished_file_with_foreign_channels_is_replayed(tmp_path: Path, run: Run) -> None:
    others = [Message(channel, at(0.5), b'{}') for channel in FOREIGN]
    file = Mcap(CHANNELS | FOREIGN, [*SIX, others], profile='', has_index=False, is_finished=False)
    path = tmp_path / 'bag.mcap'
    path.write_bytes(bytes(file))
    counts = run(path, '--limit', 4)
    assert (counts['used'], counts['skipped']) == (4, {'after_limit': 2})


def test_a_foreign_topic_is_named_with_its_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'bag.mcap').write_bytes(bytes(Mcap(CHANNELS | FOREIGN, SIX)))
    arguments = [tmp_path / 'bag.mcap', 'scripted', '--output', tmp_path / 'out']
    assert replay.main([str(one) for one in (*arguments, '--image', '/proto')]) == 1
    told = capsys.readouterr().err
    assert '/proto is not a topic of images in bag' in told
    assert f'({IMAGE} in protobuf); its topics of images: {TOPIC}' in told
    (tmp_path / 'bag.mcap').write_bytes(bytes(Mcap(FOREIGN, [[Message(4, 0, b'')]])))
    assert replay.main([str(one) for one in arguments]) == 1
    told = capsys.readouterr().err
    assert f'has 0 topics of images (none); record a topic of {IMAGE} or {COMPRESSED}' in told
    assert f'/json (Pose in json), /proto ({IMAGE} in protobuf), ' in told


def test_one_file_does_not_make_up_for_another(tmp_path: Path) -> None:
    """The first lacks 2 of 3 images; the second has 3, and no statistics."""
    bag = record_six(tmp_path / 'bag', 'mcap')
    (bag / 'bag.mcap').write_bytes(bytes(Mcap(CHANNELS, [images(0)], statistics={1: 3})))
    (bag / 'second.mcap').write_bytes(bytes(Mcap(CHANNELS, [images(1, 2, 3)], statistics={})))
    metadata_of(bag, lambda one: one['relative_file_paths'].append('second.mcap'))
    with Bag(metadata_of(bag, announce(0))) as read:
        assert (read.topics[TOPIC].count, read.topics[TOPIC].missing) == (4, 2)


def test_statistics_that_announce_more(tmp_path: Path, run: Run) -> None:
    path = tmp_path / 'bag.mcap'
    path.write_bytes(bytes(replace(WHOLE, statistics={1: 8, 2: 1})))
    assert run(path)['skipped'] == {'missing': 2}


@shows('Recordings', 'rejected', 'cut off within a record; damaged; an index that does not fit')
def test_a_wrong_index_is_found_when_it_is_read(tmp_path: Path) -> None:
    """It has the right number of messages, in the wrong chunks."""
    path = tmp_path / 'bag.mcap'
    data = bytes(WHOLE)
    index = struct.pack('<QQ', at(3), 0)[:8]
    wrong = data.replace(index, struct.pack('<Q', at(3) + 1))
    path.write_bytes(wrong.replace(struct.pack('<Q', at(3) + 1), index, 3))
    told = refused(path)
    assert 'the index of chunk 1 does not fit its content; save what is whole' in told
    assert '`mcap recover bag.mcap -o recovered.mcap`' in told


def declared(size: int) -> bytes:
    """A file whose chunks say that they unpack to so many bytes."""
    file = replace(WHOLE, compression='zstd', pack=zstd.compress, has_index=False)
    position = bytes(file).index(b'zstd') - 4 - struct.calcsize('<QI')
    head = bytes(file)[:position]
    return head + struct.pack('<Q', size) + bytes(file)[position + 8 :]


def redefined(name: str, other: str) -> bytes:
    """A file whose two chunks give a number to different things."""
    file = bytes(replace(WHOLE, is_finished=False))
    begin, _, end = file.rpartition(name.encode())
    return begin + other.encode() + end


def cut(data: bytes) -> bytes:
    return data[: data.index(record(DATA_END, bytes(4))) - 30]


@shows(
    'Recordings',
    'rejected',
    'cut off within a record; damaged; an index that does not fit',
    'another file appended',
)
@pytest.mark.parametrize(
    ('content', 'told'),
    [
        (cut(bytes(replace(WHOLE, has_index=False))), 'is cut off within the record at byte'),
        (bytes(replace(WHOLE, is_finished=False)) + bytes(5000), 'begins no record; save what'),
        (bytes(WHOLE) + bytes(WHOLE), 'bytes behind its end; another file was appended?; join'),
        (bytes(Mcap({}, SIX)), '7 messages belong to no channel'),
        (redefined('/camera/image', '/camera/other'), 'channel 1 is defined twice, differently'),
        (redefined('std_msgs/msg/String', 'std_msgs/msg/Header'), 'type 2 is defined twice'),
        (bytes(replace(WHOLE, compression='zstd')), 'is damaged within its messages (Zstd'),
        (bytes(replace(WHOLE, pack=lambda data: data[:-1])), 'of the chunk at byte'),
        (declared(2**50), f'has {2**50} bytes, of at most {2**30}; save what is whole'),
        (declared(2**64 - 1), f'has {2**64 - 1} bytes, of at most {2**30}; save what is whole'),
        (MAGIC + record(CHUNK, bytes(4)), 'bag.mcap is damaged (error: unpack_from requires'),
        (MAGIC + record(MESSAGE, bytes(3)), '`mcap recover bag.mcap -o recovered.mcap`'),
    ],
    ids=range(12),
)
def test_damaged_files_of_mcap(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    path.write_bytes(content)
    assert told in refused(path)


def test_a_file_of_mcap_without_messages(tmp_path: Path) -> None:
    for content in (MAGIC, bytes(Mcap({})), bytes(Mcap({}, [[]])), bytes(Mcap(CHANNELS, [[]]))):
        (tmp_path / 'bag.mcap').write_bytes(content)
        with Bag(tmp_path / 'bag.mcap') as bag:
            assert all(topic.count == 0 for topic in bag.topics.values())


def test_a_file_that_is_cut_off_behind_its_messages_is_whole(tmp_path: Path) -> None:
    path, data = tmp_path / 'bag.mcap', bytes(WHOLE)
    for size in range(data.index(record(DATA_END, bytes(4))), len(data), 7):
        path.write_bytes(data[:size])
        with contextlib.suppress(BagError):  # within the mark of the end
            assert times_of(path) == [0, 1, 2, 3, 4, 5]


def test_any_cut_and_any_changed_byte_is_right_or_one_line(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path, data = (
        tmp_path / 'bag.mcap',
        bytes(replace(WHOLE, compression='zstd', pack=zstd.compress)),
    )
    for _ in range(300):
        changed = bytearray(data[: int(random.integers(len(data)))])
        if random.random() < 0.5:
            changed = bytearray(data)
            changed[int(random.integers(len(data)))] = int(random.integers(256))
        path.write_bytes(changed)
        with contextlib.suppress(BagError), Bag(path) as bag:
            for name, topic in bag.topics.items():
                assert len(list(bag.messages([name]))) == topic.count


# -- several types and channels on one topic -------------------------------------------------------


@shows('Recordings', 'rejected', 'other types on the topic of an input')
@pytest.mark.parametrize('encoding', ['cdr', 'json'])
def test_a_topic_with_two_types_is_rejected(
    encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = CHANNELS | {3: (TOPIC, 'sensor_msgs/msg/CameraInfo', encoding, 'ros2msg')}
    (tmp_path / 'bag.mcap').write_bytes(bytes(Mcap(both, [*SIX, images(6, channel=3)])))
    arguments = [tmp_path / 'bag.mcap', 'scripted', '--output', tmp_path / 'out']
    assert replay.main([str(one) for one in arguments]) == 1
    told = capsys.readouterr().err
    assert f'{TOPIC} in bag {tmp_path / "bag.mcap"} has messages of several types' in told
    assert 'name another topic with --image, or record one type on each topic' in told
    other = both | {3: ('/left', *both[3][1:]), 4: ('/left', STRING, 'cdr', 'ros2msg')}
    (tmp_path / 'bag.mcap').write_bytes(bytes(Mcap(other, SIX)))
    assert times_of(tmp_path / 'bag.mcap') == [0, 1, 2, 3, 4, 5]  # the types of others do not count


def test_types_without_messages_do_not_count(tmp_path: Path) -> None:
    both = CHANNELS | {3: (TOPIC, STRING, 'cdr', 'ros2msg'), 4: (TOPIC, 'Pose', 'json', '')}
    (tmp_path / 'bag.mcap').write_bytes(bytes(Mcap(both, SIX)))
    with Bag(tmp_path / 'bag.mcap') as bag:
        assert bag.topics[TOPIC].message_types == [IMAGE]


@shows('Recordings', 'read', 'raw and compressed images on one topic')
def test_raw_and_compressed_images_on_one_topic_are_read(tmp_path: Path, run: Run) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(RED).save(buffer, 'png')
    header = TYPES.deserialize_cdr(image(6), IMAGE).header
    pixels = np.frombuffer(buffer.getvalue(), np.uint8)
    data = TYPES.serialize_cdr(TYPES.types[COMPRESSED](header, 'png', pixels), COMPRESSED)
    both = CHANNELS | {3: (TOPIC, COMPRESSED, 'cdr', 'ros2msg')}
    file = Mcap(both, [*SIX, [Message(3, at(6), bytes(data))]])
    (tmp_path / 'bag.mcap').write_bytes(bytes(file))
    counts = run(tmp_path / 'bag.mcap')
    assert (counts['used'], counts['skipped']) == (7, {})


def test_a_database_with_two_types_on_a_topic(tmp_path: Path) -> None:
    bag = record_six(tmp_path / 'bag', 'sqlite3')
    with open_database(bag, 'delete') as database:
        database.execute(
            f"INSERT INTO topics SELECT 9, name, '{STRING}', serialization_format, '', '' "
            'FROM topics WHERE id = 2'
        )
        database.execute('UPDATE messages SET topic_id = 9 WHERE id > 5')
        database.commit()
    with Bag(bag) as read:
        assert read.topics[TOPIC].message_types == [IMAGE, STRING]
        types = Counter(raw.message_type for raw in read.messages([TOPIC]))
        assert types == {IMAGE: 4, STRING: 2}
        assert (read.topics[TOPIC].count, read.topics[TOPIC].missing) == (6, 0)


@shows('Recordings', 'read together', 'several channels of one topic with one type')
@pytest.mark.parametrize('is_finished', [True, False])
def test_two_channels_of_a_topic_count_together(
    is_finished: bool, tmp_path: Path, run: Run
) -> None:
    """As two publishers with different quality of service give."""
    both = CHANNELS | {3: CHANNELS[1]}
    file = Mcap(both, [*SIX, images(0.5, 1.5, channel=3)], is_finished=is_finished)
    (tmp_path / 'bag.mcap').write_bytes(bytes(file))
    assert times_of(tmp_path / 'bag.mcap') == [0, 0.5, 1, 1.5, 2, 3, 4, 5]
    counts = run(tmp_path / 'bag.mcap', '--limit', 3)
    assert (counts['used'], counts['skipped']) == (3, {'after_limit': 5})


@shows('Recordings', 'read together', 'several channels of one topic with one type')
def test_two_rows_of_a_topic_count_together(tmp_path: Path, run: Run) -> None:
    bag = record_six(tmp_path / 'bag', 'sqlite3')
    with open_database(bag, 'delete') as database:
        columns = "name, type, serialization_format, '', ''"
        database.execute(f'INSERT INTO topics SELECT 9, {columns} FROM topics WHERE id = 2')
        database.execute('UPDATE messages SET topic_id = 9 WHERE id > 5')
        database.commit()
    assert run(bag, '--limit', 3)['skipped'] == {'after_limit': 3}


def test_twists_of_two_types_on_one_topic_are_drawn(tmp_path: Path) -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for name, stamped in (('plain', False), ('stamped', True)):
        with recording(tmp_path / name, 'sqlite3') as recorder:
            recorder.twist('/cmd_vel', float(stamped), values, stamped=stamped)
    bag = tmp_path / 'plain'
    shutil.move(tmp_path / 'stamped' / 'stamped.db3', bag)
    metadata_of(bag, lambda one: one['relative_file_paths'].append('stamped.db3'))
    said: list[str] = []
    with Bag(bag) as read:
        [twists] = read_recorded(read, said.append)
    assert (twists.values, said) == ([values, values], [])


@shows('Recordings', 'reported', 'other types on a topic of the plot')
def test_messages_of_other_types_are_not_drawn(tmp_path: Path) -> None:
    twist, vector = 'geometry_msgs/msg/Twist', TYPES.types['geometry_msgs/msg/Vector3']
    message = TYPES.types[twist](vector(0.1, 0.2, 0.3), vector(0.4, 0.5, 0.6))
    channels = {
        1: ('/cmd_vel', twist, 'cdr', 'ros2msg'),
        2: ('/cmd_vel', STRING, 'cdr', 'ros2msg'),
    }
    moved = Message(1, at(0), bytes(TYPES.serialize_cdr(message, twist)))
    path = tmp_path / 'bag.mcap'
    path.write_bytes(bytes(Mcap(channels, [[moved, Message(2, at(1), words('stop'))]])))
    said: list[str] = []
    with Bag(path) as read:
        [twists] = read_recorded(read, said.append)
    assert twists.values == [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]
    assert said == ['1 messages on /cmd_vel are of other types; the plot does not show them']
