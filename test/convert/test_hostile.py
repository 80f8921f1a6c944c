# SPDX-License-Identifier: Apache-2.0
"""Hostile ``.pt`` files: each is rejected in one line, and nothing in it is executed."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from vla_ros.cli.convert import main
from vla_ros.convert.archive import Archive, opened
from vla_ros.convert.errors import ConvertError
from vla_ros.convert.pickles import stored_tensors

TENSORS = {'module.fc1.weight': torch.arange(12.0).reshape(3, 4), 'module.fc1.bias': torch.ones(3)}


def saved(content: Any = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS if content is None else content, buffer, **options)
    return buffer.getvalue()


def records(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(
    own: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b'', **more: bytes
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', method) as archive:
        for name, content in {**own, **more}.items():
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def with_pickle(content: bytes) -> bytes:
    """A sound archive with another pickle."""
    return packed({**records(saved()), 'archive/data.pkl': content})


def changed(**files: bytes | None) -> bytes:
    """A sound archive with records replaced, added or, if None, removed."""
    own = records(saved())
    for name, content in files.items():
        path = f'archive/{name}'
        if content is None:
            del own[path]
        else:
            own[path] = content
    return packed(own)


class Bomb:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HEAD_NAME = 'action_head--1_checkpoint.pt'
MARKER = '/tmp/vla_ros_hostile_marker'
CALLS = {
    'os.system': Bomb(os.system, f'touch {MARKER}'),
    'eval': Bomb(eval, f'open({MARKER!r}, "w")'),
    'exec': Bomb(exec, f'open({MARKER!r}, "w")'),
    'open': Bomb(open, MARKER, 'w'),
    'getattr': Bomb(getattr, 'x', 'upper'),
    'torch.load': Bomb(torch.load, MARKER),
    'shutil.copy': Bomb(shutil.copy, '/etc/hostname', MARKER),
    'a list of OrderedDict': Bomb(OrderedDict, [('a', torch.ones(1))]),
    'bytearray': Bomb(bytearray, 1 << 40),
    'os.mkfifo': Bomb(os.mkfifo, MARKER),
}
HEAD = b'\x80\x02'
STORAGE = b'(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x0ctQ'
REBUILD = b'ctorch._utils\n_rebuild_tensor_v2\n'
NINE = b'(' + b'K\x01' * 9 + b't'
HOOKS = b'ccollections\nOrderedDict\n)R'


def tensor(
    storage: bytes = STORAGE,
    offset: bytes = b'K\0',
    shape: bytes = b'K\x03K\x04\x86',
    strides: bytes = b'K\x04K\x01\x86',
    hooks: bytes = HOOKS,
    function: bytes = REBUILD,
) -> bytes:
    """A pickle with one tensor, part by part."""
    parts = (function, b'(', storage, offset, shape, strides, b'\x89', hooks, b'tR')
    return HEAD + b'}X\x01\0\0\0a' + b''.join(parts) + b's.'


def attributed(
    class_: bytes = b'ctorch\nTensor\n',
    function: bytes = REBUILD,
    arguments: bytes | None = None,
    state: bytes = b'}',
) -> bytes:
    """The text of a pickle with one tensor that carries attributes, part by part."""
    parts = (b'(', STORAGE, b'K\0', b'K\x03K\x04\x86', b'K\x04K\x01\x86', b'\x89', HOOKS, b't')
    own = b''.join(parts) if arguments is None else arguments
    call = b'ctorch._tensor\n_rebuild_from_type_v2\n(' + function + class_ + own + state
    return b'}X\x01\0\0\0a' + call + b'tRs.'


PICKLES: dict[str, bytes] = {
    'empty': b'',
    'no instruction': HEAD,
    'without a stop': HEAD + b'}',
    'not a pickle': b'hello, world',
    'two results': HEAD + b'}}.',
    'more behind the stop': HEAD + b'}.}.',
    'protocol 0': pickle.dumps({'a': 1}, 0),
    'protocol 1': pickle.dumps({'a': 1}, 1),
    'protocol 3': pickle.dumps({'a': 1}, 3),
    'protocol 4, frames': pickle.dumps({'a': 1}, 4),
    'protocol 5': pickle.dumps({'a': 1}, 5),
    'protocol 2 in the middle': HEAD + b'}\x80\x05.',
    'a list': HEAD + b'].',
    'a number': HEAD + b'K\x01.',
    'an empty dict': HEAD + b'}.',
    'a number in a dict': HEAD + b'}X\x01\0\0\0aK\x01s.',
    'a mark as the result': HEAD + b'(.',
    'a stack that is empty': HEAD + b'R.',
    'items without a mark': HEAD + b'u.',
    'a tuple without a mark': HEAD + b't.',
    'an odd number of items': HEAD + b'}(K\x01u.',
    'items of a tuple': HEAD + b')(X\x01\0\0\0aK\x01u.',
    'a key that is a tuple': HEAD + b'})K\x01s.',
    'a key twice': HEAD + b'}(X\x01\0\0\0aK\x01X\x01\0\0\0aK\x01u.',
    'a memo that is empty': HEAD + b'h\0.',
    'a memo of nothing': HEAD + b'q\0.',
    'a memo of a mark': HEAD + b'(q\0.',
    'a text of 4 GB': HEAD + b'X\xff\xff\xff\xffa.',
    'a text of 2 kB': HEAD + b'X\0\x08\0\0' + b'a' * 2048 + b'.',
    'a text that is not UTF-8': HEAD + b'X\x01\0\0\0\xff.',
    'a number of 2 GB': HEAD + b'\x8b\xff\xff\xff\x7f1.',  # LONG4
    'a number of 9 bytes': HEAD + b'\x8a\x09' + b'\xff' * 9 + b'.',
    'a number in text': HEAD + b'I' + b'9' * 10000 + b'\n.',  # INT
    'a global without an end': HEAD + b'cos',
    'a global of many bytes': HEAD + b'c' + b'a' * 100_000 + b'\nx\n.',
    'a global by STACK_GLOBAL': HEAD + b'X\x02\0\0\0osX\x06\0\0\0system\x93.',
    'an instance by INST': HEAD + b'(ios\nsystem\n.',
    'an instance by OBJ': HEAD + b'(cos\nsystem\nX\x02\0\0\0lso.',
    'an instance by NEWOBJ': HEAD + b'ccollections\nOrderedDict\n)\x81.',
    'an extension': HEAD + b'\x82\x01.',
    'a persistent id in text': HEAD + b'Pstorage\n.',
    'a global that looks alike': HEAD + b'ctorch._utils\n_rebuild_tensor_v2\x00\n.',
    'a nested global': HEAD + b'ctorch\nFloatStorage.__class__\n.',
    'another storage': tensor(STORAGE.replace(b'FloatStorage', b'LongStorage')),
    'an untyped storage': tensor(STORAGE.replace(b'FloatStorage', b'UntypedStorage')),
    'a parameter': tensor(function=b'ctorch._utils\n_rebuild_parameter\n'),
    'a tensor with attributes': tensor(function=b'ctorch._tensor\n_rebuild_from_type_v2\n'),
    'a quantised tensor': tensor(function=b'ctorch._utils\n_rebuild_qtensor\n'),
    'the dict called with a storage': tensor(function=b'ccollections\nOrderedDict\n'),
    'a storage that is called': tensor(function=b'ctorch\nFloatStorage\n'),
    'a call of a tuple': HEAD + b'))R.',
    'a call of a name': HEAD + b'X\x02\0\0\0os)R.',
    'a call without arguments': HEAD + REBUILD + b')R.',
    'hooks': tensor(hooks=b'}X\x01\0\0\0aK\x01s'),
    'hooks that are a tensor': tensor(hooks=b'K\x01'),
    'attributes of a dict': HEAD + b'}}X\x01\0\0\0aK\x01sb.',
    'attributes of a tuple': HEAD + b')}b.',
    'a storage that is missing': tensor(STORAGE.replace(b'\x000X', b'\x009X')),
    'a storage outside': tensor(STORAGE.replace(b'X\x01\0\0\x000', b'X\x04\0\0\0../0')),
    'a storage that is a number': tensor(STORAGE.replace(b'X\x01\0\0\x000', b'K\0')),
    'a storage of more values': tensor(STORAGE.replace(b'K\x0ct', b'K\x0dt')),
    'a storage of fewer values': tensor(STORAGE.replace(b'K\x0ct', b'K\x01t')),
    'a storage of negative size': tensor(STORAGE.replace(b'K\x0ct', b'J\xff\xff\xff\xfft')),
    'a storage of true values': tensor(STORAGE.replace(b'K\x0ct', b'\x88t')),
    'a storage of another word': tensor(STORAGE.replace(b'storage', b'Storage')),
    'a storage that is a tuple': tensor(b')Q'),
    'a view of a storage': tensor(STORAGE.replace(b'K\x0ct', b'K\x0cNt')),
    'an offset beyond': tensor(offset=b'K\x01'),
    'an offset below': tensor(offset=b'J\xff\xff\xff\xff'),
    'a huge offset': tensor(offset=b'\x8a\x08' + b'\xff' * 7 + b'\x7f'),
    'a huge shape': tensor(shape=b'J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86'),
    'a negative shape': tensor(shape=b'J\xfd\xff\xff\xffJ\xfc\xff\xff\xff\x86'),
    'a shape of true values': tensor(shape=b'\x88\x88\x86'),
    'an empty shape of a large one': tensor(shape=b'K\0K\x04\x86'),
    'strides of zero': tensor(strides=b'K\0K\0\x86'),
    'huge strides': tensor(strides=b'J\xff\xff\xff\x7fK\x01\x86'),
    'negative strides': tensor(strides=b'J\xfc\xff\xff\xffK\x01\x86'),
    'strides of a transposed tensor': tensor(strides=b'K\x01K\x03\x86'),
    'fewer strides': tensor(strides=b'K\x01\x85'),
    'a shape of nine axes': tensor(shape=NINE, strides=NINE),
    'tensors that share bytes': tensor()[:-1] + tensor()[3:-1].replace(b'a', b'b', 1) + b'.',
    'a million marks': HEAD + b'(' * 1_100_000 + b'.',
    'nested a million times': HEAD + b')' + b'\x85' * 1_100_000 + b'.',
    'doubled again and again': HEAD + b')' + b'q\0h\0\x86' * 100_000 + b'.',
    'a dict in itself': HEAD + b'}q\0X\x01\0\0\0ah\0s.',
    'a list in itself': HEAD + b']q\0h\0a.',
    'an item appended to a dict': HEAD + b'}K\x01a.',
    'items appended to a tuple': HEAD + b')(K\x01e.',
    'a number that is cut': HEAD + b'G\0\0.',
    'attributes of another class': HEAD + attributed(b'cbuiltins\nlist\n'),
    'attributes by another function': HEAD + attributed(function=HOOKS[:-2]),
    'attributes of no tensor': HEAD + attributed(arguments=b'K\x01'),
    'attributes alone': HEAD + attributed(state=b''),
    **{f'a call of {name}': pickle.dumps({'a': bomb}, 2) for name, bomb in CALLS.items()},
    **{f'a call of {name} behind a tensor': tensor()[:-2] + b'X\x01\0\0\0b'
       + pickle.dumps(bomb, 2)[2:-1] + b's.' for name, bomb in list(CALLS.items())[:3]},
}  # fmt: skip


def patched(content: bytes, old: bytes, new: bytes, at: int = 0) -> bytes:
    """Replace one occurrence by text of the same length."""
    begin = content.index(old, at)
    return content[:begin] + new + content[begin + len(old) :]


def central(content: bytes) -> int:
    return content.index(b'PK\x01\x02')


def overlapping() -> bytes:
    """Two records with the same bytes: the second entry leads to the first one's header."""
    content = packed({'a/data.pkl': b'x' * 40, 'a/version': b'3\n', 'a/data/0': b'x' * 40})
    end = content.rindex(b'PK\x01\x02')
    return content[: end + 42] + struct.pack('<I', 0) + content[end + 46 :]


