"""``vla_replay``: what a policy makes of a recording, before it moves a robot.

Shows the policy the pictures of a bag, each with the instruction in force then, and writes what it
answers: actions.csv, actions.jsonl, and actions.png, with what was done when the bag was recorded
beside it. The same bag, policy and options give the same bytes. Where the options name several
policies, or with --compare, it also tells where any two differ; that is no error. The last line is
JSON with all counts. Exit code: 0, 1 (an error, in one line) or 2 (unusable arguments). Needs no
ROS.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_ros.cli.arguments import count, list_of, positive
from vla_ros.console import complain, say
from vla_ros.measure.statistics import table
from vla_ros.policies import PolicyRequest, product, resolve_all
from vla_ros.replay.actions import ActionsError, read_actions
from vla_ros.replay.bag import Bag, BagError
from vla_ros.replay.compare import compare_all, comparison_tables
from vla_ros.replay.frames import (
    Instructions,
    Sampling,
    find_image_topic,
    find_instruction_topic,
)
from vla_ros.replay.recorded import ACTION, action_definitions
from vla_ros.replay.run import SUMMARY_NAME, NoAction, Summary, Task, run
from vla_ros.types import PolicyError, check_instruction

_LISTS = ('device', 'dtype', 'quantization', 'preprocessing')


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _run(options)
        return 0
    except (BagError, ActionsError, NoAction, PolicyError, OSError) as error:
        complain('vla_replay', error)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> None:
    if options.instruction is not None:
        check_instruction(options.instruction)
    rows = {f'{folder}/': read_actions(folder) for folder in options.compare}
    base = PolicyRequest(
        options.model,
        options.revision,
        unnorm_key=options.unnorm_key or '',
        contracts=options.contracts,
        rotate_180=options.rotate_180,
    )
    lists = {name: getattr(options, name) for name in _LISTS}
    requests = resolve_all(product(base, **lists))
    several = len(requests) > 1
    folders = [options.output / one.label if several else options.output for one in requests]
    definitions = {ACTION: action_definitions()}
    runs: list[Summary] = []
    with Bag(options.bag, definitions) as bag:
        task = _task(bag, options)
        for folder in folders:
            _make_folder(folder)
        for request, folder in zip(requests, folders, strict=True):
            summary, rows[request.label] = run(bag, task, request, folder, say)
            runs.append(summary)
    _print_report({**task.recipe, 'runs': runs, 'comparisons': compare_all(rows)})


def _task(bag: Bag, options: argparse.Namespace) -> Task:
    image_topic = find_image_topic(bag, options.image)
    instruction_topic = None
    if options.instruction is not None:
        instructions = Instructions.always(options.instruction)
    else:
        instruction_topic = find_instruction_topic(bag, options.instruction_topic)
        instructions = Instructions.recorded(bag, instruction_topic)
    recipe = {
        'bag': str(options.bag),
        'image': image_topic,
        'instruction': options.instruction,
        'instruction_topic': instruction_topic,
        'unnorm_key': options.unnorm_key,
        'every': options.every,
        'rate_hz': options.rate,
        'limit': options.limit,
        'draft': options.draft,
    }
    sampling = Sampling(options.every, options.rate, options.limit)
    return Task(image_topic, instructions, sampling, options.draft, recipe)


def _make_folder(folder: Path) -> None:
    """
    :raises ActionsError: if it holds a replay already.
    """
    if (folder / SUMMARY_NAME).exists():
        raise ActionsError(
            f'{folder} holds a replay already; name another folder with --output, or remove it'
        )
    folder.mkdir(parents=True, exist_ok=True)


def _print_report(report: dict[str, Any]) -> None:
    runs, comparisons = report['runs'], report['comparisons']
    skipped = sorted({name for one in runs for name in one['skipped']})
    names = [one['name'] for one in runs]
    print(table('pictures', names, [_counts(one, skipped) for one in runs]))
    if comparisons:
        print(f'\n{comparison_tables(comparisons)}')
    print(f'\n{json.dumps(report)}')


def _counts(one: Summary, skipped: Sequence[str]) -> dict[str, str]:
    whole = {name: str(one[name]) for name in ('pictures', 'used', 'invalid')}
    return whole | {name: str(one['skipped'].get(name, 0)) for name in skipped}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla_replay', description=__doc__, epilog='LIST: values with commas between them'
    )
    parser.add_argument('bag', type=Path, help='folder that ros2 bag wrote, or an .mcap or .db3')
    parser.add_argument('model', help='checkpoint folder, hub id (is downloaded), or scripted:...')
    parser.add_argument(
        '--output', metavar='DIR', type=Path, required=True, help='folder to write; made if need be'
    )
    parser.add_argument(
        '--compare',
        metavar='DIR',
        type=Path,
        action='append',
        default=[],
        help='output of an earlier replay, to be held against; may be given several times',
    )
    shown = parser.add_argument_group('what is shown')
    shown.add_argument('--image', metavar='TOPIC', help='(default: the only one with pictures)')
    shown.add_argument('--instruction', metavar='TEXT', help='instead of the recorded ones')
    shown.add_argument(
        '--instruction-topic', metavar='TOPIC', help="(default: the one that ends in 'instruction')"
    )
    rate = shown.add_mutually_exclusive_group()
    rate.add_argument('--every', metavar='N', type=count, default=1, help='take each N-th picture')
    rate.add_argument(
        '--rate', metavar='HZ', type=positive, help='take the pictures nearest to this rate'
    )
    shown.add_argument('--limit', metavar='N', type=count, help='take N pictures at most')
    policy = parser.add_argument_group('the policies', 'every combination of the lists is replayed')
    policy.add_argument('--revision', default='', help='branch, tag or commit of a hub id')
    policy.add_argument('--unnorm-key', help='data set whose statistics scale the actions')
    for name, default, text in (
        ('--device', 'auto', 'auto, cpu, mps, cuda, cuda:N'),
        ('--dtype', 'auto', 'auto, float32, bfloat16, float16'),
        ('--quantization', 'none', 'none, int8, int4'),
        ('--preprocessing', 'raw', "raw, training (cropped where unnorm_key's contract says so)"),
    ):
        policy.add_argument(
            name, metavar='LIST', type=list_of(str), default=default, help=f'of {text}'
        )
    policy.add_argument('--rotate-180', action='store_true', help='turn the pictures first')
    policy.add_argument(
        '--contracts', metavar='FILE', default='', help='YAML with more action contracts'
    )
    policy.add_argument(
        '--draft',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='offer the action before as a draft, as the node does',
    )
    return parser


if __name__ == '__main__':
    sys.exit(main())
