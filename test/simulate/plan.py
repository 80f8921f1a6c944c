# SPDX-License-Identifier: Apache-2.0
"""What a seed decides beforehand: robots, policy, parameters, which faults occur, where and when.

Faults are dealt: in every fifty seeds from a multiple of fifty on, each kind occurs at least once.
The rest of a seed's faults, and all their details, are drawn by the seed itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from random import Random
from typing import Any

from simulate import goal_faults, live_faults  # noqa: F401 - their kinds are among KINDS
from simulate.faults import KINDS
from simulate.live_faults import ACCELERATIONS, BOX, JOINTS_FILE, SPEEDS, STATE_FILES
from vla_ros.parameters.definition import DEFINITIONS, JOINT_MOTIONS
from vla_ros.types import ONE_CAMERA

FAULTS_END_S = 20.0  # then everything is healed
HEAL_S = 15.0  # in which all robots have to act again

_BLOCK = 50  # seeds in which every kind occurs
_MIN_FAULTS = 3
_MOST_MORE = 5
_UNNORM_KEYS = ('bridge_orig', 'bridge_orig', 'fractal20220817_data', '', 'nobody_knows')
_SIMULATED_EVERY = 4  # seeds: in one of them the node goes by simulated time
_CAMERAS = ('front', 'wrist')
_FREE_RUNNING_TOLERANCE_S = 0.25  # more than the time between two images of a camera
_FREE_RUNNING_HZ = 10.0  # or more
_POSE_KINDS = tuple(name for name in KINDS if name.startswith('pose_'))  # need from_pose


@dataclass(frozen=True)
class Fault:
    """
    :param robot: the number of the one that it concerns, if it concerns one.
    """

    kind: str
    start_s: float
    length_s: float
    robot: int


@dataclass(frozen=True)
class Shape:
    """What the policy needs and gives.

    :param cameras: names; one of ``image`` alone.
    :param state_dim: values of the state; 0: the policy takes none.
    :param horizon: rows of a chunk.
    :param period_s: time between two rows; None: the contract's.
    """

    cameras: tuple[str, ...]
    state_dim: int
    horizon: int
    period_s: float | None


@dataclass(frozen=True)
class Plan:
    """
    :param shape: of the policy, and so of every robot's cameras and state.
    :param parameters: of the node, that differ from their defaults.
    :param camera_hz: of each robot; all of its cameras have about the same.
    :param cameras_reliable: of each robot.
    :param synchronised: whether one trigger captures the images of all cameras of a robot.
    :param inference_s: an inference takes that long, from and to.
    :param sends_goals: whether the operator sends goals, and not instructions.
    :param operator_s: so often the operator looks, from and to, before the last phase.
    """

    seed: int
    robots: tuple[str, ...]
    simulated_time: bool
    shape: Shape
    parameters: dict[str, Any]
    faults: tuple[Fault, ...]
    camera_hz: tuple[float, ...]
    cameras_reliable: tuple[bool, ...]
    synchronised: bool
    inference_s: tuple[float, float]
    sends_goals: bool
    operator_s: tuple[float, float]

    @property
    def has_tool(self) -> bool:
        """Whether motions or states may need the pose of the tool, now or by a live parameter."""
        return self.parameters['motion'] in ('twist', 'pose') or bool(self.shape.state_dim)

    @property
    def has_joints(self) -> bool:
        """Whether the motions are of joints."""
        return self.parameters['motion'] in JOINT_MOTIONS

    def value(self, parameter: str) -> Any:
        """Of a parameter at the start."""
        return self.parameters.get(parameter, DEFINITIONS[parameter].default)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the robots; one that is empty where there is only one."""
        return self.robots or ('',)


