# SPDX-License-Identifier: Apache-2.0
"""``POST /act`` of OpenVLA's and OFT's servers, as functions from bodies to requests and back.

OpenVLA sends ``image``, ``instruction`` and perhaps ``unnorm_key``, and gets one action [D]. OFT
sends ``full_image``, keys with ``wrist`` in the policy's order, ``state`` and ``instruction``, and
gets a list of actions. The body may be encoded twice, and then the reply is. Any error is the
JSON text ``"error"`` with status 200. Sources: openvla's vla-scripts/deploy.py at c8f03f4,
openvla-oft's at 213c5ff. Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.serving.inputs import Keys, observation_of
from vla_ros.types import Prediction
from vla_ros.wire import (
    Fields,
    Limits,
    Request,
    ServedPolicy,
    ServerError,
    WireError,
    pack_body,
    unpack_body,
)

PATH = '/act'
LIMITS = Limits(frame_bytes=24_000_000)  # base64 takes a third more than bytes
ERROR = b'"error"'

_OPENVLA_IMAGE = 'image'


@dataclass(frozen=True)
class Body:
    """A request, and the form of its reply."""

    request: Request
    is_chunk: bool
    is_double: bool


def read(body: bytes, served: ServedPolicy, keys: Keys, stamp_ns: int) -> Body:
    """Return the request of a body.

    :raises WireError: if it is malformed, or lacks an input of the policy.
    :raises PolicyError: if there are no statistics of its unnorm_key.
    """
    message, is_double = unpack_body(body, LIMITS)
    given = Fields(message, 'body')
    unnorm_key = given.text('unnorm_key', '')
    in_force, spec = served.spec(unnorm_key)
    is_chunk = _OPENVLA_IMAGE not in given
    if not is_chunk and len(spec.cameras) > 1:
        raise WireError(
            'the body has the image of a policy with one camera',
            expected=f'images of {", ".join(spec.cameras)}',
        )
    observation = observation_of(message, spec, keys, stamp_ns, in_order=True)
    return Body(Request(observation, unnorm_key=unnorm_key or in_force), is_chunk, is_double)


def write(body: Body, answer: Prediction | ServerError) -> bytes:
    """Return the reply to a request."""
    if isinstance(answer, ServerError) or answer.invalid is not None:
        return ERROR
    value = list(answer.actions) if body.is_chunk else answer.action
    return pack_body(value, body.is_double)
