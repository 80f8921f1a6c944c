# SPDX-License-Identifier: Apache-2.0
"""openpi's websocket and its dialects, as functions from frames to requests and back.

The server sends its metadata first; then requests and replies alternate. The dialects share that.
A request's keys tell them apart, and vLLM-Omni's path:

openpi             a reply is a map with ``actions``; an error is text, and the connection ends
vla_ros            openpi with more keys (``wire/dialect.py``); an error is a map
RoboArena          ``endpoint`` infer or reset; a reply is an array, an error is text and the end
vLLM-Omni          the same keys; an error is a map, a reset is answered by a map
starVLA            ``type`` ping or infer, ``examples``; a reply is a map with ``data``

Sources: Physical-Intelligence/openpi 15a9616, RoboArena's policy_server.py, vLLM-Omni 0.30.0,
starVLA's websocket_policy_server.py of 2026. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from vla_ros.serving.inputs import Keys, observation_of
from vla_ros.types import PolicyError, Prediction
from vla_ros.wire import (
    Fields,
    Request,
    ServedPolicy,
    ServerError,
    WireError,
    error_map,
    pack,
    read_request,
    reply_map,
)
from vla_ros.wire.dialect import IMAGES

PATH = '/'
OMNI_PATH = '/v1/realtime/robot/openpi'

CLOSE_UNREADABLE = 1003
CLOSE_ERROR = 1011


class Style(Enum):
    """The dialect of a request."""

    OPENPI = 'openpi'
    OURS = 'vla_ros'
    ROBOARENA = 'roboarena'
    OMNI = 'vllm-omni'
    STARVLA = 'starvla'


@dataclass(frozen=True)
class Reply:
    """A frame for the client.

    :param close: code with which the connection ends afterwards; 0: it stays open.
    """

    data: bytes | str
    close: int = 0


@dataclass(frozen=True)
class Message:
    """A frame of a client.

    :param request: None for ``reset`` and ``ping``, which have a reply without an inference, and
        for a frame with an error.
    :param request_id: starVLA's, which its reply repeats.
    """

    style: Style
    request: Request | None = None
    is_reset: bool = False
    error: ServerError | None = None
    request_id: str = ''


def greeting(served: ServedPolicy) -> dict[str, Any]:
    """Return the metadata, with the keys that foreign clients look for."""
    spec = next(iter(served.specs.values()))
    wrists = sum('wrist' in camera for camera in spec.cameras)
    return {
        **served.to_metadata(),
        'image_resolution': None,  # RoboArena: images of any size
        'needs_wrist_camera': wrists > 0,
        'n_external_cameras': len(spec.cameras) - wrists,
        'needs_stereo_camera': False,
        'needs_session_id': False,
        'action_space': spec.action_space.name.lower(),
        'action_chunk_size': spec.horizon,  # starVLA
        'available_unnorm_keys': [key for key in served.specs if key],
    }


def read(
    message: Any, served: ServedPolicy, keys: Keys, stamp_ns: int, path: str = PATH
) -> Message:
    """Return what a client sent. An error in it is part of the result, in its dialect.

    :param message: an unpacked frame.
    :raises WireError: if it is not a map.
    """
    given = Fields(message, 'message')
    style = _style(given, path)
    request_id = given.get('request_id')
    shown = request_id if isinstance(request_id, str) and len(request_id) <= 200 else ''
    try:
        if style in (Style.ROBOARENA, Style.OMNI) and given.text('endpoint', 'infer') == 'reset':
            return Message(style, is_reset=True)
        if style is Style.STARVLA and given.text('type', 'infer') == 'ping':
            return Message(style, request_id=shown)
        request = _request(style, given, served, keys, stamp_ns)
    except (WireError, PolicyError) as error:
        wrong = ServerError('request', error.what, error.advice)
        return Message(style, error=wrong, request_id=shown)
    return Message(style, request, request_id=shown)


def write(message: Message, answer: Prediction | ServerError, timing: Mapping[str, float]) -> Reply:
    """Return the reply to a request.

    :param timing: openpi's ``server_timing``, milliseconds.
    """
    if message.style is Style.OURS:
        if isinstance(answer, ServerError):
            return Reply(pack(error_map(answer)))
        return Reply(pack({**reply_map(answer), 'server_timing': dict(timing)}))
    if isinstance(answer, Prediction) and answer.invalid is not None:
        answer = ServerError('invalid', f'the actions must not move a robot: {answer.invalid}')
    if isinstance(answer, ServerError):
        return _error(message, answer)
    if message.style is Style.STARVLA:
        data = {'actions': answer.actions[np.newaxis]}
        return Reply(pack({**_status(message, True), 'data': data}))
    if message.style is Style.ROBOARENA:
        return Reply(pack(answer.actions))
    if message.style is Style.OMNI:
        return Reply(pack(answer.actions.astype(np.float32)))
    return Reply(pack({'actions': answer.actions, 'server_timing': dict(timing)}))


def write_aside(message: Message) -> Reply:
    """Return the reply to a reset or a ping."""
    if message.style is Style.ROBOARENA:
        return Reply('reset successful')
    if message.style is Style.OMNI:
        return Reply(pack({'status': 'reset successful'}))
    return Reply(pack({**_status(message, True), 'type': 'ping'}))


def unreadable(error: WireError) -> Reply:
    """Return the reply to a frame that is of no dialect; the connection ends."""
    return Reply(str(error), CLOSE_UNREADABLE)


def _style(given: Fields, path: str) -> Style:
    if path == OMNI_PATH:
        return Style.OMNI
    if IMAGES in given:
        return Style.OURS
    if 'examples' in given or 'payload' in given or given.get('type') == 'ping':
        return Style.STARVLA
    return Style.ROBOARENA if 'endpoint' in given else Style.OPENPI


def _request(
    style: Style, given: Fields, served: ServedPolicy, keys: Keys, stamp_ns: int
) -> Request:
    message = {key: given.get(key) for key in given}
    if style is Style.OURS:
        request = read_request(message, stamp_ns)
        served.spec(request.unnorm_key)
        return request
    in_order = False
    if style is Style.STARVLA:
        message, in_order = _example(given), True
    unnorm_key = Fields(message, 'observation').text('unnorm_key', '')
    in_force, spec = served.spec(unnorm_key)
    if in_order:
        message = _named(message, spec.cameras)
    observation = observation_of(message, spec, keys, stamp_ns, in_order)
    return Request(observation, unnorm_key=unnorm_key or in_force)


def _example(given: Fields) -> dict[str, Any]:
    """Return the only example of starVLA's message, with the message's unnorm_key."""
    payload = given.map('payload') if 'payload' in given else given
    examples = payload.get('examples')
    if not isinstance(examples, list) or len(examples) != 1:
        raise WireError('a connection is one robot', expected='one example in examples')
    example = Fields(examples[0], 'example')
    taken = {key: example.get(key) for key in example}
    taken.setdefault('unnorm_key', payload.get('unnorm_key'))
    return taken


def _named(example: dict[str, Any], cameras: tuple[str, ...]) -> dict[str, Any]:
    """Return an example whose list of images has the policy's names, in the policy's order."""
    images = example.pop('image', None)
    if not isinstance(images, list) or len(images) != len(cameras):
        raise WireError(
            'image of the example is not usable',
            expected=f'a list of {len(cameras)} images: {", ".join(cameras)}',
        )
    return {**example, **dict(zip(cameras, images, strict=True))}


def _error(message: Message, error: ServerError) -> Reply:
    text = f'{error.what}; {error.advice}' if error.advice else error.what
    if message.style is Style.STARVLA:
        return Reply(pack({**_status(message, False), 'error': {'message': text}}))
    if message.style is Style.OMNI:
        return Reply(pack({'type': 'error', 'message': text}))
    return Reply(text, CLOSE_ERROR)


def _status(message: Message, ok: bool) -> dict[str, Any]:
    return {
        'status': 'ok' if ok else 'error',
        'ok': ok,
        'type': 'inference_result',
        'request_id': message.request_id or 'default',
    }
