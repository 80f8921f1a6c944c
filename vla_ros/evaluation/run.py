"""An evaluation as ``vla_eval`` runs it: all conditions, then the report, the plot and the film.

Each combination is tried with the same starts, and the policies are compared on the same images.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.console import say
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop, settled_status
from vla_ros.evaluation.episode import Episode
from vla_ros.evaluation.film import Film
from vla_ros.evaluation.play import Pace, play
from vla_ros.evaluation.plot import plot_success
from vla_ros.evaluation.report import report_text, versions
from vla_ros.evaluation.summary import Condition, Outcome, summarize
from vla_ros.measure.agreement import agreement, tokens_of
from vla_ros.measure.machine import describe_machine
from vla_ros.msg import VlaStatus
from vla_ros.policies import PolicyRequest, load_policy, product
from vla_ros.simulation import FreeWorld, World
from vla_ros.simulation.worlds import make_world
from vla_ros.types import Observation, PolicyError

FILMED = 6  # episodes, at most

_STDERR = 2  # standard output is for the report
_COMPARED = 300  # images, at most


@dataclass(frozen=True)
class Setup:
    """What to evaluate, and where to write it.

    :param command: as the user typed it, for the report.
    :param model: checkpoint folder or hub id; empty: the one that is shipped for blocks.
    :param episodes: number of each instruction.
    :param first_seed: of the starts.
    :param placements: lists for ``device``, ``dtype`` and ``quantization``.
    :param parameters: further ones of the node.
    :param plot: file for the success rates; None: no plot. So are ``gif`` and ``sheet``.
    """

    command: str
    world: str
    model: str
    episodes: int
    first_seed: int
    simulated_time: bool
    paces: Sequence[Pace]
    controls: Sequence[str]
    placements: Mapping[str, Sequence[str]]
    parameters: Mapping[str, str]
    plot: Path | None
    gif: Path | None
    sheet: Path | None


def run(setup: Setup) -> None:
    """Play everything, and report it even if an error or a signal ends it early.

    :raises PolicyError: if a condition can't be played.
    :raises OSError: if a file cannot be written.
    """
    for file in (setup.plot, setup.gif, setup.sheet):
        if file is not None:
            file.touch()  # now, and not when all has been played
    with make_world(setup.world) as world:
        if any(pace.free for pace in setup.paces) and not isinstance(world, FreeWorld):
            raise PolicyError(f'the world {setup.world} cannot run freely; take --pace step')
        evaluation = Evaluation(world, setup)
        try:
            evaluation.run()
        finally:
            if evaluation.outcomes:
                _report(evaluation, setup)


def _report(evaluation: Evaluation, setup: Setup) -> None:
    report: dict[str, Any] = {
        'command': setup.command,
        'date': datetime.now().astimezone().isoformat(timespec='seconds'),
        'machine': describe_machine(),
        'versions': versions(),
        'world': setup.world,
        'model': evaluation.model,
        'seeds': [setup.first_seed, setup.first_seed + setup.episodes - 1],
        'simulated_time': setup.simulated_time,
        'conditions': summarize(evaluation.outcomes),
    }
    print(report_text(report))
    if setup.plot:
        plot_success(report['conditions'], setup.plot)
        print(f'\n{setup.plot}: how often it succeeded')
    if setup.gif:
        evaluation.film.write_gif(setup.gif)
    if setup.sheet:
        evaluation.film.write_contact_sheet(setup.sheet)
    print(f'\n{json.dumps(report)}')


class Evaluation:
    """Plays all conditions, and keeps what is shown and compared."""

    def __init__(self, world: World, setup: Setup) -> None:
        self.model = setup.model or blocks_model()
        self.outcomes: list[Outcome] = []
        self.film = Film(world.contract, FILMED if setup.gif or setup.sheet else 0)
        self._stands_on_its_head = world.node_parameters.get('rotate_180') == 'true'
        self._world, self._setup = world, setup
        self._seen: list[Observation] = []  # by the first policy, for the others
        self._reference: NDArray[np.int64] | None = None  # its tokens
        self._parameters: dict[str, str] = {
            'unnorm_key': world.contract.unnorm_key,
            **world.node_parameters,
            **setup.parameters,
            'model': self.model,
        }

    def run(self) -> None:
        """All conditions, those of one loaded policy after another.

        :raises PolicyError: if one can't be played.
        """
        placements = product(PolicyRequest(self.model), **self._setup.placements)
        for request in placements:
            placement = {name: getattr(request, name) for name in self._setup.placements}
            parameters, before = {**self._parameters, **placement}, len(self.outcomes)
            self._play_with_one_node(parameters)
            if len(placements) > 1:
                shared = self._agreement(parameters)
                self.outcomes[before:] = [
                    replace(outcome, agreement=shared) for outcome in self.outcomes[before:]
                ]

    def _play_with_one_node(self, parameters: Mapping[str, str]) -> None:
        """All that is tried with one loaded policy."""
        setup = self._setup
        namespace = f'/vla_eval_{os.getpid()}'  # no robot listens there
        node = closed_loop(namespace, parameters, say, setup.simulated_time, stdout=_STDERR)
        with node as robot:
            for control, pace in itertools.product(setup.controls, setup.paces):
                condition = _condition(self.model, robot.latest, control, pace)
                say(str(condition))
                before = settled_status(robot).counters
                robot.black = control == 'black'
                episodes = self._episodes(robot, control, pace)
                after = settled_status(robot).counters
                drafted, accepted = after.drafted - before.drafted, after.accepted - before.accepted
                self.outcomes.append(Outcome(condition, episodes, drafted, accepted))

    def _episodes(self, robot: SimulatedRobot, control: str, pace: Pace) -> list[Episode]:
        setup, instructions = self._setup, self._world.instructions
        episodes: list[Episode] = []
        successes = 0
        for seed, index in itertools.product(
            range(setup.first_seed, setup.first_seed + setup.episodes),
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
        """How often this policy says what the first one says to the same images."""
        say(f'asking it about {len(self._seen)} images once more, outside ROS')
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
