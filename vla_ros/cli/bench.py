# SPDX-License-Identifier: Apache-2.0
"""``vla_bench``: the time of an inference by stage, compared with this machine's limits.

Without a model it surveys the devices: exactness, then openvla-7b's, VLA-Adapter-Pro's and
OpenVLA-OFT's shapes with random weights, in --minutes. With one it measures every combination of
the values in the lists; the combinations take turns. --pipeline measures one combination through
ROS: the latency from image to action, and what policy and camera cost each other. The last line is
JSON with all measurements. Only --pipeline needs ROS.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from vla_ros.bench.ceilings import measure_ceilings
from vla_ros.bench.combinations import Combination, combine, locate
from vla_ros.bench.measure import Infer, Task, measure
from vla_ros.bench.plot import plot_stages
from vla_ros.bench.profile import Operator, operator_table, profile_inference
from vla_ros.bench.random_weights import described
from vla_ros.bench.report import report_text, summarize
from vla_ros.bench.survey import survey
from vla_ros.bench.survey_report import survey_text
from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import boolean, count, list_of, positive
from vla_ros.console import complain, say
from vla_ros.errors import VlaError
from vla_ros.images.files import read_image
from vla_ros.measure.machine import describe_machine
from vla_ros.measure.statistics import recipe_text
from vla_ros.openvla.hub import resolve_model
from vla_ros.pipeline.summary import PipelineError, pipeline_tables
from vla_ros.policies import PolicyRequest, inspect
from vla_ros.synthetic.random_model import cached_random_checkpoint, default_cache
from vla_ros.synthetic.shapes import SHAPES


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    arguments = sys.argv[1:] if arguments is None else arguments
    is_survey = options.model is None and options.random is None
    if options.model is not None and options.random is not None:
        parser.error('name either a model (folder, hub id or scripted:...) or --random SHAPE')
    if is_survey:
        _check_survey_options(parser, options)
    elif options.pipeline:
        _check_pipeline_options(parser, options)
    try:
        if is_survey:
            _run_survey(options, arguments)
        else:
            _run(options, arguments)
        return 0
    except (VlaError, OSError) as error:
        complain('vla_bench', error)
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    # Checks the values before a model is downloaded.
    combinations = combine(
        options.device,
        options.dtype,
        options.quantization,
        options.compile,
        options.batch_size,
        options.threads or [torch.get_num_threads()],
        options.draft,
        options.model or '',
        options.plain,
        options.cuda_graphs,
    )
    for file in filter(None, (options.profile, options.plot)):
        file.touch()  # fails before anything is measured
    recipe = _recipe(arguments)
    with _model(options) as model:
        combinations = locate(combinations, model)
        name = f'{options.random}, random weights' if options.random else model
        recipe |= {'model': name, 'instruction': options.instruction}
        if options.pipeline:
            _run_pipeline(options, combinations[0], recipe)
        else:
            _run_combinations(options, combinations, recipe)


def _recipe(arguments: list[str]) -> dict[str, Any]:
    return {
        'command': shlex.join(['vla_bench', *arguments]),
        'date': datetime.now().astimezone().isoformat(timespec='seconds'),
        'machine': describe_machine(),
    }


def _run_survey(options: argparse.Namespace, arguments: list[str]) -> None:
    found = survey(options.device, options.minutes, options.instruction, say, options.tiny)
    report = {**_recipe(arguments), **found}
    print(survey_text(report))
    if report['operators']:
        print(f'\n{operator_table([Operator(**one) for one in report["operators"]])}')
    print(f'\n{json.dumps(report)}')


def _run_combinations(
    options: argparse.Namespace, combinations: list[Combination], recipe: dict[str, Any]
) -> None:
    operators: list[Operator] = []

    def look_closer(infer: Infer) -> None:
        operators.extend(profile_inference(infer, options.profile))

    images = [read_image(file) for file in options.images]
    task = Task(options.instruction, options.repeats, images, options.random or '')
    measurements, took_turns = measure(
        task, combinations, say, look_closer if options.profile else None
    )
    has_costs = measurements[0].model is not None
    ceilings = measure_ceilings(combinations, say) if has_costs else []
    report: dict[str, Any] = {
        **recipe,
        'took_turns': took_turns,
        'combinations': summarize(measurements, ceilings),
        'operators': [asdict(operator) for operator in operators],
    }
    print(report_text(report))
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
            f'--pipeline needs ROS 2 and the messages of this package ({error})', 'source both'
        ) from error
    task = PipelineTask(
        model=combination.policy.model,
        unnorm_key=combination.policy.unnorm_key,
        combination=combination,
        threads=options.threads[0] if options.threads else None,
        instruction=options.instruction,
        rate_hz=options.rate,
        repeats=options.repeats,
        seconds=options.seconds,
    )
    pipeline = measure_pipeline(task, say)
    report = {**recipe, 'pipeline': pipeline}
    print(f'{recipe_text(report)}\n{task.model}, {combination}\n\n{pipeline_tables(pipeline)}')
    print(f'\n{json.dumps(report)}')


@contextmanager
def _model(options: argparse.Namespace) -> Iterator[str]:
    """Yield the model's name on this machine; download or write a checkpoint if necessary."""
    if options.random is not None and options.pipeline:  # the node reads files
        yield str(cached_random_checkpoint(options.random, options.cache, say))
    elif options.random is not None:
        with described(options.random) as folder:
            yield folder
    elif (found := inspect(PolicyRequest(options.model, options.revision or ''))) is None:
        yield str(resolve_model(options.model, options.revision, lambda step: say(step.text)))
    else:
        yield options.model if found.folder is None else str(found.folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla_bench', description=__doc__, epilog='LIST: values separated by commas'
    )
    _add_model(parser)
    _add_survey(parser.add_argument_group('survey', 'without a model: all of a machine'))
    _add_lists(parser.add_argument_group('combinations', 'every combination of the lists is run'))
    _add_measurement(parser.add_argument_group('measurement'))
    _add_pipeline(
        parser.add_argument_group(
            'through ROS', 'one combination; --repeats is the number of turns of each kind'
        )
    )
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'model',
        nargs='?',
        help='checkpoint folder, hub id (is downloaded), or scripted:...; none: a survey',
    )
    parser.add_argument('--revision', help='branch, tag or commit of a hub id')
    parser.add_argument(
        '--random', choices=SHAPES, help='draw random weights of this shape on the device'
    )
    parser.add_argument(
        '--cache',
        type=Path,
        default=default_cache(),
        help='folder for --random with --pipeline, which needs files (default: %(default)s)',
    )


