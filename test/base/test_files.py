# SPDX-License-Identifier: Apache-2.0
"""Files that a user names: whatever they are, one error at once."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import pytest

from vla_ros.files import FileError, MissingFileError, read_bytes, read_text
from vla_ros.images.files import UnreadableImage, read_image


def refusal(path: Path, max_bytes: int = 100) -> str:
    with pytest.raises(FileError) as caught:
        read_text(path, max_bytes)
    return str(caught.value)


def test_a_file_is_read_whole_up_to_its_bound(tmp_path: Path) -> None:
    file = tmp_path / 'file'
    file.write_bytes(b'x' * 100)
    (tmp_path / 'link').symlink_to(file)
    assert read_bytes(file, 100) == read_bytes(tmp_path / 'link', 100) == b'x' * 100
    assert refusal(file, 99) == f'{file} is too large; expected at most 99 bytes'
    assert read_bytes(Path('/proc/self/stat'), 10_000)  # it says that it has 0 bytes


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'link').symlink_to(tmp_path / 'pipe')
    (tmp_path / 'nowhere').symlink_to('moved away')
    (tmp_path / 'loop').symlink_to('loop')
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / 'socket'))
        for name, kind in (
            ('', 'is a folder; expected a regular file'),
            ('pipe', 'is a named pipe; expected a regular file'),
            ('link', 'is a named pipe; expected a regular file'),
            ('socket', 'is a socket; expected a regular file'),
            ('nowhere', 'is a link to moved away, which does not exist'),
            ('loop', 'cannot be read (Too many levels of symbolic links)'),
            ('pipe/x', 'cannot be read (Not a directory)'),
        ):
            path = tmp_path / name
            assert refusal(path) == f'{path} {kind}'
    assert 'cannot be read (File name too long)' in refusal(tmp_path / ('x' * 300))
    assert refusal(Path('/dev/zero')) == '/dev/zero is a device; expected a regular file'
    assert refusal(Path('/proc/self/mem')) == '/proc/self/mem cannot be read (Input/output error)'


def test_what_is_missing_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match='file does not exist'):
        read_bytes(tmp_path / 'file', 1)
    (tmp_path / 'link').symlink_to('unmounted')
    with pytest.raises(FileError) as caught:
        read_bytes(tmp_path / 'link', 1)
    assert not isinstance(caught.value, MissingFileError)


@pytest.mark.parametrize('name', ['a\0b', 'a\ud800b'])
def test_a_path_that_can_not_be(name: str) -> None:
    shown = refusal(Path(name))
    assert 'cannot be the path of a file' in shown and shown.isprintable()


def test_the_path_is_shown_and_can_harm_nobody(tmp_path: Path) -> None:
    assert refusal(tmp_path / 'a\x1b[2Jb').endswith('a\\x1b[2Jb does not exist')
    assert len(refusal(Path('/a' * 2000))) < 1000


def test_text_is_utf_8(tmp_path: Path) -> None:
    file = tmp_path / 'file'
    file.write_bytes(b'\xef\xbb\xbfW\xc3\xbcrfel')
    assert read_text(file, 100) == 'Würfel'
    file.write_bytes(b'one\ntwo\xff')
    what = f'{file} is not text in UTF-8 (line 2: invalid start byte)'
    assert refusal(file) == f'{what}; save it in UTF-8'
    file.write_text('Würfel', encoding='utf-16')
    assert 'is not text in UTF-8' in refusal(file)


def test_a_picture_file_of_more_pixels_than_a_topic_may_have(tmp_path: Path) -> None:
    """A few kilobytes; Pillow itself decodes up to 179 million, and warns from 89 million on."""
    for width, height in ((8001, 8000), (20_000, 20_000)):
        header = (
            b'IHDR' + width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([8, 2, 0, 0, 0])
        )
        end = b'\0\0\0\0IEND\xaeB`\x82'
        data = b'\x89PNG\r\n\x1a\n\0\0\0\r' + header + struct.pack('>I', zlib.crc32(header)) + end
        file = tmp_path / 'large.png'
        file.write_bytes(data)
        with pytest.raises(UnreadableImage, match=f'{file} cannot be read as an image: '):
            read_image(file)


def test_a_picture_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe.png')
    with pytest.raises(UnreadableImage, match='is a named pipe'):
        read_image(tmp_path / 'pipe.png')
