"""``vla_eval``: how often a policy does what it is told, in a simulated world, through the node.

Every combination of the values in the lists is tried with the same starts. The last line is JSON
with all that came of it. In step, the world waits for each action; --pace free lets it go on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.cli.arguments import assignment, count, list_of, one_of, positive, seconds, whole
from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.console import complain, interrupting, say
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop
from vla_ros.evaluation.episode import Episode
from vla_ros.evaluation.film import Film
from vla_ros.evaluation.play import DELTAS, Pace, play
from vla_ros.evaluation.plot import plot_success
from vla_ros.evaluation.report import report_text, versions
from vla_ros.evaluation.summary import CONTROLS, PACES, Condition, Outcome, summarize
from vla_ros.measure.agreement import agreement, tokens_of
from vla_ros.measure.machine import describe_machine
from vla_ros.msg import VlaStatus
from vla_ros.openvla.placement import DTYPES, QUANTIZATIONS
from vla_ros.policies import PolicyRequest, load_policy, product
from vla_ros.simulation import FreeWorld, World
from vla_ros.simulation.worlds import WORLDS, make_world
from vla_ros.types import Observation, PolicyError

_STDERR = 2  # standard output is for the report
_OWN_OPTIONS = {
    'model': '--model',
    'device': '--device',
    'dtype': '--dtype',
    'quantization': '--quantization',
    'use_sim_time': '--sim-time',
}
_PLACEMENT = ('device', 'dtype', 'quantization')
_COMPARED = 300  # pictures, at most
_FILMED = 6  # episodes, at most


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if 'free' in options.pace and options.sim_time:
        parser.error("--sim-time goes with --pace step only: a free-running world has the wall's")
    if options.pace == ['step'] and (
        options.added_latency != [0.0] or options.deltas_from != ['now']
    ):
        parser.error('--added-latency and --deltas-from need --pace free: in step, the world waits')
    if options.world != 'blocks' and not options.model:
        parser.error(f'--world {options.world} needs --model: the shipped one knows blocks only')
    if own := sorted({name for name, _ in options.parameter} & set(_OWN_OPTIONS)):
        parser.error(f'-p {own[0]} has an option of its own: {_OWN_OPTIONS[own[0]]}')
    try:
        with interrupting():
            _run(options, sys.argv[1:] if arguments is None else arguments)
        return 0
    except (PolicyError, OSError) as error:
        complain('vla_eval', error)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    for file in (options.plot, options.gif, options.sheet):
        if file is not None:
            file.touch()  # now, and not when all has been played
    with make_world(options.world) as world:
        if 'free' in options.pace and not isinstance(world, FreeWorld):
            raise PolicyError(f'the world {options.world} can not run freely; take --pace step')
        evaluation = _Evaluation(world, options)
        try:
            evaluation.run()
        finally:  # whatever ended it: what was played is not lost
            if evaluation.outcomes:
                _report(evaluation, options, shlex.join(['vla_eval', *arguments]))


def _report(evaluation: _Evaluation, options: argparse.Namespace, command: str) -> None:
    report: dict[str, Any] = {
        'command': command,
        'date': datetime.now().astimezone().isoformat(timespec='seconds'),
        'machine': describe_machine(),
        'versions': versions(),
        'world': options.world,
        'model': evaluation.model,
        'seeds': [options.first_seed, options.first_seed + options.episodes - 1],
        'simulated_time': options.sim_time,
        'conditions': summarize(evaluation.outcomes),
    }
    print(report_text(report))
    if options.plot:
        plot_success(report['conditions'], options.plot)
        print(f'\n{options.plot}: how often it succeeded')
    if options.gif:
        evaluation.film.write_gif(options.gif)
    if options.sheet:
        evaluation.film.write_contact_sheet(options.sheet)
    print(f'\n{json.dumps(report)}')


class _Evaluation:
    """Plays all conditions, and keeps what is shown and compared."""

    def __init__(self, world: World, options: argparse.Namespace) -> None:
        self.model = options.model or blocks_model()
        self.outcomes: list[Outcome] = []
        self.film = Film(world.contract, _FILMED if options.gif or options.sheet else 0)
        self._stands_on_its_head = world.node_parameters.get('rotate_180') == 'true'
        self._world, self._options = world, options
        self._seen: list[Observation] = []  # by the first policy, for the others
        self._reference: NDArray[np.int64] | None = None  # its tokens
        self._parameters: dict[str, str] = {
            'unnorm_key': world.contract.unnorm_key,
            **world.node_parameters,
            **dict(options.parameter),
            'model': self.model,
        }

    def run(self) -> None:
        """All conditions, those of one loaded policy after another.

        :raises PolicyError: if one can't be played.
        """
        options = self._options
        lists = {name: getattr(options, name) for name in _PLACEMENT}
        placements = product(PolicyRequest(self.model), **lists)
        for request in placements:
            placement = {name: getattr(request, name) for name in _PLACEMENT}
            parameters, before = {**self._parameters, **placement}, len(self.outcomes)
            self._play_with_one_node(parameters)
            if len(placements) > 1:
                shared = self._agreement(parameters)
                self.outcomes[before:] = [
                    replace(outcome, agreement=shared) for outcome in self.outcomes[before:]
                ]

    def _play_with_one_node(self, parameters: Mapping[str, str]) -> None:
        """All that is tried with one loaded policy."""
        options = self._options
        namespace = f'/vla_eval_{os.getpid()}'  # no robot listens there
        node = closed_loop(namespace, parameters, say, options.sim_time, stdout=_STDERR)
        with node as robot:
            for control, pace in itertools.product(options.control, _paces(options)):
                condition = _condition(self.model, robot.status, control, pace)
                say(str(condition))
                before = robot.settled_status().counters
                robot.black = control == 'black'
                episodes = self._episodes(robot, control, pace)
                after = robot.settled_status().counters
                drafted, accepted = after.drafted - before.drafted, after.accepted - before.accepted
                self.outcomes.append(Outcome(condition, episodes, drafted, accepted))

    def _episodes(self, robot: SimulatedRobot, control: str, pace: Pace) -> list[Episode]:
        options, instructions = self._options, self._world.instructions
        episodes: list[Episode] = []
        successes = 0
        for seed, index in itertools.product(
            range(options.first_seed, options.first_seed + options.episodes),
            range(len(instructions)),
        ):
            asked = instructions[index]
            said = instructions[index - 1] if control == 'swapped' else asked
            episode = self._episode(robot, seed, asked, said, pace)
            episodes.append(episode)
            successes += episode.success
            say(
                f'{successes}/{len(episodes)}: seed {seed}, told to {said}: '
                f'{"success" if episode.success else "failed"}, {episode.steps} actions'
                f'{episode.failure and "; "}{episode.failure}'
            )
        return episodes

    def _episode(
        self, robot: SimulatedRobot, seed: int, asked: str, said: str, pace: Pace
    ) -> Episode:
        self.film.begin(said)

        def watch(image: NDArray[np.uint8], action: NDArray[np.float64] | None) -> None:
            self.film.add(image[::-1, ::-1] if self._stands_on_its_head else image, action)
            first = self._reference is None
            if first and action is not None and len(self._seen) < _COMPARED:
                self._seen.append(Observation.of_one(image.copy(), said, 0))

        episode = play(robot, self._world, seed, asked, said, pace, watch)
        self.film.end(episode.success)
        return episode

    def _agreement(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """How often this policy says what the first one says to the same pictures."""
        say(f'asking it about {len(self._seen)} pictures once more, outside ROS')
        policy = load_policy(_request(parameters))
        token_ids = tokens_of(policy, self._seen, self._parameters['unnorm_key'])
        policy.close()
        self._reference = token_ids if self._reference is None else self._reference
        return agreement(self._reference, token_ids)


def _request(parameters: Mapping[str, str]) -> PolicyRequest:
    """Return the policy that these parameters of the node ask for."""
    get = parameters.get
    return PolicyRequest(
        model=parameters['model'],
        revision=get('revision', ''),
        device=parameters['device'],
        dtype=parameters['dtype'],
        quantization=parameters['quantization'],
        compile=get('compile') == 'true',
        unnorm_key=parameters['unnorm_key'],
        contracts=get('contracts', ''),
        preprocessing=get('preprocessing', 'raw'),
        rotate_180=get('rotate_180') == 'true',
    )


def _paces(options: argparse.Namespace) -> list[Pace]:
    paces = []
    for pace in options.pace:
        if pace == 'step':
            paces.append(Pace(time_limit_s=options.time_limit))
            continue
        paces += [
            Pace(True, options.rate, latency_s, deltas_from, options.time_limit)
            for deltas_from, latency_s in itertools.product(
                options.deltas_from, options.added_latency
            )
        ]
    return paces


def _condition(model: str, status: VlaStatus, control: str, pace: Pace) -> Condition:
    policy = status.policy
    return Condition(
        PolicyRequest(
            model,
            device=policy.device,
            dtype=policy.dtype,
            quantization=policy.quantization,
        ),
        pace='free' if pace.free else 'step',
        added_latency_s=pace.added_latency_s,
        control=control,
        deltas_from=pace.deltas_from,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla_eval', description=__doc__, epilog='LIST: values with commas between them'
    )
    add = parser.add_argument
    add('--world', choices=WORLDS, default='blocks', help='(default: %(default)s)')
    add('--model', help='checkpoint folder or hub id (default: the one for blocks that is shipped)')
    add('--episodes', type=count, default=10, help='of each instruction (default: %(default)s)')
    add('--first-seed', type=whole, default=0, help='of the starts (default: %(default)s)')
    add('--time-limit', type=positive, help="of an episode, seconds (default: the world's)")
    add('--sim-time', action='store_true', help="let the robot's clock be the world's")
    lists: list[tuple[str, tuple[str, ...], str]] = [
        ('--dtype', ('auto', *DTYPES), 'what the model computes in'),
        ('--quantization', QUANTIZATIONS, 'weights of 8 or 4 bits'),
        ('--pace', tuple(PACES), 'whether the world waits for each action'),
        ('--control', tuple(CONTROLS), 'what is done to the instruction or the picture'),
        (
            '--deltas-from',
            DELTAS,
            "free: where a displacement starts from: the arm's place now, or when the picture was "
            'captured',
        ),
    ]
    for name, choices, text in lists:
        add(
            name,
            metavar='LIST',
            type=list_of(one_of(choices)),
            default=choices[0],
            help=f'of {", ".join(choices)}: {text} (default: %(default)s)',
        )
    add('--rate', type=positive, default=30.0, help="free: the camera's, Hz (default: %(default)s)")
    add(
        '--added-latency',
        metavar='LIST',
        type=list_of(seconds),
        default='0',
        help='free: seconds that pictures come late (default: %(default)s)',
    )
    add(
        '--device',
        metavar='LIST',
        type=list_of(str),
        default='auto',
        help='of auto, cpu, mps, cuda, cuda:N (default: %(default)s)',
    )
    add(
        '-p',
        dest='parameter',
        metavar='NAME:=VALUE',
        type=assignment,
        action='append',
        default=[],
        help="another of the node's parameters",
    )
    add('--plot', metavar='FILE.png', type=Path, help='success rates')
    add('--gif', metavar='FILE.gif', type=Path, help=f'the first {_FILMED} episodes')
    add('--sheet', metavar='FILE.png', type=Path, help='a few pictures of each of these')
    return parser


if __name__ == '__main__':
    sys.exit(main())
