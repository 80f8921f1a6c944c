# SPDX-License-Identifier: Apache-2.0
"""``vla_doctor``: check a set-up before anything moves.

Each line has a level (OK, WARN or FAIL), the finding, and what to do. The exit code is 1 if there
is a FAIL. The doctor reads and listens. It loads a policy only with --measure, and moves nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import positive
from vla_ros.doctor.facts import NODE_NAME, Facts, Setup
from vla_ros.doctor.findings import Finding, Level, run_checks, worst

_ROS_ARGUMENTS = '--ros-args'
_ASSIGNMENT = ':='

# In the order of their dependencies. Each is imported only when its turn comes, since an import may
# be what is broken.
_CHECKS = {
    'versions': 'versions.check_versions',
    'ros': 'versions.check_ros',
    'parameters': 'parameters.check_parameters',
    'devices': 'devices.check_devices',
    'server': 'server.check_server',
    'checkpoint': 'checkpoint.check_checkpoint',
    'unnorm_key': 'checkpoint.check_unnorm_key',
    'contract': 'contract.check_contract',
    'memory': 'memory.check_memory',
    'measure': 'measure.check_by_measuring',
    'graph': 'graph.check_graph',
    'middleware': 'middleware.check_middleware',
    'rate': 'rate.check_rate',
    'time_limits': 'rate.check_time_limits',
}

Check = Callable[[Facts], Iterable[Finding]]


def main(arguments: list[str] | None = None) -> int:
    argv = sys.argv[1:] if arguments is None else arguments
    own, for_ros = _split(argv)
    parser = _parser()
    options = parser.parse_intermixed_args(own)
    setup = _setup(parser, options, for_ros)

    def tell(finding: Finding) -> None:
        if not options.json:
            print(finding, flush=True)

    try:
        findings = run_checks(_checks(options), Facts(setup), tell)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    counts = {level.value: sum(one.level is level for one in findings) for level in Level}
    if options.json:
        shown = [{**asdict(finding), 'level': finding.level.value} for finding in findings]
        print(json.dumps({**counts, 'findings': shown}))
    else:
        print(', '.join(f'{count} {level}' for level, count in counts.items()))
    return exit_codes.FAILED if worst(findings) is Level.FAIL else 0


def _checks(options: argparse.Namespace) -> dict[str, Check]:
    without = set() if options.measure else {'measure'}
    without |= {'graph'} if options.no_ros else set()
    if importlib.util.find_spec('rclpy') is None:  # the check ros reports it
        without |= {'graph', 'middleware'}
    return {name: _lazy(path) for name, path in _CHECKS.items() if name not in without}


def _lazy(path: str) -> Check:
    """Return a function of a module in vla_ros.doctor that is imported when it is called."""
    module, _, name = path.partition('.')

    def check(facts: Facts) -> Iterable[Finding]:
        found: Check = getattr(importlib.import_module(f'vla_ros.doctor.{module}'), name)
        return found(facts)

    return check


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments, and those between ``--ros-args`` and ``--``, without rclpy."""
    if _ROS_ARGUMENTS not in argv:
        return argv, []
    first = argv.index(_ROS_ARGUMENTS)
    end = argv.index('--', first) if '--' in argv[first:] else len(argv)
    return argv[:first] + argv[end + 1 :], argv[first + 1 : end]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla_doctor',
        description=__doc__,
        epilog='--ros-args -r __ns:=/NAMESPACE -r FROM:=TO, as for the node',
    )
    parser.add_argument(
        'words',
        nargs='*',
        metavar='MODEL | NAME:=VALUE',
        help='checkpoint folder, hub id, ws://... or scripted:...; parameters of the node',
    )
    parser.add_argument(
        '--params-file', metavar='FILE', type=Path, help='YAML file with parameters of the node'
    )
    parser.add_argument(
        '--image', metavar='TOPIC', help='topic of the camera; for several robots: TOPIC,TOPIC,...'
    )
    parser.add_argument(
        '--seconds', type=positive, default=3.0, help='listening time [s] (default: %(default)s)'
    )
    parser.add_argument('--no-ros', action='store_true', help='do not check topics')
    parser.add_argument('--measure', action='store_true', help='load the policy and time it')
    parser.add_argument('--json', action='store_true', help='one JSON object instead of lines')
    return parser


def _setup(
    parser: argparse.ArgumentParser, options: argparse.Namespace, for_ros: list[str]
) -> Setup:
    """Return the set-up; exit with 2 if the arguments are invalid."""
    models = [word for word in options.words if _ASSIGNMENT not in word]
    if len(models) > 1:
        parser.error(f'{" and ".join(models)}: one model is allowed')
    assignments = [word.split(_ASSIGNMENT, 1) for word in options.words if _ASSIGNMENT in word]
    if {'-p', '--param', '--params-file'} & set(for_ros):
        parser.error(f'parameters go before {_ROS_ARGUMENTS}: NAME:=VALUE, --params-file FILE')
    namespaces = [word.partition(_ASSIGNMENT)[2] for word in for_ros if word.startswith('__ns:=')]
    names = [match[1] for match in map(NODE_NAME.fullmatch, for_ros) if match]
    node = '/'.join([*namespaces[-1:], names[-1] if names else 'vla'])
    _check_ros_arguments(parser, for_ros)
    return Setup(
        model=''.join(models),
        assignments=dict(assignments),
        parameters_file=options.params_file,
        node=f'/{node.lstrip("/")}',
        cameras=tuple(options.image.split(',')) if options.image else (),
        ros_arguments=tuple(for_ros),
        seconds=options.seconds,
    )


def _check_ros_arguments(parser: argparse.ArgumentParser, for_ros: list[str]) -> None:
    """Exit with 2 if ROS rejects the arguments."""
    if not for_ros or importlib.util.find_spec('rclpy') is None:
        return
    import rclpy

    context = rclpy.Context()
    try:
        rclpy.init(args=[_ROS_ARGUMENTS, *for_ros], context=context)
    except RuntimeError as error:
        parser.error(' '.join(str(error).split()))
    rclpy.shutdown(context=context)


if __name__ == '__main__':
    sys.exit(main())