def _add_survey(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--minutes', type=positive, default=9.0, help='of the survey (default: %(default)s)'
    )
    group.add_argument('--tiny', action='store_true', help='tiny shapes, to try the survey itself')


def _add_lists(group: argparse._ArgumentGroup) -> None:
    for name, read, default, text in (
        ('--device', str, 'auto', 'auto, cpu, mps, cuda, cuda:N'),
        ('--dtype', str, 'auto', 'auto, float32, bfloat16, float16'),
        ('--quantization', str, 'none', 'none, int8, int4'),
        ('--compile', boolean, 'false', 'false, true'),
        ('--cuda-graphs', boolean, 'true', 'true, false'),
        ('--batch-size', count, '1', 'numbers of observations'),
        ('--draft', str, 'none', 'none, right, wrong'),
        ('--threads', count, None, "numbers of threads on the CPU (default: torch's)"),
    ):
        group.add_argument(
            name, metavar='LIST', type=list_of(read), default=default, help=f'of {text}'
        )


def _add_measurement(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--repeats', type=count, default=10, help='(default: %(default)s)')
    group.add_argument(
        '--instruction',
        default='pick up the red cup and put it into the drawer',
        help='(default: %(default)s)',
    )
    group.add_argument(
        '--images', type=Path, nargs='+', default=[], help='image files (default: noise)'
    )
    group.add_argument(
        '--plain', action='store_true', help="also measure the reference's plain path, first"
    )
    group.add_argument('--profile', metavar='FILE', type=Path, help='trace of one more inference')
    group.add_argument('--plot', metavar='FILE.png', type=Path, help='the stages as bars')


def _add_pipeline(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--pipeline', action='store_true', help='measure the node together with a camera process'
    )
    group.add_argument(
        '--rate', type=positive, default=30.0, help="camera's rate [Hz] (default: %(default)s)"
    )
    group.add_argument(
        '--seconds', type=positive, default=5.0, help='least time of a turn (default: %(default)s)'
    )


def _check_survey_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 if the options are of a measurement of one model."""
    own = {'device', 'minutes', 'tiny', 'instruction', 'cache'}
    defaults = vars(parser.parse_args([]))
    others = [name for name, value in vars(options).items() if value != defaults[name]]
    if wrong := [name for name in others if name not in own]:
        words = ', '.join('--' + name.replace('_', '-') for name in wrong)
        parser.error(f'{words}: name a model (folder, hub id or scripted:...) or --random SHAPE')


def _check_pipeline_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 if the options ask for more than --pipeline measures."""
    lists = ('device', 'dtype', 'quantization', 'compile', 'cuda_graphs', 'batch_size', 'threads')
    several = [name for name in lists if len(getattr(options, name) or ()) > 1]
    if several or options.batch_size != [1] or options.draft != ['none']:
        parser.error('--pipeline measures one combination, one action at a time: no lists')
    if options.profile or options.plot or options.images or options.plain:
        parser.error('--profile, --plot, --images and --plain do not go with --pipeline')


if __name__ == '__main__':
    sys.exit(main())
