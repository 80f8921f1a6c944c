"""``vla_bench``: where an action's time goes, and how near that is to what this machine can do.

Every combination of the values in the lists is measured, and they take turns. With --pipeline, one
combination through ROS: image-to-action latency, and what policy and camera cost each other. The
last line is JSON with all that was measured. Needs no ROS, but for --pipeline.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from vla_ros.bench.ceilings import measure_ceilings
from vla_ros.bench.combinations import Combination, combine
from vla_ros.bench.measure import Infer, Task, measure
from vla_ros.bench.plot import plot_stages
from vla_ros.bench.profile import Operator, operator_table, profile_inference
from vla_ros.bench.report import summarize, tables
from vla_ros.cli.arguments import boolean, count, list_of, positive
from vla_ros.console import complain, say
from vla_ros.images.files import UnreadablePicture, read_picture
from vla_ros.measure.machine import describe_machine
from vla_ros.measure.statistics import recipe_text
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.hub import resolve_model
from vla_ros.pipeline.summary import PipelineError, pipeline_tables
from vla_ros.policies import PolicyRequest, inspect
from vla_ros.synthetic.checkpoint_writer import SHAPES
from vla_ros.synthetic.random_model import cached_random_checkpoint, default_cache
from vla_ros.types import PolicyError

_LEGEND = """\
load, warm-up, first: once for each policy. p50 to p99: one batch, the pictures being new each time;
an action: its share of the median. peak RAM: of the process while loading and warming, mapped files
included; added: by this policy. same actions, equal bins: as in the first combination.
The ceilings are the fastest of some runs:
GEMM: [288, 4096] x [4096, 11008]; row: reads such weights for a single row; stream: sums 500 MB."""


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.model is None) == (options.random is None):
        parser.error('name either a model (a checkpoint folder or a hub id) or --random SHAPE')
    if options.pipeline:
        _check_pipeline_options(parser, options)
    try:
        _run(options, sys.argv[1:] if arguments is None else arguments)
        return 0
    except (PolicyError, PipelineError, UnreadablePicture, OSError) as error:
        complain('vla_bench', error)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    combinations = combine(
        options.device,
        options.dtype,
        options.quantization,
        options.compile,
        options.batch_size,
        options.threads or [torch.get_num_threads()],
        options.draft,
    )
    _check_writable(options.profile, options.plot)
    recipe = {
        'command': shlex.join(['vla_bench', *arguments]),
        'date': datetime.now().astimezone().isoformat(timespec='seconds'),
        'machine': describe_machine(),
    }
    if options.pipeline:
        _run_pipeline(options, combinations[0], recipe)
        return
    directory = _directory(options)
    operators: list[Operator] = []

    def look_closer(infer: Infer) -> None:
        operators.extend(profile_inference(infer, options.profile))

    pictures = [read_picture(file) for file in options.images]
    task = Task(directory, options.instruction, options.repeats, pictures)
    measurements, took_turns = measure(
        task, combinations, say, look_closer if options.profile else None
    )
    report: dict[str, Any] = {
        **recipe,
        'model': str(directory),
        'instruction': task.instruction,
        'took_turns': took_turns,
        'combinations': summarize(measurements, measure_ceilings(combinations, say)),
        'operators': [asdict(operator) for operator in operators],
    }
    _print_report(report)
    if operators:
        print(f'\n{operator_table(operators)}\n{options.profile}: open it in ui.perfetto.dev')
    if options.plot:
        plot_stages(report['combinations'], options.plot)
        print(f'\n{options.plot}: the stages as bars')
    print(f'\n{json.dumps(report)}')


def _run_pipeline(
    options: argparse.Namespace, combination: Combination, recipe: dict[str, Any]
) -> None:
    try:
        from vla_ros.pipeline.run import PipelineTask, measure_pipeline
    except ImportError as error:
        raise PipelineError(
            f'--pipeline needs ROS 2 and the messages of this package ({error}); source both'
        ) from error
    model, unnorm_key = options.model, ''
    request = PolicyRequest(model or '', options.revision or '')
    inspection = inspect(request) if request.model else None
    if inspection is None or inspection.folder is not None:
        directory = _directory(options)
        model, unnorm_key = str(directory), OpenVLAConfig.from_directory(directory).longest_key
    task = PipelineTask(
        model=model,
        unnorm_key=unnorm_key,
        combination=combination,
        threads=options.threads[0] if options.threads else None,
        instruction=options.instruction,
        rate_hz=options.rate,
        repeats=options.repeats,
        seconds=options.seconds,
    )
    pipeline = measure_pipeline(task, say)
    report = {**recipe, 'model': model, 'instruction': task.instruction, 'pipeline': pipeline}
    print(f'{recipe_text(report)}\n{model}, {combination}\n\n{pipeline_tables(pipeline)}')
    print(f'\n{json.dumps(report)}')


def _directory(options: argparse.Namespace) -> Path:
    """Of the checkpoint; it is downloaded or written if need be."""
    if options.random is None:
        return resolve_model(options.model, options.revision, lambda step: say(step.text))
    return cached_random_checkpoint(options.random, options.cache, say)


def _print_report(report: dict[str, Any]) -> None:
    positions = report['combinations'][0]['positions']
    print(f'{recipe_text(report)}\n{report["model"]}, {positions} positions\n')
    print(f'{tables(report["combinations"])}\n\n{_LEGEND}')
    if not report['took_turns']:
        print(
            'The policies do not fit into memory together: they were measured one after the other, '
            'NOT in turns; what else the machine did may have met one and not the other.'
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla_bench', description=__doc__, epilog='LIST: values with commas between them'
    )
    parser.add_argument('model', nargs='?', help='checkpoint folder, or hub id (is downloaded)')
    parser.add_argument('--revision', help='branch, tag or commit of a hub id')
    parser.add_argument(
        '--random', choices=SHAPES, help='instead: such a model with random weights, written once'
    )
    parser.add_argument(
        '--cache', type=Path, default=default_cache(), help='for --random (default: %(default)s)'
    )
    for name, default, text in (
        ('--device', 'auto', 'auto, cpu, mps, cuda, cuda:N'),
        ('--dtype', 'auto', 'auto, float32, bfloat16, float16'),
        ('--quantization', 'none', 'none, int8, int4'),
    ):
        parser.add_argument(
            name, metavar='LIST', type=list_of(str), default=default, help=f'of {text}'
        )
    parser.add_argument(
        '--compile', metavar='LIST', type=list_of(boolean), default='false', help='of false, true'
    )
    parser.add_argument('--batch-size', metavar='LIST', type=list_of(count), default='1')
    parser.add_argument(
        '--draft', metavar='LIST', type=list_of(str), default='none', help='of none, right, wrong'
    )
    parser.add_argument(
        '--threads', metavar='LIST', type=list_of(count), help="on the CPU (default: torch's)"
    )
    parser.add_argument('--repeats', type=count, default=10, help='(default: %(default)s)')
    parser.add_argument(
        '--instruction',
        default='pick up the red cup and put it into the drawer',
        help='(default: %(default)s)',
    )
    parser.add_argument(
        '--images', type=Path, nargs='+', default=[], help='pictures to show (default: noise)'
    )
    parser.add_argument('--profile', metavar='FILE', type=Path, help='trace of one more inference')
    parser.add_argument('--plot', metavar='FILE.png', type=Path)
    pipeline = parser.add_argument_group(
        'through ROS', 'one combination; --repeats is then the number of turns of each kind'
    )
    pipeline.add_argument(
        '--pipeline', action='store_true', help='measure the node, beside a camera process'
    )
    pipeline.add_argument(
        '--rate', type=positive, default=30.0, help="the camera's, Hz (default: %(default)s)"
    )
    pipeline.add_argument(
        '--seconds', type=positive, default=5.0, help='each turn, or longer (default: %(default)s)'
    )
    return parser


def _check_pipeline_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 if they ask for what --pipeline does not do."""
    lists = ('device', 'dtype', 'quantization', 'compile', 'batch_size', 'threads')
    several = [name for name in lists if len(getattr(options, name) or ()) > 1]
    if several or options.batch_size != [1] or options.draft != ['none']:
        parser.error('--pipeline measures one combination, one action at a time: no lists')
    if options.profile or options.plot or options.images:
        parser.error('--profile, --plot and --images do not go with --pipeline')


def _check_writable(*files: Path | None) -> None:
    """Now, and not when all has been measured.

    :raises OSError: if one can't be written.
    """
    for file in files:
        if file is not None:
            file.touch()


if __name__ == '__main__':
    sys.exit(main())
