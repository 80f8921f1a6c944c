# SPDX-License-Identifier: Apache-2.0
"""The messages between a robot's node and a policy server, and their bounded decoding.

Client (``remote/``) and server (``serving/``) share this room, so that both mean the same. It opens
no connection. Pure functions, any thread. Every error is a :class:`WireError`.

Frames of a websocket (``frames.py``)::

    pack(value, keys=ARRAY_KEYS_BYTES) -> bytes      msgpack; arrays as openpi writes them, with
                                                     ARRAY_KEYS_TEXT as vla-eval writes them
    unpack(frame, limits) -> Any                     msgpack; arrays in either form, images as well

Bodies of REST (``bodies.py``)::

    pack_body(value, double=False) -> bytes          JSON; arrays as json_numpy writes them
    unpack_body(body, limits) -> (Any, bool)         and whether the body was encoded twice

Both directions know None, bool, int, float, str, bytes (frames only), lists, maps with text keys,
arrays of kinds b, i, u and f, and scalars of these kinds. Everything else is an error. ``Limits``
bounds bytes, items, depth and pixels before memory is taken. Decoded arrays are read-only and in
this machine's byte order.

Images (``encoded_images.py``)::

    encoded_image(rgb, 'png' | 'jpeg') -> dict       what ``pack`` sends in place of an array;
                                                     ``unpack`` gives uint8 [H, W, 3] again

Our own dialect (``dialect.py``), over the frames above::

    ServedPolicy(...).to_metadata() -> dict          the first frame of the server, with foreign
    ServedPolicy.from_metadata(map) -> ServedPolicy  keys added by the server
    is_ours(metadata) -> bool
    request_map(Request) -> dict, read_request(map) -> Request
    reply_map(Prediction) -> dict, read_reply(map) -> Prediction
    error_map(ServerError) -> dict, error_of(map) -> ServerError | None

Untrusted maps of other dialects are read with :class:`Fields` (``fields.py``), which checks types
and bounds and names the key in each error. ``token.py`` has the token of a connection.
"""

from vla_ros.wire.bodies import pack_body, unpack_body
from vla_ros.wire.dialect import (
    Request,
    ServedPolicy,
    ServerError,
    error_map,
    error_of,
    is_ours,
    read_reply,
    read_request,
    reply_map,
    request_map,
)
from vla_ros.wire.encoded_images import encoded_image
from vla_ros.wire.errors import WireError
from vla_ros.wire.fields import Fields
from vla_ros.wire.frames import ARRAY_KEYS_BYTES, ARRAY_KEYS_TEXT, pack, unpack
from vla_ros.wire.limits import MAX_FRAME_BYTES, Limits

__all__ = [
    'ARRAY_KEYS_BYTES',
    'ARRAY_KEYS_TEXT',
    'MAX_FRAME_BYTES',
    'Fields',
    'Limits',
    'Request',
    'ServedPolicy',
    'ServerError',
    'WireError',
    'encoded_image',
    'error_map',
    'error_of',
    'is_ours',
    'pack',
    'pack_body',
    'read_reply',
    'read_request',
    'reply_map',
    'request_map',
    'unpack',
    'unpack_body',
]
