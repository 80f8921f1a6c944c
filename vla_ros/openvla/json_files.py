# SPDX-License-Identifier: Apache-2.0
"""Bounded reading of a checkpoint's text and JSON files.

Runs in the thread that builds the policy.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.openvla.files import Remember, unwatched

_MAX_TEXT_BYTES = 16_000_000  # the largest, tokenizer.json, has 2 to 7 MB

_LFS_POINTER = b'version https://git-lfs.github.com/spec/'


def read_json(path: Path, remember: Remember = unwatched) -> dict[str, Any]:
    """Read a JSON object.

    :raises CheckpointError: if the file is missing, or has no JSON object.
    """
    try:
        content = json.loads(read_text(path, remember), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} cannot be read as JSON: {error}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds {type(content).__name__}', expected='a JSON object')
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict.

    :raises ValueError: if a key occurs twice; Python's reader silently uses the last one.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        doubles = {key for key, count in counts.items() if count > 1}
        raise ValueError(f'it has {listing(map(repr, doubles))} more than once')
    return content


def read_text(path: Path, remember: Remember = unwatched) -> str:
    """Read a regular text file of a checkpoint.

    :raises CheckpointError: if the file is missing, too large or not a regular file.
    """
    try:
        remember(path)
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError(f'{path} is no regular file', "put the checkpoint's own there")
        if size > _MAX_TEXT_BYTES:
            raise CheckpointError(
                f'{path} has {size} bytes, at most {_MAX_TEXT_BYTES} are allowed',
                'put the file of an OpenVLA checkpoint there',
            )
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError as error:
        why = ', and an OpenVLA checkpoint has one'
        if path.is_symlink():
            why = f': it is a link to {os.readlink(path)}, where nothing is'
        raise CheckpointError(f'{path} is missing{why}', 'download or copy it again') from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error
    check_no_pointer(text[: len(_LFS_POINTER)].encode(), path)
    return text


def check_no_pointer(beginning: bytes, path: Path) -> None:
    """Check that a file is not a git-LFS pointer, which git writes if git-lfs is missing.

    :param beginning: of the file.
    :raises CheckpointError: if it is a pointer.
    """
    if beginning.startswith(_LFS_POINTER):
        raise CheckpointError(
            f'{path} is a git-LFS pointer, not the file itself', 'run `git lfs pull` in that folder'
        )
