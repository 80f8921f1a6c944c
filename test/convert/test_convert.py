# SPDX-License-Identifier: Apache-2.0
"""vla_convert: what it writes, what it asks for, and what it leaves after a failure."""

from __future__ import annotations

import errno
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
import torch
from safetensors.torch import load_file, save_file

from support.checkpoints import edit_json, refused_unread
from support.commands import running_python
from support.doctor_setups import about
from support.places import ROOT
from support.trainings import HEAD, PROJECTOR, l1_head, noise, norm, projector
from vla_ros.cli.convert import main
from vla_ros.convert import reading, run, writing
from vla_ros.doctor.checkpoint import check_checkpoint
from vla_ros.doctor.findings import Level
from vla_ros.openvla import CheckpointError, OpenVLAPolicy
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.layout import Layout, read_layout
from vla_ros.openvla.plain import check_folder

LIBERO = ('--preset', 'libero')
STATISTICS = 'dataset_statistics.json'


def content(folder: Path) -> dict[str, torch.Tensor]:
    files = [load_file(file) for file in Checkpoint(folder).files]
    return {name: tensor for file in files for name, tensor in file.items()}


def refused(capsys: Any, folder: Path, *options: str, name: str = 'out') -> str:
    """The one line of an error; nothing is left beside the folder."""
    before = sorted(folder.parent.iterdir())
    assert main([str(folder), str(folder.parent / name), *options]) == 1
    told = capsys.readouterr()
    errors = [
        line
        for line in told.err.splitlines()
        if not line.endswith((f' writing {folder.parent / name}', f' reading {folder}'))
    ]
    assert told.out == '' and len(errors) == 1, told.err
    assert sorted(folder.parent.iterdir()) == before
    return str(errors[0])