def make_plan(seed: int) -> Plan:
    random = Random(f'plan/{seed}')
    robots = random.choices(((), ('a',), ('a', 'b'), ('a', 'b', 'c')), (3, 1, 3, 2))[0]
    simulated, shape = _is_simulated(seed), _shape(seed)
    kinds = _deal(seed)
    possible = [
        name
        for name, kind in KINDS.items()
        if kind.is_possible(simulated, shape) and name not in _POSE_KINDS
    ]
    least = max(0, _MIN_FAULTS - len(kinds))
    kinds += random.choices(possible, k=random.randint(least, least + _MOST_MORE))
    parameters = _parameters(random, simulated, robots)
    if parameters['chunk_timing'] == 'from_pose':
        kinds += random.sample(_POSE_KINDS, random.randint(0, 2))
    random.shuffle(kinds)
    faults = sorted(
        (
            Fault(
                kind,
                random.uniform(1.0, FAULTS_END_S - 1.0),
                random.choice((0.1, 0.3, 1.0, 2.0, 4.0)) * random.uniform(0.5, 1.5),
                random.randrange(max(1, len(robots))),
            )
            for kind in kinds
        ),
        key=lambda one: one.start_s,
    )
    parameters['replan_rows'] = Random(f'replan/{seed}').choice((0, 0, 0, 1, 2, 4))
    if not simulated:
        parameters.update(_other_motion(seed))
    for kind in kinds:
        parameters.update(KINDS[kind].parameters)
    _fit_motion(parameters, Random(f'joints/{seed}'))
    if shape.state_dim:
        parameters.update(_state_source(parameters, Random(f'state/{seed}')))
    synchronised = len(shape.cameras) == 1 or random.random() < 0.6
    parameters.update(_part_parameters(random, synchronised, parameters['max_image_age_s']))
    longest_s = min(0.25, 0.6 * parameters['inference_timeout_s'])
    shortest_s = random.uniform(0.01, 0.5 * longest_s)
    count = max(1, len(robots))
    slowest_hz = max(5.0 if synchronised else _FREE_RUNNING_HZ, 2.5 / parameters['image_timeout_s'])
    return Plan(
        seed=seed,
        robots=robots,
        simulated_time=simulated,
        shape=shape,
        parameters=parameters,
        faults=tuple(faults),
        camera_hz=tuple(random.uniform(slowest_hz, 15.0) for _ in range(count)),
        cameras_reliable=tuple(
            parameters.get('image_reliability') == 'reliable' or random.random() < 0.5
            for _ in range(count)
        ),
        synchronised=synchronised,
        inference_s=(shortest_s, random.uniform(shortest_s, longest_s)),
        sends_goals=Random(f'goals/{seed}').random() < 0.3,
        operator_s=random.choice(((0.3, 1.0), (0.5, 3.0))),
    )


def _is_simulated(seed: int) -> bool:
    return seed % _SIMULATED_EVERY == _SIMULATED_EVERY - 1


@functools.cache
def _shape(seed: int) -> Shape:
    random = Random(f'shape/{seed}')
    return Shape(
        cameras=random.choice(((ONE_CAMERA,), _CAMERAS)),
        state_dim=random.choice((0, 4)),
        horizon=random.choice((1, 4)),
        period_s=random.choice((None, 0.05, 0.1, 0.2)),
    )


def _deal(seed: int) -> list[str]:
    """The kinds that fall to this seed, of those dealt to all seeds of its block."""
    first = seed - seed % _BLOCK
    random = Random(f'deck/{first}')
    block = range(first, first + _BLOCK)
    dealt: list[str] = []
    for name, kind in KINDS.items():
        seeds = [one for one in block if kind.is_possible(_is_simulated(one), _shape(one))]
        if seed in random.sample(seeds, 2):
            dealt.append(name)
    return dealt


