# SPDX-License-Identifier: Apache-2.0
"""An evaluation as ``vla_eval`` runs it: all conditions, then the report, the plot and the film.

Each combination is played with the same starts, and the policies are compared on the same
observations.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.client.simulated_robot import BASE, SimulatedRobot
from vla_ros.console import say
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop, settled_status
from vla_ros.evaluation.episode import Episode
from vla_ros.evaluation.film import Film
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import main_image, play
from vla_ros.evaluation.plot import plot_success
from vla_ros.evaluation.report import report_text, versions
from vla_ros.evaluation.summary import Condition, Outcome, summarize
from vla_ros.measure.agreement import agreement, tokens_of
from vla_ros.measure.machine import describe_machine
from vla_ros.motion import ActionContract
from vla_ros.msg import VlaStatus
from vla_ros.parameters.overrides import read_value
from vla_ros.policies import PolicyRequest, inspect, load_policy, product
from vla_ros.policy_request import Inspection
from vla_ros.simulation import FreeWorld, World
from vla_ros.simulation.worlds import make_world
from vla_ros.types import Observation, PolicyError, PolicySpec

FILMED = 6  # episodes, at most

_NO_NOOPS = '_no_noops'  # ends the name of LIBERO's data sets that OpenVLA was fine-tuned on
# Parameters of a node whose twists start from where the tool was in the image.
FROM_POSE = {'chunk_timing': 'from_pose'}
# The node keeps the poses of this time.
_MOTION_LIMITS = {'max_action_age_s': '60.0', 'inference_timeout_s': '60.0'}
_STDERR = 2  # standard output is for the report
_COMPARED = 300  # maximum number of observations


@dataclass(frozen=True)
class Setup:
    """The options of an evaluation, and the files that it writes.

    :param command: command as the user typed it, for the report.
    :param model: checkpoint folder or hub id; empty: the one that is shipped for blocks.
    :param episodes: number of episodes for each instruction.
    :param first_seed: seed of the first start.
    :param paces: at least one, all with the same ``rows``.
    :param placements: lists for ``device``, ``dtype``, ``quantization`` and
        ``recomputed_patches``.
    :param parameters: further parameters of the node.
    :param plot: file for the success rates; None: no plot.
    :param gif: file for the film; None: no film.
    :param sheet: file for the contact sheet; None: no contact sheet.
    """

    command: str
    world: str
    model: str
    episodes: int
    first_seed: int
    simulated_time: bool
    paces: Sequence[Pace]
    controls: Sequence[str]
    placements: Mapping[str, Sequence[str | float]]
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
            file.touch()  # so that an error comes before anything is played
    with make_world(setup.world) as world:
        runs = any(pace.kind != 'step' for pace in setup.paces)
        if runs and not isinstance(world, FreeWorld):
            raise PolicyError(f'the world {setup.world} only runs in step', 'take --pace step')
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
        'rows': setup.paces[0].rows,
        'conditions': summarize(evaluation.outcomes),
    }
    print(report_text(report))
    if setup.plot:
        plot_success(report['conditions'], setup.plot)
        print(f'\n{setup.plot}: success rates')
    if setup.gif:
        evaluation.film.write_gif(setup.gif)
    if setup.sheet:
        evaluation.film.write_contact_sheet(setup.sheet)
    print(f'\n{json.dumps(report)}')


class _Node(NamedTuple):
    """What a node must be started with.

    :param simulated_time: whether its clock is the world's.
    :param parameters: names and values.
    """

    simulated_time: bool
    parameters: tuple[tuple[str, str], ...] = ()


def _nodes(setup: Setup) -> dict[_Node, list[Pace]]:
    """Return the paces of each node, in their order."""
    nodes: dict[_Node, list[Pace]] = {}
    for pace in setup.paces:
        parameters: dict[str, str] = {}
        if pace.motion == 'twist':
            parameters |= {'motion': 'twist', 'frame_id': BASE, **_MOTION_LIMITS}
            parameters |= FROM_POSE if pace.deltas_from == 'image' else {}
        if pace.rows and pace.kind != 'step':  # in step the world waits by itself
            parameters['replan_rows'] = str(pace.rows)
        simulated_time = pace.kind == 'world' or (pace.kind == 'step' and setup.simulated_time)
        node = _Node(simulated_time, tuple(parameters.items()))
        nodes.setdefault(node, []).append(pace)
    return nodes


class Evaluation:
    """An evaluation that plays all conditions and keeps their outcomes and the film."""

    def __init__(self, world: World, setup: Setup) -> None:
        """Equip the world for the policy.

        :raises PolicyError: if the policy needs what the world does not have.
        """
        self.model = setup.model or blocks_model(setup.world)
        self.outcomes: list[Outcome] = []
        self.film = Film(world.contract, FILMED if setup.gif or setup.sheet else 0)
        self._is_upside_down = world.node_parameters.get('rotate_180') == 'true'
        self._world, self._setup = world, setup
        self._seen: list[Observation] = []  # inputs of the first policy, for all policies
        self._starts: set[int] = set()  # numbers of those that begin an episode
        self._reference: NDArray[np.int64] | None = None  # tokens of the first policy
        self._parameters: dict[str, str] = {
            'unnorm_key': world.contract.unnorm_key,
            **world.node_parameters,
            **setup.parameters,
            'model': self.model,
        }
        inspection = _inspection(self._parameters)
        if 'unnorm_key' not in setup.parameters and inspection is not None:
            self._parameters['unnorm_key'] = _key(world.contract, inspection)
        self._spec = _known_spec(inspection, self._parameters['unnorm_key'])
        if self._spec is not None:
            world.equip(self._spec)

    def run(self) -> None:
        """Play all conditions, those of one loaded policy after another.

        :raises PolicyError: if one can't be played.
        """
        placements = product(PolicyRequest(self.model), **self._setup.placements)
        for request in placements:
            placement = {name: str(getattr(request, name)) for name in self._setup.placements}
            parameters, before = {**self._parameters, **placement}, len(self.outcomes)
            for node, paces in _nodes(self._setup).items():
                self._play_with_one_node(node, {**parameters, **dict(node.parameters)}, paces)
            if len(placements) > 1 and (self._spec is None or self._spec.emits_tokens):
                shared = self._agreement(parameters, request.recomputed_patches < 1)
                self.outcomes[before:] = [
                    replace(outcome, agreement=shared) for outcome in self.outcomes[before:]
                ]

    def _play_with_one_node(
        self, node: _Node, parameters: Mapping[str, str], paces: Sequence[Pace]
    ) -> None:
        """Play some paces of one loaded policy, with all controls."""
        setup = self._setup
        loop = closed_loop(
            f'/vla_eval_{os.getpid()}',  # a namespace in which no robot listens
            parameters,
            say,
            node.simulated_time,
            self._spec,
            stdout=_STDERR,
        )
        with loop as robot:
            for control, pace in itertools.product(setup.controls, paces):
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
        self._starts.add(len(self._seen))

        def watch(seen: Observation, action: NDArray[np.float64] | None) -> None:
            image = main_image(seen)
            self.film.add(image[::-1, ::-1] if self._is_upside_down else image, action)
            first = self._reference is None
            if first and action is not None and len(self._seen) < _COMPARED:
                self._seen.append(replace(seen, instruction=said))

        episode = play(robot, self._world, seed, asked, said, pace, watch)
        self.film.end(episode.success)
        return episode

    def _agreement(self, parameters: Mapping[str, str], keeps_patches: bool) -> dict[str, Any]:
        """Return the agreement of this policy's tokens with those of the first one.

        :param keeps_patches: whether an answer also depends on the images before.
        """
        say(f'predicting {len(self._seen)} observations once more, outside ROS')
        policy = load_policy(_request(parameters))
        starts = self._starts if keeps_patches else None
        token_ids = tokens_of(policy, self._seen, self._parameters['unnorm_key'], starts)
        policy.close()
        self._reference = token_ids if self._reference is None else self._reference
        return agreement(self._reference, token_ids)


def _inspection(parameters: Mapping[str, str]) -> Inspection | None:
    """Return what is known of a node's policy; None if only the node can tell.

    So it is while the policy's files must be downloaded. Of an unusable model the node reports the
    error.
    """
    try:
        return inspect(_request(parameters))
    except PolicyError:
        return None


def _key(contract: ActionContract, inspection: Inspection) -> str:
    """Return the key of the world's data set, or that of the same data without idle actions."""
    key, without = contract.unnorm_key, contract.unnorm_key + _NO_NOOPS
    return without if key not in (keys := inspection.unnorm_keys) and without in keys else key


def _known_spec(inspection: Inspection | None, unnorm_key: str) -> PolicySpec | None:
    """Return the spec of a policy; None if only the node can tell."""
    try:
        return None if inspection is None else inspection.spec(unnorm_key)
    except PolicyError:
        return None


def _request(parameters: Mapping[str, str]) -> PolicyRequest:
    """Return the request for the policy of a node with these parameters."""
    return PolicyRequest.of({name: read_value(text) for name, text in parameters.items()})


def _condition(model: str, status: VlaStatus, control: str, pace: Pace) -> Condition:
    policy = status.policy
    return Condition(
        PolicyRequest(
            model,
            device=policy.device,
            dtype=policy.dtype,
            quantization=policy.quantization,
            recomputed_patches=policy.recomputed_patches,
        ),
        pace=pace.kind,
        added_latency_s=pace.added_latency_s,
        control=control,
        deltas_from=pace.deltas_from,
        motion=pace.motion,
    )
