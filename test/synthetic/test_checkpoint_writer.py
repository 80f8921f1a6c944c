# SPDX-License-Identifier: Apache-2.0
"""What writes checkpoints replaces its own files, and nobody else's."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.checkpoints import INDEX, SHARD
from support.places import ROOT
from vla_ros.cli import checkpoint as cli
from vla_ros.openvla import CheckpointError, OpenVLAPolicy
from vla_ros.synthetic import own_folder
from vla_ros.synthetic.own_folder import MARKER, OwnFolder
from vla_ros.synthetic.random_checkpoint import write_random_checkpoint


def contents(folder: Path) -> dict[str, bytes | str]:
    """Of all that lies in it, at any depth; of a link where it leads."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob('*')
        if path.is_symlink() or path.is_file()
    }


def refuses(target: Path, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """And leaves everything beside it as it was."""
    before = contents(target.parent)
    assert cli.main([str(target)]) == 1
    text = capsys.readouterr().err
    assert text.startswith('vla_checkpoint: ') and str(target) in text
    assert not [word for word in words if word not in text], text
    assert contents(target.parent) == before


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / 'own')


def put_beside(folder: Path) -> str:
    (folder / 'README.md').write_text('mine')
    return 'README.md'


def put_into_a_folder(folder: Path) -> str:
    (folder / 'old').mkdir()
    return 'old'


def copy_a_real_one_over(folder: Path) -> str:
    """The same names and sizes, with the dates that they have elsewhere."""
    for file in folder.iterdir():
        if file.name != MARKER:
            os.utime(file, ns=(0, 10**18))
    return SHARD


def change_statistics(folder: Path) -> str:
    (folder / 'config.json').write_text('{}')
    return 'config.json'


def link_a_file(folder: Path) -> str:
    (folder / SHARD).rename(folder.parent / 'real')
    (folder / SHARD).symlink_to(folder.parent / 'real')
    return SHARD


def lose_the_marker(folder: Path) -> str:
    (folder / MARKER).unlink()
    return SHARD


def link_the_marker(folder: Path) -> str:
    (folder / MARKER).rename(folder.parent / 'marker')
    (folder / MARKER).symlink_to(folder.parent / 'marker')
    return MARKER


def write_marker(content: str) -> Callable[[Path], str]:
    def change(folder: Path) -> str:
        (folder / MARKER).write_text(content)
        return MARKER

    return change


def train_there(folder: Path) -> str:
    shutil.rmtree(folder)
    write_with('training/train.py', folder)
    return "'training/train.py' wrote its files"


def write_with(writer: str, folder: Path, *names: str) -> OwnFolder:
    own = OwnFolder(folder, writer)
    for name in names or ('a',):
        own.write(name, lambda path: path.write_text('content'))
    return own


FOREIGN: dict[str, Callable[[Path], str]] = {
    'a file beside': put_beside,
    'a folder beside': put_into_a_folder,
    'a real checkpoint over it': copy_a_real_one_over,
    'another config.json': change_statistics,
    'a file behind a link': link_a_file,
    'no marker': lose_the_marker,
    'a marker behind a link': link_the_marker,
    'a marker that is no JSON': write_marker('{'),
    'a marker that is a list': write_marker('[]'),
    'a marker without files': write_marker('{"writer": "vla_checkpoint"}'),
    'a marker of other types': write_marker('{"writer": 1, "writing": [], "files": {"a": 3}}'),
    'a nested marker': write_marker('[' * 100_000),
    'a marker of a megabyte': write_marker(' ' * 1_000_001),
    "another writer's": train_there,
}


@pytest.mark.parametrize('kind', FOREIGN)
def test_what_it_did_not_write_is_not_replaced(
    kind: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = FOREIGN[kind](own)
    refuses(own, capsys, 'replaces only its own files', name, 'name a new folder')


def test_a_real_checkpoint_is_not_replaced(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'real'))
    (folder / MARKER).unlink()
    refuses(folder, capsys, 'it did not write', 'config.json')