def _parameters(random: Random, simulated: bool, robots: tuple[str, ...]) -> dict[str, Any]:
    inference_timeout_s = round(random.uniform(0.2, 0.8), 2)
    parameters: dict[str, Any] = {
        'model': 'simulated',
        'unnorm_key': random.choice(_UNNORM_KEYS),
        'frame_id': 'base_link',
        'motion': random.choice(('twist', 'twist', 'none')),
        'chunk_timing': random.choice(('published', 'published', 'timed', 'timed', 'from_pose')),
        'max_pose_age_s': random.choice((0.15, 0.2, 0.5)),
        'workspace_m': random.choice(('', '', BOX)),
        'control_rate_hz': random.choice((20.0, 20.0, 25.0, 40.0)),
        'max_linear_speed_m_s': random.choice((0.1, 0.25, 1.0)),
        'max_angular_speed_rad_s': random.choice((0.5, 1.0, 3.0)),
        'max_command_age_s': random.choice((1.0, 2.0)),
        'first_image_timeout_s': round(random.uniform(0.5, 3.0), 2),
        'image_timeout_s': round(random.uniform(0.3, 1.5), 2),
        'frozen_image_timeout_s': random.choice((0.0, 0.7, 1.5)),
        'no_instruction_timeout_s': round(random.uniform(0.5, 5.0), 2),
        'max_instruction_age_s': random.choice((0.0, 0.0, 0.0, 3.0)),
        'max_image_age_s': round(random.uniform(0.15, 0.5), 2),
        'inference_timeout_s': inference_timeout_s,
        'max_action_age_s': round(inference_timeout_s + random.choice((0.25, 0.5, 1.0)), 2),
        'hang_timeout_s': round(random.uniform(0.5, 1.5), 2),
        'load_timeout_s': 2.0,
        'warmup_timeout_s': 2.0,
    }
    if robots:
        parameters['robots'] = list(robots)
    if simulated:
        parameters['use_sim_time'] = True
    if random.random() < 0.3:
        parameters['instruction'] = 'stack the blocks'
    if random.random() < 0.3:
        parameters['autostart'] = False
    if random.random() < 0.2:
        parameters['enabled'] = False
    if random.random() < 0.2:
        parameters['image_reliability'] = random.choice(('reliable', 'best_effort'))
    if random.random() < 0.1:
        parameters['image_transport'] = 'compressed'
    return parameters


def _other_motion(seed: int) -> dict[str, Any]:
    """In one of some seeds. (A controller in a simulation goes by that one's time.)"""
    random = Random(f'motion/{seed}')
    if random.random() < 0.65:
        return {}
    return {'motion': random.choice(('pose', 'pose', 'forward', 'joint_trajectory'))}


def _fit_motion(parameters: dict[str, Any], random: Random) -> None:
    """Of joints: only displacements go by a tool's pose."""
    if parameters['motion'] not in JOINT_MOTIONS:
        return
    if parameters['chunk_timing'] == 'from_pose':
        parameters['chunk_timing'] = 'published'
    parameters['workspace_m'] = ''
    parameters['contracts'] = JOINTS_FILE
    parameters['max_joint_speed_rad_s'] = random.choice(SPEEDS)
    parameters['max_joint_acceleration_rad_s2'] = random.choice(ACCELERATIONS)


def _state_source(parameters: dict[str, Any], random: Random) -> dict[str, Any]:
    """Of the state: a topic, or parts by a contract. (Motions of joints have another contract.)"""
    if parameters['motion'] in JOINT_MOTIONS or random.random() < 0.5:
        return {}
    file = random.choice(STATE_FILES)
    has_state = parameters['unnorm_key'] != 'nobody_knows' or file == STATE_FILES[0]
    return {
        'contracts': file,
        'state_from': random.choice(('auto', 'auto', 'contract')) if has_state else 'auto',
    }


def _part_parameters(random: Random, synchronised: bool, max_image_age_s: float) -> dict[str, Any]:
    """Those that decide which images and which state become one observation."""
    parameters = {'state_timeout_s': round(random.uniform(0.4, 1.5), 2)}
    if synchronised:
        return {**parameters, 'sync_tolerance_s': random.choice((0.03, 0.05, 0.08))}
    return {
        **parameters,
        'sync_tolerance_s': _FREE_RUNNING_TOLERANCE_S,
        'max_image_age_s': max(max_image_age_s, 0.35),  # images wait for those of other cameras
    }
