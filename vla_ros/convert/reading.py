# SPDX-License-Identifier: Apache-2.0
"""Reader of ``.pt`` files that turns them into safetensors, in a process of its own.

The file is never unpickled. The pickle's text tells where each tensor lies (``pickles.py``), and
these bytes are copied. The process has limits of memory, file size and time, so that a file for
which this reader is wrong can't harm more than this process. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vla_ros.convert.archive import Archive, opened
from vla_ros.convert.errors import ConvertError
from vla_ros.convert.pickles import stored_tensors
from vla_ros.convert.writing import Entry, in_order, write_safetensors
from vla_ros.text import printable

_REFUSED = 3  # exit code of the process: standard output has the error
_MEMORY_BYTES = 2 << 30
_CPU_S = 3600
_MARGIN_BYTES = 16 << 20  # of the written header
_PIECE_BYTES = 1 << 20
_CHILD = """
import sys
del sys.path[0]  # the working folder, which may be the hostile one
import json
sys.path[:] = json.loads(sys.argv[1])
from vla_ros.convert.reading import child
sys.exit(child(*sys.argv[2:]))
"""


def tensors_to_safetensors(source: Path, target: Path, parts: Sequence[str] = ()) -> None:
    """Write the tensors of a ``.pt`` file into a new safetensors file, under their own names.

    :param parts: see :func:`.stored_tensors`.
    :raises ConvertError: if the file is not what ``torch.save`` writes for a state dict.
    :raises OSError: if ``target`` can't be written.
    """
    path = json.dumps([folder for folder in sys.path if os.path.isabs(folder)])
    done = subprocess.run(
        [sys.executable, '-c', _CHILD, path, str(source), str(target), *parts],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode == 0:
        return
    shown = printable(str(source), 300)
    if done.returncode == _REFUSED:
        told = json.loads(done.stdout)
        if 'errno' in told:
            raise OSError(told['errno'], os.strerror(told['errno']), str(target))
        raise ConvertError(told['what'], told['advice'], expected=told['expected'])
    last = done.stderr.decode('utf-8', 'replace').strip().rpartition('\n')[2]
    raise ConvertError(
        f'{shown} cannot be read: the process that reads it ended with {done.returncode}: {last}',
        'download or copy it again',
    )


def child(source: str, target: str, *parts: str) -> int:
    """Do the work in the process of its own, and return its exit code."""
    try:
        with opened(Path(source)) as file:
            archive = Archive(file, printable(source, 300))
            _limit(archive.size)
            stored = stored_tensors(archive, parts)
            entries = in_order(Entry(name, one.dtype, one.shape) for name, one in stored.items())

            def values() -> Iterator[bytes]:
                for entry in entries:
                    file.seek(stored[entry.name].begin)
                    left = stored[entry.name].size
                    while left:
                        piece = file.read(min(left, _PIECE_BYTES))
                        if not piece:
                            raise archive.error('it became shorter while it was read')
                        left -= len(piece)
                        yield piece

            write_safetensors(Path(target), entries, values())
    except ConvertError as error:
        told = {'what': error.what, 'advice': error.advice, 'expected': error.expected}
        print(json.dumps(told))
        return _REFUSED
    except OSError as error:
        print(json.dumps({'errno': error.errno or 5}))
        return _REFUSED
    return 0


def _limit(file_bytes: int) -> None:
    """Bound what this process can take, as far as the system allows."""
    limits = {
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_FSIZE: file_bytes + _MARGIN_BYTES,
        resource.RLIMIT_CPU: _CPU_S,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