def bomb_of_zeros() -> bytes:
    own = {**records(saved()), 'archive/data/0': bytes(50_000_000)}
    return packed(own, zipfile.ZIP_DEFLATED)


SOUND = saved()
ARCHIVES: dict[str, Callable[[], bytes]] = {
    'empty': lambda: b'',
    'one byte': lambda: b'P',
    'not an archive': lambda: b'hello, world' * 100,
    'a bare pickle': lambda: pickle.dumps(TENSORS, 2),
    'the format before 1.6': lambda: saved(_use_new_zipfile_serialization=False),
    'the end alone': lambda: b'PK\x05\x06' + bytes(18),
    'cut at its end': lambda: SOUND[:-1],
    'cut in the middle': lambda: SOUND[: len(SOUND) // 2],
    'without its beginning': lambda: SOUND[100:],
    'bytes before it': lambda: b'#!/bin/sh\n' + SOUND,
    'bytes behind it': lambda: SOUND + b'x',
    'another archive behind it': lambda: SOUND + SOUND,
    'a comment': lambda: packed(records(SOUND), comment=b'x' * 22),
    'an archive in a comment': lambda: packed(records(SOUND), comment=SOUND[:60_000]),
    'compressed': lambda: packed(records(SOUND), zipfile.ZIP_DEFLATED),
    'a bomb of zeros': bomb_of_zeros,
    'bzip2': lambda: packed(records(SOUND), zipfile.ZIP_BZIP2),
    'lzma': lambda: packed(records(SOUND), zipfile.ZIP_LZMA),
    'no records': lambda: packed({}),
    'without a pickle': lambda: changed(**{'data.pkl': None}),
    'without a version': lambda: changed(version=None),
    'version 4': lambda: changed(version=b'4\n'),
    'a version of 1 MB': lambda: changed(version=b'3' * 1_000_000),
    'big-endian': lambda: changed(byteorder=b'big'),
    'an unknown byte order': lambda: changed(byteorder=b'LITTLE'),
    'without a storage': lambda: changed(**{'data/0': None}),
    'a storage that is too short': lambda: changed(**{'data/0': b'x'}),
    'a storage that is too long': lambda: changed(**{'data/0': bytes(1000)}),
    'code of TorchScript': lambda: changed(**{'code/__torch__.py': b'import os'}),
    'constants of TorchScript': lambda: changed(**{'constants.pkl': b'x'}),
    'a path upwards': lambda: packed({**records(SOUND), '../../evil': b'x'}),
    'an absolute path': lambda: packed({**records(SOUND), '/tmp/evil': b'x'}),
    'a backslash': lambda: packed({**records(SOUND), 'archive\\data\\0': b'x'}),
    'a name of many bytes': lambda: packed({**records(SOUND), 'a' * 60_000: b'x'}),
    'two folders': lambda: packed({**records(SOUND), 'other/data.pkl': b'x'}),
    'a folder': lambda: packed({**records(SOUND), 'archive/data/': b''}),
    'a pickle of 17 MB': lambda: with_pickle(b'(' * 17_000_000),
    '30,000 records': lambda: packed({f'archive/data/{n}': b'' for n in range(30_000)}),
    'two records of one name': lambda: patched(
        packed({**records(SOUND), 'archive/data.pkm': b'x'}).replace(b'data.pkm', b'data.pkl'),
        b'PK', b'PK',
    ),
    'two records but for capitals': lambda: packed(
        {**records(SOUND), 'ARCHIVE/data.pkl': b'x'}
    ),
    'another name in the local header': lambda: patched(SOUND, b'data.pkl', b'data.pkm'),
    'another name in the directory': lambda: patched(
        SOUND, b'data.pkl', b'data.pkm', central(SOUND)
    ),
    'an encrypted record': lambda: patched(
        SOUND, b'\x08\x08', b'\x09\x08', central(SOUND)
    ),
    'a directory that says more': lambda: SOUND[:-14] + b'\xff\0\xff\0' + SOUND[-10:],
    'a directory of 4 GB': lambda: SOUND[:-10] + b'\xfe\xff\xff\xff' + SOUND[-6:],
    'a directory elsewhere': lambda: SOUND[:-6] + b'\x01\0\0\0' + SOUND[-2:],
    'one disk of two': lambda: SOUND[:-18] + b'\x01\0' + SOUND[-16:],
    'the two ends disagree': lambda: patched(
        SOUND, b'PK\x06\x06' + struct.pack('<Q', 44), b'PK\x06\x06' + struct.pack('<Q', 45)
    ),
    'records that overlap': overlapping,
    'a size that lies': lambda: (
        SOUND[: central(SOUND) + 24] + b'\xf0\xff\xff\x7f' + SOUND[central(SOUND) + 28 :]
    ),
    'two sizes': lambda: (
        SOUND[: central(SOUND) + 20] + b'\x01\0\0\0' + SOUND[central(SOUND) + 24 :]
    ),
    'a record that is a folder': lambda: (
        SOUND[: central(SOUND) + 38] + b'\x10' + SOUND[central(SOUND) + 39 :]
    ),
    'an offset that lies': lambda: (
        SOUND[: central(SOUND) + 42] + b'\xf0\xff\xff\x7f' + SOUND[central(SOUND) + 46 :]
    ),
    'an archive in a record': lambda: packed({'archive/data.pkl': SOUND, 'archive/version': b'3'}),
}  # fmt: skip


def refused(path: Path) -> str:
    """What the reader says; in this process, so that anything executed would show."""
    with pytest.raises(ConvertError) as caught, opened(path) as file:
        stored_tensors(Archive(file, str(path)))
    return str(caught.value)


def nested(content: Any, tmp_path: Path, *parts: str) -> dict[str, Any]:
    path = tmp_path / 'nested.pt'
    path.write_bytes(saved(content))
    with opened(path) as file:
        return dict(stored_tensors(Archive(file, str(path)), parts))


def test_parts_of_a_file_are_read(tmp_path: Path) -> None:
    one = torch.ones(2, 3)
    beside = {'lr': 0.1, 'betas': [0.9, None, True], 3: {'step': torch.tensor(1.0)}, 'x': (1, 2)}
    content = {'a': {'b': {'c.d': one}, 'e': torch.ones(4)}, 'f': {'g': one + 1}, 'h': beside}
    found = nested(content, tmp_path, 'a', 'f')
    assert {name: tensor.shape for name, tensor in found.items()} == {
        'a.b.c.d': (2, 3),
        'a.e': (4,),
        'f.g': (2, 3),
    }
    own = torch.ones(2)
    own.attribute = 'dropped'  # type: ignore[attr-defined]
    assert nested({'a': {'b': own}}, tmp_path, 'a').keys() == {'a.b'}
    assert nested({'b': own}, tmp_path).keys() == {'b'}


SAME = {'c': torch.ones(1)}
IN_ITSELF: dict[str, Any] = {'b': torch.ones(1)}
IN_ITSELF['c'] = IN_ITSELF
PARTS: dict[str, tuple[Any, str]] = {
    'missing': ({'b': {'c': torch.ones(1)}}, 'has no a'),
    'a tensor': ({'a': torch.ones(1)}, 'has no a'),
    'a number': ({'a': {'b': 3}}, 'is not a tensor'),
    'a list': ({'a': {'b': [torch.ones(1)]}}, 'is not a tensor'),
    'a number as the name': ({'a': {3: torch.ones(1)}}, 'is not a tensor'),
    'too deep': ({'a': {'b': {'c': {'d': torch.ones(1)}}}}, 'is not a tensor'),
    'one name twice': ({'a': {'b.c': torch.ones(1), 'b': {'c': torch.ones(1)}}}, 'twice'),
    'in itself': ({'a': IN_ITSELF}, 'is not a tensor'),
    'twice the same dict': ({'a': {'b': SAME, 'd': SAME}}, 'is not a tensor'),
}


@pytest.mark.parametrize('name', PARTS)
def test_parts_that_are_something_else(name: str, tmp_path: Path) -> None:
    content, words = PARTS[name]
    with pytest.raises(ConvertError, match=words):
        nested(content, tmp_path, 'a')


@pytest.fixture(autouse=True)
def nothing_is_executed() -> Any:
    """The hostile calls leave a file where they are executed."""
    Path(MARKER).unlink(missing_ok=True)
    yield
    assert not os.path.lexists(MARKER)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'x.pt'
    for number, content in enumerate(
        [SOUND, with_pickle(records(SOUND)['archive/data.pkl']), changed(byteorder=None)]
    ):
        path.write_bytes(content)
        with opened(path) as file:
            found = stored_tensors(Archive(file, 'x'))
        assert {name: one.shape for name, one in found.items()} == {
            name: tuple(one.shape) for name, one in TENSORS.items()
        }, number
    path.write_bytes(with_pickle(tensor()))  # the parts that the hostile ones are made of
    with opened(path) as file:
        assert stored_tensors(Archive(file, 'x'))['a'].shape == (3, 4)


@pytest.mark.parametrize('name', PICKLES)
def test_a_hostile_pickle_is_rejected(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'x.pt'
    path.write_bytes(with_pickle(PICKLES[name]))
    text = refused(path)
    assert text.startswith(f'{path}: ') and '\n' not in text and len(text) < 1200


@pytest.mark.parametrize('name', ARCHIVES)
def test_a_hostile_archive_is_rejected(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'x.pt'
    path.write_bytes(ARCHIVES[name]())
    text = refused(path)
    assert text.startswith(f'{path}: ') and '\n' not in text and len(text) < 1200


def test_every_instruction_but_those_of_tensors_is_rejected(tmp_path: Path) -> None:
    known = {op.name for op, _, _ in pickletools.genops(records(SOUND)['archive/data.pkl'])}
    path = tmp_path / 'x.pt'
    accepted = set()
    for op in pickletools.opcodes:
        path.write_bytes(with_pickle(HEAD + op.code.encode('latin-1') + b'.' * 8))
        if 'which no tensor needs' not in refused(path):
            accepted.add(op.name)
    assert known - {'PROTO'} <= accepted
    beside = {'BINFLOAT', 'EMPTY_LIST', 'APPEND', 'APPENDS'}  # of an optimizer's state
    assert beside <= accepted and len(accepted) == 26 + len(beside)  # with STOP


def damaged(random: Random) -> bytes:
    """A sound file with one to three bytes changed, lost or added."""
    content = bytearray(SOUND)
    begins = (0, content.index(HEAD), central(SOUND))  # anywhere, the pickle, the directory
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(random.choice(begins), len(content))
        kind = random.random()
        if kind < 0.8:
            content[at] = random.randrange(256)
        elif kind < 0.9:
            del content[at]
        else:
            content.insert(at, random.randrange(256))
    return bytes(content)


def test_torch_reads_the_same_from_damaged_files() -> None:
    """Two readers of one archive that disagree would be a way past the check."""
    dtypes = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}
    random, same, rejected = Random(5), 0, 0
    for _ in range(1500):
        content = damaged(random)
        try:
            stored = stored_tensors(Archive(io.BytesIO(content), 'x'))
        except ConvertError:
            rejected += 1
            continue
        try:
            loaded = torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # of many types: a name that is not UTF-8, an unknown place
            continue
        assert loaded.keys() == stored.keys()
        for name, tensor in loaded.items():
            one = stored[name]
            assert (tensor.dtype, tuple(tensor.shape)) == (dtypes[one.dtype], one.shape)
            own = content[one.begin : one.begin + one.size]
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == own
        same += 1
    assert same > 100 and rejected > 1000


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    'make',
    [os.mkfifo, Path.mkdir, link_to('nowhere'), link_to(HEAD_NAME), link_to('/dev/zero')],
    ids=['pipe', 'folder', 'dangling link', 'link to itself', 'link to a device'],
)  # fmt: skip
def test_what_is_not_a_file_is_rejected_by_the_command(
    make: Callable[[Path], object], oft_tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    head = oft_tiny / HEAD_NAME
    head.unlink()
    make(head)
    assert_refused_by_the_command(oft_tiny, tmp_path, capsys)


@pytest.mark.parametrize(
    'content',
    [
        with_pickle(PICKLES['a call of os.system']),
        with_pickle(PICKLES['nested a million times']),
        ARCHIVES['bytes before it'](),
        pickle.dumps(CALLS['exec'], 2),
    ],
    ids=['call', 'nested', 'script', 'bare pickle'],
)
def test_the_command_says_one_line(
    content: bytes, oft_tiny: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (oft_tiny / HEAD_NAME).write_bytes(content)
    (oft_tiny / 'json.py').write_text(f'open({MARKER!r}, "w")')  # modules in the working folder
    (oft_tiny / 'vla_ros.py').write_text(f'open({MARKER!r}, "w")')
    monkeypatch.chdir(oft_tiny)
    assert_refused_by_the_command(oft_tiny, tmp_path, capsys)


def assert_refused_by_the_command(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / 'out'
    assert main([str(folder), str(out), '--preset', 'libero']) == 1
    told = capsys.readouterr()
    assert told.out == '' and told.err.count('\n') == 1 and 'action_head--1_checkpoint' in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
