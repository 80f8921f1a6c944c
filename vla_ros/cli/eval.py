# SPDX-License-Identifier: Apache-2.0
"""``vla_eval``: the success rate of a policy in a simulated world, through the node.

Every combination of the values in the lists is played with the same starts. The last line is JSON
with all results. In step, the world waits for each action; with --pace free it does not.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import assignment, count, list_of, one_of, positive, seconds, whole
from vla_ros.console import complain, interrupting
from vla_ros.errors import VlaError
from vla_ros.evaluation.pace import DELTAS, MOTIONS, Pace
from vla_ros.evaluation.run import FILMED, Setup, run
from vla_ros.evaluation.summary import CONTROLS, PACES
from vla_ros.openvla.placement import DTYPES, QUANTIZATIONS
from vla_ros.simulation.libero import SUITES
from vla_ros.simulation.worlds import WORLDS

_PLACEMENT = ('device', 'dtype', 'quantization', 'recomputed_patches')
_OWN_OPTIONS = {
    'model': '--model',
    'replan_rows': '--rows',
    'use_sim_time': '--sim-time',
    **{name: '--' + name.replace('_', '-') for name in _PLACEMENT},
}
# Options of several values: those allowed, of which the first is the default, and the help.
_LISTS: dict[str, tuple[tuple[str, ...], str]] = {
    '--dtype': (('auto', *DTYPES), 'type of the weights and activations'),
    '--quantization': (QUANTIZATIONS, 'weights of 8 or 4 bits'),
    '--pace': (tuple(PACES), 'whether the world waits for each action; world: in its own time'),
    '--control': (tuple(CONTROLS), 'change of the instruction or the images'),
    '--deltas-from': (
        DELTAS,
        "free, world: start of a displacement: the tool's pose now, or when the image was captured",
    ),
    '--motion': (MOTIONS, "world: what moves the arm: the actions, or the node's twists"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(given)
    _check_together(parser, options)
    try:
        with interrupting():
            run(_setup(options, shlex.join(['vla_eval', *given])))
        return 0
    except (VlaError, OSError) as error:
        complain('vla_eval', error)
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 if options contradict each other."""
    if 'free' in options.pace and options.sim_time:
        parser.error('--sim-time goes with --pace step only: free-running, time is real')
    if 'twist' in options.motion and options.pace != ['world']:
        parser.error('--motion twist needs --pace world')
    if options.pace == ['step'] and (
        options.added_latency != [0.0] or options.deltas_from != ['now']
    ):
        parser.error('--added-latency and --deltas-from need --pace free or world')
    if options.world in SUITES and not options.model:
        parser.error(f'--world {options.world} needs --model: none is shipped for LIBERO')
    if own := sorted({name for name, _ in options.parameter} & set(_OWN_OPTIONS)):
        parser.error(f'-p {own[0]} has an option of its own: {_OWN_OPTIONS[own[0]]}')


def _setup(options: argparse.Namespace, command: str) -> Setup:
    return Setup(
        command,
        options.world,
        options.model or '',
        options.episodes,
        options.first_seed,
        options.sim_time,
        _paces(options),
        options.control,
        {name: getattr(options, name) for name in _PLACEMENT},
        dict(options.parameter),
        options.plot,
        options.gif,
        options.sheet,
    )


def _paces(options: argparse.Namespace) -> list[Pace]:
    step = Pace(time_limit_s=options.time_limit, rows=options.rows)
    moving = [
        replace(step, motion=how, rate_hz=options.rate, added_latency_s=late_s, deltas_from=start)
        for how, start, late_s in itertools.product(
            options.motion, options.deltas_from, options.added_latency
        )
    ]
    return [
        replace(one, kind=kind)
        for kind in options.pace
        for one in ([step] if kind == 'step' else moving)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla_eval', description=__doc__, epilog='LIST: values separated by commas'
    )
    add = parser.add_argument
    add('--world', choices=WORLDS, default='blocks', help='(default: %(default)s)')
    add('--model', help='checkpoint folder or hub id (default: the one shipped for the world)')
    add(
        '--episodes',
        type=count,
        default=10,
        help='episodes of each instruction (default: %(default)s)',
    )
    add(
        '--first-seed', type=whole, default=0, help='seed of the first start (default: %(default)s)'
    )
    add(
        '--time-limit', type=positive, help="duration of an episode, seconds (default: the world's)"
    )
    add(
        '--rows',
        type=count,
        help='rows of a chunk before the next inference begins, as replan_rows of the node '
        '(default: in step all, otherwise none)',
    )
    add('--sim-time', action='store_true', help="use the world's clock as the robot's")
    _add_lists(parser)
    add(
        '--rate',
        type=positive,
        default=30.0,
        help='free, world: camera rate, Hz (default: %(default)s)',
    )
    add(
        '-p',
        dest='parameter',
        metavar='NAME:=VALUE',
        type=assignment,
        action='append',
        default=[],
        help='a parameter of the node',
    )
    add('--plot', metavar='FILE.png', type=Path, help='success rates')
    add('--gif', metavar='FILE.gif', type=Path, help=f'the first {FILMED} episodes')
    add('--sheet', metavar='FILE.png', type=Path, help='a few images of each of these episodes')
    return parser


def _add_lists(parser: argparse.ArgumentParser) -> None:
    for name, (choices, text) in _LISTS.items():
        parser.add_argument(
            name,
            metavar='LIST',
            type=list_of(one_of(choices)),
            default=choices[0],
            help=f'of {", ".join(choices)}: {text} (default: %(default)s)',
        )
    parser.add_argument(
        '--added-latency',
        metavar='LIST',
        type=list_of(seconds),
        default='0',
        help='free, world: delay of the images, seconds (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        metavar='LIST',
        type=list_of(str),
        default='auto',
        help='of auto, cpu, mps, cuda, cuda:N (default: %(default)s)',
    )
    parser.add_argument(
        '--recomputed-patches',
        metavar='LIST',
        type=list_of(positive),
        default='1',
        help='shares, 0.1 to 1, of the patches that are not kept (default: %(default)s)',
    )


if __name__ == '__main__':
    sys.exit(main())
