# SPDX-License-Identifier: Apache-2.0
"""``vla_replay``: the answers of a policy to a recording, before it moves a robot.

Gives the policy the images of a bag, and the states if it takes any, each with the instruction that
was current then. Writes the answers: actions.csv, actions.jsonl, and actions.png, which also shows
the recorded actions and velocities. The same bag, policy and options give the same bytes. With
several policies, or --compare, it also reports where any two differ, which is not an error. The
last line is JSON with all counts. With --rerun it also writes replay.rrd, which shows the recording
and the answers on one timeline in the viewer of rerun; without a policy, the recording alone. Exit
code: 0, 1 (an error, in one line) or 2 (invalid arguments). Needs no ROS.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import count, list_of, positive, seconds
from vla_ros.cli.server_options import add_server_options, with_server
from vla_ros.console import complain, say
from vla_ros.errors import VlaError
from vla_ros.parameters.definition import Parameters
from vla_ros.policies import PolicyRequest
from vla_ros.replay.command import Setup, replay, show
from vla_ros.replay.frames import Sampling
from vla_ros.replay.timeline import TIMELINE_NAME

# Options of several values, with the default and the allowed ones.
_LISTS = {
    'device': ('auto', 'auto, cpu, mps, cuda, cuda:N'),
    'dtype': ('auto', 'auto, float32, bfloat16, float16'),
    'quantization': ('none', 'none, int8, int4'),
    'preprocessing': ('raw', "raw, training (cropped where unnorm_key's contract says so)"),
}


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)  # a MODEL may stand behind options
    if options.model is None and not options.rerun:
        parser.error('name a MODEL, or show the recording alone with --rerun')
    try:
        print(_report(options))
        return 0
    except (VlaError, OSError) as error:
        complain('vla_replay', error)
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _report(options: argparse.Namespace) -> str:
    if options.model is None:
        camera = next(iter(options.image), None)
        return show(options.bag, options.output, options.compare, camera, say)
    return replay(_setup(options), say)


def _setup(options: argparse.Namespace) -> Setup:
    request = PolicyRequest(
        options.model,
        options.revision,
        unnorm_key=options.unnorm_key,
        contracts=options.contracts,
        rotate_180=options.rotate_180,
    )
    return Setup(
        options.bag,
        with_server(request, options),
        {name: getattr(options, name) for name in (*_LISTS, 'recomputed_patches')},
        options.output,
        options.compare,
        options.image,
        options.state,
        options.sync_tolerance,
        options.instruction,
        options.instruction_topic,
        Sampling(options.every, options.rate, options.limit),
        options.draft,
        options.rerun,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla_replay', description=__doc__, epilog='LIST: values with commas between them'
    )
    add = parser.add_argument
    add('bag', type=Path, help='folder that ros2 bag wrote, or an .mcap or .db3')
    text = 'checkpoint folder, hub id (is downloaded), ws://..., or scripted:...'
    add('model', nargs='?', help=f'{text}; none with --rerun: show what was recorded')
    add('--output', metavar='DIR', type=Path, required=True, help='folder to write; may be new')
    text = 'output of an earlier replay to compare with; may be repeated'
    add('--compare', metavar='DIR', type=Path, action='append', default=[], help=text)
    text = f'write {TIMELINE_NAME}, too, for the viewer of rerun (pip install rerun-sdk)'
    add('--rerun', action='store_true', help=text)
    _add_inputs(parser)
    _add_policies(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the policy's inputs")
    add = group.add_argument
    text = 'topics of images, in the order of its cameras (default: the only one for each)'
    add('--image', metavar='LIST', type=list_of(str), action='extend', default=[], help=text)
    add('--state', metavar='TOPIC', help='JointState (default: the only one)')
    text = 'between the captures of the parts of one observation (default: %(default)s)'
    tolerance_s = Parameters().sync_tolerance_s
    add('--sync-tolerance', metavar='SECONDS', type=seconds, default=tolerance_s, help=text)
    add('--instruction', metavar='TEXT', help='instead of the recorded ones')
    text = "(default: the one that ends in 'instruction')"
    add('--instruction-topic', metavar='TOPIC', help=text)
    rate = group.add_mutually_exclusive_group()
    text = 'take each N-th image of the first camera'
    rate.add_argument('--every', metavar='N', type=count, default=1, help=text)
    text = 'take its images nearest to this rate'
    rate.add_argument('--rate', metavar='HZ', type=positive, help=text)
    add('--limit', metavar='N', type=count, help='take N observations at most')


def _add_policies(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('the policies', 'every combination of the lists is replayed')
    add = group.add_argument
    add('--revision', default='', help='branch, tag or commit of a hub id')
    add('--unnorm-key', default='', help='data set whose statistics scale the actions')
    for name, (default, text) in _LISTS.items():
        add(f'--{name}', metavar='LIST', type=list_of(str), default=default, help=f'of {text}')
    text = 'shares, 0.1 to 1, of the patches that are not kept (default: %(default)s)'
    add('--recomputed-patches', metavar='LIST', type=list_of(positive), default='1', help=text)
    add('--rotate-180', action='store_true', help='rotate the images first')
    add('--contracts', metavar='FILE', default='', help='YAML with more action contracts')
    add_server_options(parser)
    text = 'offer the previous action as a draft, as the node does'
    add('--draft', action=argparse.BooleanOptionalAction, default=True, help=text)


if __name__ == '__main__':
    sys.exit(main())
