# SPDX-License-Identifier: Apache-2.0
"""``vla_convert``: from the folder of a training to one that the node loads.

The node reads safetensors only. This command reads the ``.pt`` files of an action head, of a
projector of the state, of towers with FiLM and of MiniVLA, without executing anything, and merges
adapters.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import count, list_of
from vla_ros.console import complain, interrupting, say
from vla_ros.convert.options import ADAPTERS, MERGED_DTYPES, PRESETS, Options
from vla_ros.convert.run import convert
from vla_ros.errors import VlaError
from vla_ros.openvla.layout import NORMALIZATIONS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='vla_convert', description=__doc__)
    parser.add_argument('folder', type=Path, help='folder of the training')
    parser.add_argument('out', type=Path, help='folder to write; it must not exist')
    parser.add_argument('--preset', choices=PRESETS, help='values of a data set')
    parser.add_argument(
        '--cameras', type=list_of(str), help="names in the model's order: image,wrist_image"
    )
    parser.add_argument('--horizon', type=count, help='rows of a chunk')
    parser.add_argument('--normalization', choices=NORMALIZATIONS, help='of actions and state')
    parser.add_argument('--no-state', action='store_true', help='leave out the state')
    parser.add_argument(
        '--tokens', action='store_true', help='leave out the action head: actions are tokens'
    )
    parser.add_argument('--base', type=Path, help='folder of the weights that an adapter changes')
    parser.add_argument(
        '--adapter', choices=ADAPTERS, help='whether weights beside an adapter contain it'
    )
    parser.add_argument(
        '--merged-dtype',
        choices=MERGED_DTYPES,
        default='bfloat16',
        help='dtype of weights that an adapter changes (default: %(default)s)',
    )
    parser.add_argument(
        '--language-model',
        type=Path,
        help='MiniVLA: folder of config.json and tokenizer.json of its language model',
    )
    parser.add_argument('--vq', type=Path, help="MiniVLA: folder of its codes' network")
    said = vars(parser.parse_args(arguments))
    folder, out = (said.pop(name).expanduser() for name in ('folder', 'out'))
    cameras = said.pop('cameras')
    try:
        with interrupting():
            options = Options(cameras=None if cameras is None else tuple(cameras), **said)
            described = convert(folder, out, options, say)
    except VlaError as error:
        complain('vla_convert', error)
        return exit_codes.FAILED
    except OSError as error:
        complain('vla_convert', VlaError(f'{out} cannot be written ({error.strerror})'))
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    print(f'wrote {out}: {described}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
