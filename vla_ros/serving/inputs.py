# SPDX-License-Identifier: Apache-2.0
"""From the observation of a foreign client to one of ours: which key is which camera.

Clients name cameras by their own robot. A camera is never guessed where two would fit: a policy
that reads the wrist camera in place of the other one moves a robot wrongly. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.types import Observation, PolicySpec
from vla_ros.wire import Fields, WireError
from vla_ros.wire.fields import checked_image

Keys = Mapping[str, Sequence[str]]  # a camera's name, or 'state' -> keys of the request

STATE = 'state'
_MAX_DEPTH = 3
_PREFIXES = ('', 'observation/', 'images/', 'observation/images/', 'observation.images.')
_STATES = (
    ('observation/state',),
    ('state',),
    ('states',),
    ('observation.state',),
    ('proprio',),
    ('observation/joint_position', 'observation/gripper_position'),  # DROID
)
_PROMPTS = ('prompt', 'instruction', 'task_description', 'lang', 'task')
_WRIST = 'wrist'


def read_keys(text: str) -> dict[str, tuple[str, ...]]:
    """Return the keys of ``camera=key,state=key+key``, the option ``--keys``.

    :raises WireError: if the text has another form.
    """
    keys = {}
    for item in filter(None, text.split(',')):
        name, between, listed = item.partition('=')
        names = tuple(listed.split('+'))
        if not (name and between and all(names)) or (name != STATE and len(names) > 1):
            raise WireError(
                f'{item!r} does not say which key is which input',
                value=item,
                expected='CAMERA=KEY or state=KEY+KEY, with commas between them',
            )
        keys[name] = names
    return keys


def observation_of(
    message: Any, spec: PolicySpec, keys: Keys, stamp_ns: int, in_order: bool = False
) -> Observation:
    """Return the observation of a client's map.

    :param message: map; maps within it are joined by ``/``.
    :param keys: keys that the user chose.
    :param stamp_ns: time of the receipt.
    :param in_order: whether wrist cameras come in the policy's order, as OpenVLA-OFT has it.
    :raises WireError: if a camera, the state or the instruction is missing or ambiguous.
    """
    leaves = _leaves(message)
    images = {
        camera: _image(leaves[key], key)
        for camera, key in _cameras(leaves, spec.cameras, keys, in_order).items()
    }
    state = _state(leaves, keys, spec.state_dim) if spec.state_dim else None
    return Observation(images, _prompt(leaves), dict.fromkeys(images, stamp_ns), state)


def _leaves(message: Any, prefix: str = '', depth: int = 1) -> dict[str, Any]:
    fields = Fields(message, 'observation')
    leaves: dict[str, Any] = {}
    for key in fields:
        value = fields.get(key)
        if isinstance(value, dict) and depth < _MAX_DEPTH:
            leaves |= _leaves(value, f'{prefix}{key}/', depth + 1)
        else:
            leaves[prefix + key] = value
    return leaves


def _cameras(
    leaves: Mapping[str, Any], cameras: Sequence[str], keys: Keys, in_order: bool
) -> dict[str, str]:
    """Return the key of each camera."""
    found = {}
    for camera in cameras:
        wanted = keys.get(camera) or [prefix + camera for prefix in _PREFIXES]
        there = [key for key in wanted if key in leaves]
        if there:
            found[camera] = there[0]
        elif camera in keys:
            raise _missing(f'has no key {keys[camera][0]!r} for the camera {camera!r}', leaves)
    taken = set(found.values())
    rest = [key for key in _image_keys(leaves) if key not in taken]
    for is_wrist in (False, True):
        asked = [one for one in cameras if one not in found and (_WRIST in one) is is_wrist]
        given = [key for key in rest if (_WRIST in key) is is_wrist]
        if not asked:
            continue
        if len(asked) != len(given) or (len(asked) > 1 and not (in_order and is_wrist)):
            raise _missing(f'does not say which image is of {", ".join(asked)}', leaves)
        found |= zip(asked, given, strict=True)
    return {camera: found[camera] for camera in cameras}


def _image_keys(leaves: Mapping[str, Any]) -> list[str]:
    return [
        key for key, value in leaves.items() if isinstance(value, np.ndarray) and value.ndim == 3
    ]


def _missing(what: str, leaves: Mapping[str, Any]) -> WireError:
    images = ', '.join(sorted(_image_keys(leaves))[:20]) or 'no images'
    return WireError(
        f'the observation {what}; its images are: {images}',
        "start the server with --keys CAMERA=KEY,... or use the camera's name as the key",
    )


def _image(value: Any, key: str) -> NDArray[np.uint8]:
    """Return an image as [H, W, 3]; openpi's ALOHA has [3, H, W]."""
    is_cube = isinstance(value, np.ndarray) and value.ndim == 3
    if is_cube and value.shape[0] == 3 and value.shape[2] != 3:
        value = np.ascontiguousarray(value.transpose(1, 2, 0))
    return checked_image(value, f'{key} of observation')


def _state(leaves: Mapping[str, Any], keys: Keys, state_dim: int) -> NDArray[np.float64]:
    candidates = (tuple(keys[STATE]),) if STATE in keys else _STATES
    for names in candidates:
        if all(leaves.get(name) is not None for name in names):
            break
    else:
        raise WireError(
            'the observation has no state',
            'send it, or start the server with --keys state=KEY+KEY',
            expected=f'{state_dim} values',
        )
    parts = []
    for name in names:
        given = leaves[name]
        alone = {name: [given] if isinstance(given, int | float) else given}
        rows = 1 if not isinstance(given, np.ndarray) else given.ndim
        parts.append(Fields(alone, 'observation').floats(name, rows).ravel())
    state = np.concatenate(parts)
    if state.size != state_dim or not np.isfinite(state).all():
        raise WireError(
            f'the state of the observation has {state.size} values',
            value=state.size,
            expected=f'{state_dim} finite ones',
        )
    return state


def _prompt(leaves: Mapping[str, Any]) -> str:
    fields = Fields(dict(leaves), 'observation')
    for key in _PROMPTS:
        if key in fields:
            return fields.text(key)
    raise WireError('the observation has no instruction', expected=f'one of {", ".join(_PROMPTS)}')
