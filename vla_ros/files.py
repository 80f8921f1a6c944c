# SPDX-License-Identifier: Apache-2.0
"""Reader of files that a user named: regular files only, with a limit, without blocking.

Standard library only; any thread.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vla_ros.errors import VlaError
from vla_ros.text import printable

_KINDS = {
    stat.S_IFDIR: 'a folder',
    stat.S_IFIFO: 'a named pipe',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
}


class FileError(VlaError):
    """A file that can't be read; the text begins with its path."""


class MissingFileError(FileError):
    """A path at which there is no file."""


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file, or of a regular file that the path links to.

    :raises MissingFileError: if the path does not exist; a broken link does exist.
    :raises FileError: if it is not a regular file, is too large, or can't be read.
    """
    shown = printable(str(path), 300)
    try:
        _check_regular(os.stat(path), shown)  # opening a device may already have an effect
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, 'rb') as file:
            _check_regular(os.fstat(descriptor), shown)  # it may have been replaced
            content = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        if os.path.islink(path):
            target = printable(os.readlink(path), 300)
            raise FileError(f'{shown} is a link to {target}, which does not exist') from error
        raise MissingFileError(f'{shown} does not exist') from error
    except OSError as error:
        raise FileError(f'{shown} cannot be read ({error.strerror})') from error
    except ValueError as error:  # the path has a null byte
        raise FileError(f'{shown} cannot be the path of a file ({error})') from error
    if len(content) > max_bytes:
        raise FileError(f'{shown} is too large', expected=f'at most {max_bytes} bytes')
    return content


def read_text(path: Path, max_bytes: int) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    :raises MissingFileError: as :func:`read_bytes`.
    :raises FileError: as :func:`read_bytes`, or if it is not UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = error.object.count(b'\n', 0, error.start) + 1
        raise FileError(
            f'{printable(str(path), 300)} is not text in UTF-8 (line {line}: {error.reason})',
            'save it in UTF-8',
        ) from error


def _check_regular(status: os.stat_result, shown: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), 'of an unknown kind')
        raise FileError(f'{shown} is {kind}', value=kind, expected='a regular file')
