# SPDX-License-Identifier: Apache-2.0
"""Parameters that are set in any state, valid or not, alone or together; and what is read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from simulate.faults import for_a_while, kind

if TYPE_CHECKING:
    from simulate.plan import Fault
    from simulate.world import World

BOX = '0.35, 0.45, -0.05, 0.05, 0.27, 0.33'  # where a tool begins
_FILES = Path(__file__).with_name('contracts')
JOINTS_FILE = str(_FILES / 'joints.yaml')
STATE_FILES = tuple(str(_FILES / name) for name in ('state.yaml', 'state_of_joints.yaml'))
SPEEDS = (0.5, 1.0, 2.0)  # of joints
ACCELERATIONS = (10.0, 20.0, 50.0)
CONTRACTS = tuple(
    str(_FILES / name) for name in ('other.yaml', 'joints.yaml', 'wrong.yaml', 'no.yaml')
)


def _between(low: float, high: float) -> Callable[[Random], Any]:
    return lambda random: round(random.uniform(low, high), 3)


def _one_of(*values: Any) -> Callable[[Random], Any]:
    return lambda random: random.choice(values)


# Values that are allowed by themselves, but not all together.
_LIVE: dict[str, Callable[[Random], Any]] = {
    'max_linear_speed_m_s': _between(0.005, 1.0),
    'max_angular_speed_rad_s': _between(0.01, 3.0),
    'max_linear_jerk_m_s3': _between(5.0, 300.0),
    'max_angular_jerk_rad_s3': _between(20.0, 900.0),
    'control_rate_hz': _between(20.0, 60.0),
    'image_timeout_s': _between(0.3, 2.0),
    'inference_timeout_s': _between(0.05, 1.0),
    'max_action_age_s': _between(0.4, 2.0),
    'max_image_age_s': _between(0.03, 0.6),
    'sync_tolerance_s': _between(0.02, 0.3),
    'state_timeout_s': _between(0.4, 1.5),
    'first_image_timeout_s': _between(0.5, 3.0),
    'no_instruction_timeout_s': _between(0.5, 5.0),
    'max_instruction_age_s': _one_of(0.0, 3.0),
    'max_command_age_s': _one_of(0.5, 1.0, 2.0, 4.0),
    'hang_timeout_s': _between(0.5, 2.0),
    'load_timeout_s': _between(1.5, 3.0),
    'warmup_timeout_s': _between(1.5, 3.0),
    'max_pose_age_s': _between(0.1, 0.5),
    'frame_id': _one_of('base_link', 'tool', '', 'one, two', 'one,two,three'),
    'contracts': _one_of('', '', *CONTRACTS, *STATE_FILES),
    'chunk_timing': _one_of('published', 'timed', 'from_pose'),
    'workspace_m': _one_of('', BOX, '0.2,0.6,-0.2,0.2,0.1,0.4', '1, 2', f'{BOX}; {BOX}', ';'),
    'replan_rows': _one_of(0, 1, 2, 4),
    'max_joint_speed_rad_s': _one_of(*SPEEDS),
    'max_joint_acceleration_rad_s2': _one_of(*ACCELERATIONS),
    'max_joint_age_s': _one_of(0.15, 0.2, 0.4),
    'max_joint_lead_rad': _one_of(0.15, 0.3, 0.5),
    'max_lead_m': _one_of(0.05, 0.1, 0.2),
    'state_from': _one_of('auto', 'topic', 'contract'),
    'image_transport': _one_of('raw', 'compressed'),
    'image_reliability': _one_of('auto', 'reliable', 'best_effort'),
}
# What an action means, and what the node listens to.
_MEANINGS = ('contracts', 'chunk_timing', 'workspace_m', 'replan_rows', 'frame_id')
_SOURCES = ('image_transport', 'image_reliability', 'state_from', 'contracts')
_WRONG: tuple[tuple[str, Any], ...] = (
    ('max_linear_speed_m_s', 0.0),
    ('max_linear_speed_m_s', float('nan')),
    ('control_rate_hz', 1e9),
    ('image_timeout_s', '1.0'),
    ('inference_timeout_s', 1),
    ('max_action_age_s', float('inf')),
    ('frame_id', None),
    ('model', 'another'),
    ('motion', 'twist'),
    ('unnorm_key', 'bridge_orig'),
    ('enabled', True),
    ('latch_file', '/tmp/x'),
    ('chunk_timing', 'soon'),
    ('replan_rows', -1),
    ('image_transport', 'theora'),
    ('contracts', '/'),
    ('nonsense', 1.0),
)


def _set(
    world: World, atomically: bool, wrong: bool = False, names: Sequence[str] = tuple(_LIVE)
) -> None:
    random = world.random
    names = random.sample(names, random.randint(1, min(4, len(names))))
    values = [(name, _LIVE[name](random)) for name in names]
    if world.plan.has_joints:  # whose positions nobody takes for a state, too
        values = [(name, '' if value in STATE_FILES else value) for name, value in values]
    if wrong:
        values.insert(random.randint(0, len(values)), random.choice(_WRONG))
    world.set_together(values) if atomically else world.set_each(values)


def restore(world: World) -> None:
    """Set what the plan has, in one request."""
    world.set_together([(name, world.plan.value(name)) for name in _LIVE])


def _later(world: World, action: Callable[[], None]) -> None:
    def act() -> None:
        if not world.is_healed:
            action()

    world.scheduler.after(world.random.uniform(0.0, 1.5), act)


@kind()
def parameters_live(world: World, fault: Fault) -> None:
    for _ in range(world.random.randint(1, 4)):
        _later(world, lambda: _set(world, atomically=False))
    for_a_while(world, fault, lambda: restore(world))


@kind()
def parameters_live_together(world: World, fault: Fault) -> None:
    for _ in range(world.random.randint(1, 4)):
        _later(world, lambda: _set(world, atomically=True))
    for_a_while(world, fault, lambda: restore(world))


@kind()
def meaning_changes_live(world: World, fault: Fault) -> None:
    """Of the actions; while the robot moves, perhaps, and back."""
    for _ in range(world.random.randint(2, 6)):
        _later(world, lambda: _set(world, world.random.random() < 0.5, names=_MEANINGS))
    for_a_while(world, fault, lambda: restore(world))


@kind()
def sources_change_live(world: World, fault: Fault) -> None:
    """The node listens to other topics, or by another quality."""
    for _ in range(world.random.randint(1, 4)):
        _later(world, lambda: _set(world, world.random.random() < 0.5, names=_SOURCES))
    for_a_while(world, fault, lambda: restore(world))


@kind()
def parameters_live_and_wrong(world: World, fault: Fault) -> None:
    """One of them; set together all are rejected."""
    for _ in range(world.random.randint(2, 5)):
        atomically = world.random.random() < 0.7
        _later(world, lambda atomically=atomically: _set(world, atomically, wrong=True))
    for_a_while(world, fault, lambda: restore(world))


@kind()
def parameters_in_every_state(world: World, fault: Fault) -> None:
    """While it loads, while it is inactive, and before it is configured."""
    for delay_s, number in ((0.0, 4), (0.3, 2), (0.6, 1), (0.8, 3)):
        world.change_state(number, delay_s=delay_s)
    for _ in range(6):
        _later(world, lambda: _set(world, world.random.random() < 0.5))
    for_a_while(world, fault, lambda: restore(world))


@kind()
def parameters_read(world: World, fault: Fault) -> None:
    """Twice; some are set in between."""
    world.read_parameters(list(_LIVE))
    _later(world, lambda: _set(world, world.random.random() < 0.5, wrong=True))
    world.scheduler.after(0.2, lambda: world.read_parameters(list(_LIVE)))
    for_a_while(world, fault, lambda: restore(world))
