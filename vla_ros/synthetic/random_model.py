# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with random weights of a given shape, written once and kept for the next run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vla_ros.console import Say
from vla_ros.openvla.checkpoint import INDEX_NAME
from vla_ros.synthetic.checkpoint_writer import checkpoint_bytes
from vla_ros.synthetic.random_checkpoint import write_random_checkpoint
from vla_ros.types import PolicyError


def default_cache() -> Path:
    """Return $XDG_CACHE_HOME/vla_ros, usually ~/.cache/vla_ros."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'vla_ros'


def cached_random_checkpoint(shape: str, cache: Path, say: Say) -> Path:
    """Return the checkpoint's folder in ``cache``; write it if it is missing or incomplete.

    :raises PolicyError: if the disk is too full, or the folder is not writable.
    """
    directory = cache / f'random-{shape}'
    if (directory / INDEX_NAME).is_file():  # written last
        return directory
    size = checkpoint_bytes(shape)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
        if free < size:
            raise PolicyError(
                f'{directory} would take {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free',
                'make room, or name another folder with --cache',
            )
        say(f'writing {directory}: {size / 1e9:.2f} GB of random weights, kept for the next run')
        return write_random_checkpoint(directory, shape)
    except OSError as error:
        raise PolicyError(
            f'{directory} cannot be written ({error})', 'name another folder with --cache'
        ) from error