def test_a_folder_of_oft(oft_tiny: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert main([str(oft_tiny), str(out), *LIBERO]) == 0
    assert read_layout(out) == Layout(
        action_head='l1',
        horizon=8,
        action_dim=7,
        cameras=('image', 'wrist_image'),
        state_dim=8,
        normalization='q01_q99',
        film=False,
        prompt='openvla',
    )
    found, expected = content(out), content(tiny_checkpoint)
    expected |= {
        name.replace('module.model', 'action_head'): one for name, one in l1_head().items()
    }
    expected |= {
        name.replace('module', 'state_projector'): one for name, one in projector().items()
    }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name in ('config.json', 'tokenizer.json', 'dataset_statistics.json'):
        assert (out / name).read_bytes() == (oft_tiny / name).read_bytes()
    assert not [path for path in out.iterdir() if path.suffix == '.pt']
    assert (out.stat().st_mode & 0o777) == (oft_tiny.stat().st_mode & 0o777)
    check_folder(out)  # its names are those of a checkpoint
    assert sorted(tmp_path.iterdir()) == [oft_tiny, out]


def test_every_part_of_the_layout_can_be_said(oft_tiny: Path, tmp_path: Path) -> None:
    options = ['--cameras', 'front, left', '--horizon', '5', '--normalization', 'min_max']
    assert main([str(oft_tiny), str(tmp_path / 'a'), *options, '--no-state']) == 0
    layout = read_layout(tmp_path / 'a')
    assert layout is not None
    assert (layout.cameras, layout.horizon, layout.state_dim) == (('front', 'left'), 5, 0)
    assert layout.normalization == 'min_max'
    assert not [name for name in content(tmp_path / 'a') if name.startswith('state_projector')]
    assert main([str(oft_tiny), str(tmp_path / 'b'), *LIBERO, '--tokens', '--horizon', '3']) == 0
    layout = read_layout(tmp_path / 'b')
    assert layout is not None
    assert (layout.action_head, layout.action_dim, layout.horizon) == ('tokens', 7, 3)
    assert not [name for name in content(tmp_path / 'b') if name.startswith('action_head')]


def rewrite(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        tensors = torch.load(folder / name, weights_only=True)
        change(tensors)
        torch.save(tensors, folder / name)

    return do


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def copy(name: str, other: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder / name, folder / other)


def as_minivla(folder: Path) -> None:
    (folder / 'checkpoints').mkdir()
    base = 'prism-qwen25-dinosiglip-224px+0_5b'
    vla = {'base_vlm': base, 'action_tokenizer': 'action_tokenizer'}
    (folder / 'config.json').write_text(json.dumps({'vla': vla}))


NAN = torch.full((7,), torch.nan)
LONE = 'module.model.mlp_resnet_blocks.0.ffn.1.weight'
MISTAKES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], list[str]]] = {
    'nothing said': (lambda f: None, (), ['--horizon', '--cameras', '--normalization', '--preset']),
    'no cameras': (lambda f: None, ('--preset', 'bridge'), ['add --cameras']),
    'cameras twice': (lambda f: None, ('--cameras', 'a,a', '--horizon', '3'), ['--cameras']),
    'a camera without a name': (lambda f: None, (*LIBERO, '--cameras', 'a, '), ['--cameras']),
    'a camera that is no topic': (lambda f: None, (*LIBERO, '--cameras', 'a b'), ['--cameras']),
    'four cameras': (lambda f: None, (*LIBERO, '--cameras', 'a,b,c,d'), ['cameras', '1 to 3']),
    'another preset': (lambda f: None, ('--preset', 'aloha'), ['14 values', 'has 7']),
    'a state of another size': (
        rewrite(PROJECTOR, lambda t: t.update({'module.fc1.weight': torch.ones(64, 9)})),
        LIBERO,
        ['state of 8 values', 'has 9', '--no-state'],
    ),
    'no projector': (drop(PROJECTOR), LIBERO, ['no file of proprio_projector', '--no-state']),
    'no head': (drop(HEAD), LIBERO, ['no file of action_head', '--tokens']),
    'no statistics': (drop(STATISTICS), LIBERO, [STATISTICS]),
    'no bounds of this kind': (
        lambda f: edit_json(
            f / 'dataset_statistics.json', lambda c: c['libero']['proprio'].clear()
        ),
        LIBERO,
        ['oft/dataset_statistics.json', 'libero', 'q01'],
    ),
    'two heads': (copy(HEAD, 'action_head--2_checkpoint.pt'), LIBERO, ['2 files', HEAD]),
    'diffusion': (copy(HEAD, 'noisy_action_projector--1_checkpoint.pt'), LIBERO, ['diffusion']),
    'an unknown part': (copy(HEAD, 'state_encoder--1_checkpoint.pt'), LIBERO, ['state_encoder']),
    'an unknown head': (rewrite(HEAD, lambda t: t.pop(LONE)), LIBERO, ['unknown kind of head']),
    'a head of no linear layers': (
        rewrite(HEAD, lambda t: t.update({'module.model.fc2.weight': torch.ones(7)})),
        LIBERO,
        ['fc2.weight'],
    ),
    'one name twice': (
        rewrite(PROJECTOR, lambda t: t.update({'fc1.bias': torch.ones(64)})),
        LIBERO,
        [PROJECTOR, 'fc1.bias twice'],
    ),
    'a value that is NaN': (
        rewrite(HEAD, lambda t: t.update({'module.model.fc2.bias': NAN})),
        LIBERO,
        [HEAD, 'NaN'],
    ),
    'weights of float64': (
        rewrite(HEAD, lambda t: t.update({'module.model.fc2.bias': NAN.double()})),
        LIBERO,
        [HEAD, 'DoubleStorage'],
    ),
    'FiLM of other towers': (
        lambda f: torch.save(noise(*norm('x', 3)), f / 'vision_backbone--1_checkpoint.pt'),
        LIBERO,
        ['vision_backbone--1', 'other towers'],
    ),
    'no weights': (drop('model.safetensors.index.json'), LIBERO, ['has no weights']),
    'MiniVLA with options of others': (as_minivla, LIBERO, ['MiniVLA', '--language-model']),
    'a language model': (lambda f: None, (*LIBERO, '--language-model', '.'), ['no run folder of']),
    'a base without an adapter': (lambda f: None, (*LIBERO, '--base', '/tmp'), ['no adapter']),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_what_is_missing_or_contradicts_is_an_error(name: str, oft_tiny: Path, capsys: Any) -> None:
    change, options, words = MISTAKES[name]
    change(oft_tiny)
    told = refused(capsys, oft_tiny, *options)
    assert not [word for word in words if word not in told], told


def test_nothing_is_written_over(oft_tiny: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'link').symlink_to('nowhere')
    assert 'exists' in refused(capsys, oft_tiny, *LIBERO)
    assert 'exists' in refused(capsys, oft_tiny, *LIBERO, name='link')
    assert 'exists' in refused(capsys, oft_tiny, *LIBERO, name='oft')
    assert 'is not a folder' in refused(capsys, oft_tiny, *LIBERO, name='no/out')
    assert 'is not a folder' in refused(capsys, tmp_path / 'openvla', *LIBERO, name='new')
    converted = ROOT / 'test/golden/vla_adapter_pro_tiny'
    assert 'is converted already' in refused(capsys, converted, *LIBERO, name='new')


def test_policy_and_doctor_say_the_command(
    oft_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f'vla_convert {oft_tiny} {oft_tiny}-converted'
    text, found = refused_unread(oft_tiny, [f'{command} --preset libero|'], monkeypatch)
    assert command in text and command in found.advice
    assert main([str(oft_tiny), f'{oft_tiny}-converted', *LIBERO]) == 0
    (finding,) = check_checkpoint(about(Path(f'{oft_tiny}-converted')))
    assert finding.level is Level.OK, finding


def test_plain_openvla_needs_no_conversion(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / 'tiny')
    assert 'needs no conversion' in refused(capsys, folder)


def test_a_full_disk_is_one_line(
    oft_tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(oft_tiny)
    monkeypatch.setattr(run.shutil, 'disk_usage', lambda path: usage._replace(free=1_000_000))
    assert 'GB are free' in refused(capsys, oft_tiny, *LIBERO)
    monkeypatch.undo()

    def fill(directory: Path, weights: Any) -> None:
        (directory / 'model-1.safetensors').write_bytes(b'x')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(run, 'write_weights', fill)
    assert main([str(oft_tiny), str(oft_tiny.parent / 'out'), *LIBERO]) == 1
    assert capsys.readouterr().err.endswith('cannot be written (No space left on device)\n')
    assert [*oft_tiny.parent.iterdir()] == [oft_tiny]
    # The process that reads pickles reports it as well.
    with pytest.raises(OSError, match='No such file') as caught:
        reading.tensors_to_safetensors(oft_tiny / HEAD, oft_tiny / 'no' / 'folder')
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_that_looks_finished(
    number: signal.Signals, oft_tiny: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / 'go')
    # The command waits in the middle: its weights are written, its index is not.
    script = f"""
import sys
from vla_ros.cli.convert import main
from vla_ros.convert import run
write = run.write_weights
def slowly(*arguments):
    write(*arguments)
    open({str(tmp_path / 'go')!r}, 'w').close()
    import time
    time.sleep(600)
run.write_weights = slowly
sys.exit(main({[str(oft_tiny), str(tmp_path / 'out'), *LIBERO]!r}))
"""
    with running_python('-c', script, stderr=subprocess.DEVNULL) as process:
        (tmp_path / 'go').read_bytes()  # it is there
        process.send_signal(number)
        code = process.wait(timeout=60)
    left = [path for path in tmp_path.iterdir() if path.name.startswith('out')]
    if number == signal.SIGTERM:
        assert (code, left) == (130, [])
        return
    [partial] = left
    assert partial.name.startswith('out.partial-')
    with pytest.raises(CheckpointError):
        OpenVLAPolicy.from_pretrained(partial, device='cpu')


def test_a_written_file_is_what_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        'b': torch.ones(3, dtype=torch.bfloat16),
        'a': torch.arange(6.0).reshape(2, 3),
        'c': torch.tensor(1.5, dtype=torch.float16),
    }
    names = {torch.bfloat16: 'BF16', torch.float32: 'F32', torch.float16: 'F16'}
    entries = writing.in_order(
        writing.Entry(name, names[one.dtype], tuple(one.shape)) for name, one in tensors.items()
    )
    pieces = (
        tensors[entry.name].reshape(-1).view(torch.uint8).numpy().tobytes() for entry in entries
    )
    writing.write_safetensors(tmp_path / 'ours', entries, pieces)
    save_file(tensors, tmp_path / 'theirs', metadata={'format': 'pt'})
    ours, theirs = load_file(tmp_path / 'ours'), load_file(tmp_path / 'theirs')
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(FileExistsError):
        writing.write_safetensors(tmp_path / 'ours', [], iter(()))
    with pytest.raises(ValueError, match='1 bytes of 0'):
        writing.write_safetensors(tmp_path / 'more', [], iter([b'x']))


def test_memory_is_bounded(tmp_path: Path) -> None:
    """256 MB are copied by a process that needs a small part of it beside torch itself."""
    script = f"""
import dataclasses, torch
from pathlib import Path
from vla_ros.convert.weights import Weight, opened_weights, write_weights
folder = Path({str(tmp_path)!r})
make = lambda: torch.ones(16_000_000, dtype=torch.bfloat16)
facts = (torch.bfloat16, (16_000_000,), 'a', make)
weights = {{name: Weight(name, *facts) for name in map(str, range(8))}}
write_weights(folder, weights)
def rss():
    line = [l for l in open('/proc/self/status') if l.startswith('VmHWM')][0]
    return int(line.split()[1]) / 1024
Path('/proc/self/clear_refs').write_text('5')
before = rss()
there = opened_weights(folder / 'a')
write_weights(folder, {{name: dataclasses.replace(one, file='b') for name, one in there.items()}})
print(rss() - before)
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 120  # MB, of 256
