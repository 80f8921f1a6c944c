"""``vla_checkpoint``: write a checkpoint with random weights in the released layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vla_ros.openvla.checkpoint_writer import SHAPES
from vla_ros.openvla.random_checkpoint import write_random_checkpoint


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='vla_checkpoint', description=__doc__)
    parser.add_argument('directory', type=Path, help='folder to write; made if need be')
    parser.add_argument('--shape', choices=SHAPES, default='tiny', help='(default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    options = parser.parse_args(arguments)
    try:
        write_random_checkpoint(options.directory, options.shape, options.seed)
    except OSError as error:
        print(f'vla_checkpoint: {options.directory} can not be written: {error}', file=sys.stderr)
        return 1
    print(f'wrote {options.directory}: {options.shape}, random weights of seed {options.seed}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