def test_a_snapshot_of_the_hub_is_not_written_through(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if the marker was downloaded with it."""
    blobs, snapshot = tmp_path / 'blobs', tmp_path / 'snapshots' / 'commit'
    shutil.copytree(tiny_checkpoint, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    before = contents(blobs)
    refuses(snapshot, capsys)
    (snapshot / MARKER).unlink()
    shutil.copy2(blobs / MARKER, snapshot / MARKER)
    refuses(snapshot, capsys, 'config.json', SHARD)
    assert contents(blobs) == before


def test_a_folder_behind_a_link(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = own.with_name('link')
    link.symlink_to(own)
    refuses(link, capsys, 'is a link to', str(own))
    link.unlink()
    link.symlink_to('/nowhere')
    refuses(link, capsys, 'is a link to', '/nowhere')


@pytest.mark.parametrize('make', [Path.touch, os.mkfifo])
def test_what_is_no_folder(
    make: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / 'file')
    assert cli.main([str(tmp_path / 'file')]) == 1
    assert 'is not a folder' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['openvla/openvla-7b', 'a//b/', 'a/./b', 'x/../a/b', 'runs/new'])
def test_a_name_that_would_shadow_a_model_on_the_hub(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([name]) == 1
    text = capsys.readouterr().err
    plain = os.path.normpath(name)
    assert f'{plain} has the form of a hub id' in text and f'write ./{plain} to mean' in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['./openvla/openvla-7b', 'plain', 'a/b/c', '../other/one'])
def test_a_name_that_means_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert cli.main([name]) == 0
    assert cli.main([str(Path(name))]) == 0  # it is there now
    assert (Path(name) / INDEX).is_file()


def test_a_folder_of_its_own_is_replaced(own: Path) -> None:
    first = (own / SHARD).read_bytes()
    assert cli.main([str(own), '--seed', '1']) == 0
    assert (own / SHARD).read_bytes() != first
    OpenVLAPolicy.from_pretrained(own, device='cpu')
    (own / INDEX).unlink()  # what is missing is nobody's
    assert cli.main([str(own)]) == 0
    assert (own / SHARD).read_bytes() == first


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert cli.main([str(tmp_path)]) == 0


def test_a_folder_of_another_shape_leaves_nothing_behind(own: Path) -> None:
    write_with('vla_checkpoint', own, 'b')
    assert {path.name for path in own.iterdir()} == {'b', MARKER}


class Killed(BaseException):
    """Nothing catches it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die before a change of the folder, counted from 1."""
    changes: list[str] = []  # so far

    def dying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            changes.append(name)
            if len(changes) == step:
                raise Killed
            return function(*arguments, **options)

        return change

    for name in ('rename', 'replace', 'unlink', 'write_text'):
        monkeypatch.setattr(Path, name, dying(name, getattr(Path, name)))
    monkeypatch.setattr(own_folder, '_write_new', dying('marker', own_folder._write_new))


@pytest.mark.parametrize('anew', [True, False])
def test_an_interrupted_write_is_its_own_and_can_not_be_loaded(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_random_checkpoint(tmp_path / 'whole')
    for step in itertools.count(1):
        folder = tmp_path / str(step)
        if not anew:
            shutil.copytree(whole, folder)
        with monkeypatch.context() as killing:
            kill_at(step, killing)
            try:
                write_random_checkpoint(folder, seed=1)
                break
            except Killed:
                pass
        if folder.exists() and not (folder / INDEX).exists():
            with pytest.raises(CheckpointError):
                OpenVLAPolicy.from_pretrained(folder, device='cpu')
        write_with('vla_checkpoint', folder, 'b')
        assert {path.name for path in folder.iterdir()} == {'b', MARKER}
    assert step > 20


KILLED = """
import os, signal, sys
from pathlib import Path
from vla_ros.synthetic import checkpoint_writer
from vla_ros.synthetic.random_checkpoint import write_random_checkpoint


def half_of_it(tensors, path, metadata):
    path.write_bytes(bytes(1_000_000))
    os.kill(os.getpid(), signal.SIGKILL)


checkpoint_writer.save_file = half_of_it
write_random_checkpoint(Path(sys.argv[1]), seed=1)
"""


def test_a_write_that_was_killed(own: Path) -> None:
    command = [sys.executable, '-c', KILLED, str(own)]
    assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == -signal.SIGKILL
    assert (own / f'{SHARD}.partial').is_file()
    with pytest.raises(CheckpointError, match='has no weights'):
        OpenVLAPolicy.from_pretrained(own, device='cpu')
    assert cli.main([str(own)]) == 0
    OpenVLAPolicy.from_pretrained(own, device='cpu')


def test_a_file_that_is_being_written_by_somebody_else(tmp_path: Path) -> None:
    own = write_with('vla_checkpoint', tmp_path / 'own', 'a')
    for name in ('b', 'c.partial'):
        (tmp_path / 'own' / name).write_text('of another')
    for name in ('b', 'c'):
        with pytest.raises(CheckpointError, match='written by another process'):
            own.write(name, lambda path: path.write_text('content'))
    assert (tmp_path / 'own' / 'b').read_text() == 'of another'


def test_the_marker_says_who_wrote_what(own: Path) -> None:
    marker = json.loads((own / MARKER).read_text())
    assert marker['writer'] == 'vla_checkpoint'
    assert sorted([*marker['files'], MARKER]) == sorted(path.name for path in own.iterdir())
