# SPDX-License-Identifier: Apache-2.0
"""The section ``server`` of a contract: what a foreign policy server calls its inputs.

A server of openpi, OpenVLA or OpenVLA-OFT does not say which inputs its policy needs. A key is one
name, or a list of names for a map within a map. Independent of ROS and torch. Any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vla_ros.motion.contract_fields import ContractError
from vla_ros.text import NAME, is_name, quoted

Keys = tuple[str, ...]  # from the outermost map inwards

_FIELDS = ('images', 'state', 'prompt', 'rows', 'channels_first')
_MAX_CAMERAS = 16
_MAX_ROWS = 200


@dataclass(frozen=True)
class ServerKeys:
    """The inputs of a server's policy, and the rows of its answers.

    :param images: camera of the node and key of the server, in the policy's order.
    :param state: key of the state; empty if the policy takes none.
    :param prompt: key of the instruction.
    :param rows: K, rows of a chunk.
    :param channels_first: whether images are sent as [3, H, W].
    """

    images: tuple[tuple[str, Keys], ...]
    state: Keys
    prompt: Keys
    rows: int
    channels_first: bool


def read_server_keys(what: str, content: Any) -> ServerKeys:
    """Return the section.

    :param what: the section, for errors.
    :raises ContractError: if it is malformed.
    """
    expected = f'a mapping with images, prompt and rows; allowed: {", ".join(_FIELDS)}'
    if not isinstance(content, dict):
        raise ContractError(f'{what} is {quoted(content)}', value=content, expected=expected)
    for name in content:
        if name not in _FIELDS:
            raise ContractError(f'{what}: {quoted(name)} is unknown', expected=expected)
    missing = [name for name in ('images', 'prompt', 'rows') if name not in content]
    if missing:
        raise ContractError(f'{what}: missing: {", ".join(missing)}', expected=expected)
    rows, first = content['rows'], content.get('channels_first', False)
    if type(rows) is not int or not 1 <= rows <= _MAX_ROWS:
        raise ContractError(
            f'{what}: rows is {quoted(rows)}', value=rows, expected=f'1 to {_MAX_ROWS}'
        )
    if type(first) is not bool:
        raise ContractError(
            f'{what}: channels_first is {quoted(first)}', value=first, expected='true or false'
        )
    state = content.get('state')
    return ServerKeys(
        _images(f'{what}: images', content['images']),
        () if state is None else _keys(f'{what}: state', state),
        _keys(f'{what}: prompt', content['prompt']),
        rows,
        first,
    )


def _images(what: str, content: Any) -> tuple[tuple[str, Keys], ...]:
    if not isinstance(content, Mapping) or not 1 <= len(content) <= _MAX_CAMERAS:
        raise ContractError(
            f'{what} is {quoted(content)}',
            value=content,
            expected='a mapping of cameras to keys: {image: observation/image}',
        )
    for camera in content:
        if not isinstance(camera, str) or not is_name(camera):
            raise ContractError(f'{what} has {quoted(camera)}', value=camera, expected=NAME)
    return tuple((camera, _keys(f'{what}: {camera}', key)) for camera, key in content.items())


def _keys(what: str, content: Any) -> Keys:
    names = content if isinstance(content, list) else [content]
    if not 1 <= len(names) <= 4 or not all(isinstance(one, str) and is_name(one) for one in names):
        raise ContractError(
            f'{what} is {quoted(content)}',
            value=content,
            expected='a name, or a list of names for a map within a map: [images, cam_high]',
        )
    return tuple(names)
