# SPDX-License-Identifier: Apache-2.0
"""Which parameters may be set when, alone and together; computed from their definitions.

The definitions (type, bounds, choices, when settable) are the specification. What the values mean
together is written here once more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from vla_ros.motion import Contract, ContractError, load_contracts
from vla_ros.parameters.definition import DEFINITIONS, JOINT_MOTIONS, Settable
from vla_ros.types import InstructionError, check_instruction

_OF_ROS = ('use_sim_time',)
_MAX_RAMP_S = 0.5
_MAX_M = 100.0


def why_not(values: Mapping[str, Any], changes: Mapping[str, Any], is_configured: bool) -> str:
    """Return why a change must be rejected; empty if it must be accepted.

    :param values: of all parameters, as they are.
    """
    for name, value in changes.items():
        if why := why_not_alone(name, value, is_configured):
            return why
    values = {**values, **changes}
    return (why_not_together(values) or why_no_contracts(values)) if is_configured else ''


def why_no_contracts(values: Mapping[str, Any]) -> str:
    """Return why the contracts cannot be read; empty: they can."""
    return '' if contracts_of(values['contracts']) is not None else 'the contracts are none'


@functools.cache
def contracts_of(path: str) -> Mapping[str, Contract] | None:
    """Return the contracts of a file, by unnorm_key; None if it has none."""
    try:
        return load_contracts(path or None)
    except ContractError:
        return None


def why_not_alone(name: str, value: Any, is_configured: bool) -> str:
    """Return why a parameter must not have this value, whatever the others are."""
    if name in _OF_ROS:
        return '' if isinstance(value, bool) else f'{name} has another type'
    definition = DEFINITIONS.get(name)
    if definition is None:
        return f'{name!r} is unknown'
    kind = list if definition.kind is tuple else definition.kind
    if type(value) is not kind:
        return f'{name} has another type'
    settable = definition.settable
    if settable is Settable.AT_START or (is_configured and settable is not Settable.ALWAYS):
        return f'{name} is fixed'
    bounds = definition.bounds
    if bounds and not bounds[0] <= value <= bounds[1]:
        return f'{name} is out of bounds'
    if definition.choices and value not in definition.choices:
        return f'{name} is none of its choices'
    if name == 'instruction':
        try:
            check_instruction(value)
        except InstructionError:
            return 'the instruction is not usable'
    return ''


def why_not_together(values: Mapping[str, Any]) -> str:
    """Return why these values cannot be in force together; empty: they can."""
    if values['inference_timeout_s'] > values['max_action_age_s']:
        return 'an inference may take longer than its action is valid'
    robots = max(1, len([name for name in values['robots'] if name]))
    frames = [one.strip() for one in values['frame_id'].split(',')]
    if len(frames) not in (1, robots):
        return 'there is another number of frames'
    is_of_joints = values['motion'] in JOINT_MOTIONS
    if values['motion'] != 'none' and not is_of_joints and not all(frames):
        return 'a motion needs a frame'
    if is_of_joints and (values['chunk_timing'] == 'from_pose' or values['workspace_m']):
        return 'only displacements go by a pose'
    if ramp_s(values) > _MAX_RAMP_S:
        return 'the ramp is too long'
    boxes = values['workspace_m'].split(';')
    if len(boxes) not in (1, robots) or not all(_is_box(box) for box in boxes):
        return 'the workspace is none'
    return ''


def ramp_s(values: Mapping[str, Any]) -> float:
    """The longer of both ramps, and at least two ticks."""
    return max(
        2 * math.sqrt(values['max_linear_speed_m_s'] / values['max_linear_jerk_m_s3']),
        2 * math.sqrt(values['max_angular_speed_rad_s'] / values['max_angular_jerk_rad_s3']),
        2 / values['control_rate_hz'],
    )


def _is_box(text: str) -> bool:
    if not text.strip():
        return True
    try:
        numbers = [float(one) for one in text.split(',')]
    except ValueError:
        return False
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    return len(numbers) == 6 and all(-_MAX_M <= low < high <= _MAX_M for low, high in pairs)


def frame_of(values: Mapping[str, Any], robot: int) -> str:
    """The frame of one robot's actions."""
    frames = [one.strip() for one in values['frame_id'].split(',')]
    return str(frames[robot if len(frames) > 1 else 0])
