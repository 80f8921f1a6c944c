# SPDX-License-Identifier: Apache-2.0
"""``vla_checkpoint``: write a checkpoint with random weights in the released layout.

It replaces only folders that it has written itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.openvla.errors import CheckpointError
from vla_ros.synthetic.random_checkpoint import write_random_checkpoint
from vla_ros.synthetic.shapes import SHAPES


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='vla_checkpoint', description=__doc__)
    parser.add_argument(
        'directory', help='folder to write: a new one, or one that vla_checkpoint has written'
    )
    parser.add_argument('--shape', choices=SHAPES, default='tiny', help='(default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    options = parser.parse_args(arguments)
    try:
        directory = _folder(options.directory)
        write_random_checkpoint(directory, options.shape, options.seed)
    except CheckpointError as error:
        print(f'vla_checkpoint: {error}', file=sys.stderr)
        return exit_codes.FAILED
    except OSError as error:
        print(f'vla_checkpoint: {options.directory} cannot be written: {error}', file=sys.stderr)
        return exit_codes.FAILED
    print(f'wrote {directory}: {options.shape}, random weights of seed {options.seed}')
    return 0


def _folder(text: str) -> Path:
    """Return the folder of a name.

    :raises CheckpointError: if the name has the form of a hub id.
    """
    folder = Path(text).expanduser()
    plain = os.path.normpath(text)
    is_hub_id = plain.count('/') == 1 and not text.startswith(('.', '/', '~'))
    if is_hub_id and not os.path.lexists(folder):
        raise CheckpointError(
            f'{plain} has the form of a hub id, and a folder of this name would be loaded instead '
            'of that model',
            f'write ./{plain} to mean a folder',
        )
    return folder


if __name__ == '__main__':
    sys.exit(main())
