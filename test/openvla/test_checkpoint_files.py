# SPDX-License-Identifier: Apache-2.0
"""The checkpoint's files are watched: one that changes ends the policy, whoever changed it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla_ros.openvla import CheckpointError, OpenVLAPolicy, policy
from vla_ros.openvla.files import WatchedFiles
from vla_ros.types import Progress

SHARD = 'model-00001-of-00001.safetensors'
INDEX = 'model.safetensors.index.json'
READ = ('config.json', 'preprocessor_config.json', 'tokenizer.json', INDEX, SHARD)


def overwrite(path: Path) -> None:
    """As ``cp`` does: the same file, the same size."""
    with path.open('r+b') as file:
        last = file.seek(-1, os.SEEK_END)
        file.seek(last)
        file.write(b'\0')


def overwrite_and_forge_its_time(path: Path) -> None:
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path) -> None:
    with path.open('ab') as file:
        file.write(b'\0')


def replace(path: Path) -> None:
    """As ``rsync`` and ``save_pretrained`` to a temporary name do."""
    copy = path.with_suffix('.new')
    shutil.copy2(path, copy)
    copy.replace(path)


def turn_into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    'overwritten': (overwrite, 'was overwritten in place since'),
    'overwritten, with its old time': (overwrite_and_forge_its_time, 'was overwritten in place'),
    'cut short': (cut_short, r'was cut short from \d+ to \d+ bytes'),
    'emptied': (lambda path: os.truncate(path, 0), r'was cut short from \d+ to 0 bytes'),
    'longer': (append, r'was overwritten in place and grew from \d+ to \d+ bytes'),
    'replaced': (replace, 'was replaced by another file'),
    # The folder may get the file's inode.
    'replaced by a folder': (turn_into_a_folder, 'was '),
    'deleted': (lambda path: path.unlink(), 'was deleted'),
}


def refuses(watched: WatchedFiles, path: Path, what: str) -> None:
    with pytest.raises(CheckpointError, match=f'{path.name} {what}.*new folder.*configure again'):
        watched.check()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / SHARD
    path.write_bytes(bytes(range(1, 200)))
    return path


@pytest.mark.parametrize('change', CHANGES)
def test_every_change_is_told(change: str, file: Path) -> None:
    watched = WatchedFiles()
    watched.remember(file)
    watched.check()
    act, what = CHANGES[change]
    act(file)
    refuses(watched, file, what)


@pytest.mark.parametrize('change', CHANGES)
def test_every_change_is_seen_through_links(change: str, file: Path, tmp_path: Path) -> None:
    """As in the hub's cache: the links stay, what they lead to changes."""
    folder = tmp_path / 'snapshot'
    folder.symlink_to(tmp_path / 'real')
    (tmp_path / 'real').mkdir()
    link = folder / 'link.safetensors'
    link.symlink_to(file)
    watched = WatchedFiles()
    watched.remember(link)
    act, what = CHANGES[change]
    act(file)
    refuses(watched, link, what)


def test_a_link_that_leads_elsewhere(file: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy2(file, tmp_path / 'other'))
    link = tmp_path / 'link.safetensors'
    link.symlink_to(file)
    watched = WatchedFiles()
    watched.remember(link)
    link.unlink()
    link.symlink_to(other)
    refuses(watched, link, 'was replaced by another file')


def test_the_first_opening_counts(file: Path) -> None:
    watched = WatchedFiles()
    watched.remember(file)
    append(file)
    watched.remember(file)
    refuses(watched, file, 'was overwritten')


def test_reading_and_what_lies_beside_it_change_nothing(file: Path) -> None:
    watched = WatchedFiles()
    watched.remember(file)
    file.read_bytes()
    file.with_name('trainer_state.json').write_text('{}')
    watched.check()


@pytest.mark.parametrize('name', [*READ, 'dataset_statistics.json'])
def test_a_policy_knows_every_file_that_it_read(name: str, folder: Path) -> None:
    statistics = '{"random": {"action": {"q01": [0], "q99": [1]}}}'
    (folder / 'dataset_statistics.json').write_text(statistics)
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu')
    policy.check_files()
    append(folder / name)
    with pytest.raises(CheckpointError, match=f'{name} was overwritten in place'):
        policy.check_files()


def test_a_policy_of_a_single_file_knows_it(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / SHARD).rename(folder / 'model.safetensors')
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu')
    overwrite(folder / 'model.safetensors')
    with pytest.raises(CheckpointError, match=r'model\.safetensors was overwritten in place'):
        policy.check_files()


def test_inferences_and_stray_files_are_no_change(folder: Path) -> None:
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu')
    (folder / 'README.md').write_text('new')
    policy.predict_action(np.zeros((8, 8, 3), np.uint8), 'go')
    policy.check_files()


@pytest.mark.parametrize('name', READ)
def test_a_file_that_changes_while_it_is_loaded(name: str, folder: Path) -> None:
    """The last progress comes when all are read: parts of two checkpoints would be one policy."""

    def change(progress: Progress) -> None:
        if progress.done == progress.total:
            replace(folder / name)

    with pytest.raises(CheckpointError, match=f'{name} was replaced'):
        OpenVLAPolicy.from_pretrained(folder, device='cpu', progress=change)


def test_a_file_that_changes_between_two_of_its_readings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is read first, the tensors later."""
    load = policy.load

    def change_first(*arguments: object) -> object:
        replace(folder / SHARD)
        return load(*arguments)

    monkeypatch.setattr(policy, 'load', change_first)
    with pytest.raises(CheckpointError, match=f'{SHARD} was replaced'):
        OpenVLAPolicy.from_pretrained(folder, device='cpu')
