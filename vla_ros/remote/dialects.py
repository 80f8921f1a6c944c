# SPDX-License-Identifier: Apache-2.0
"""What is said to each kind of server: observations to messages, answers to predictions.

Ours (``vla_serve``) tells everything in its metadata. For foreign servers, the section ``server``
of the data set's contract says what they call their inputs. Pure functions, any thread. Sources:
openpi 15a9616 (websocket_policy_server.py), openvla c8f03f4 and openvla-oft 213c5ff (vla-scripts/
deploy.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.motion import Contract
from vla_ros.motion.server_keys import Keys, ServerKeys
from vla_ros.motion.state import state_dim
from vla_ros.remote.address import ELSEWHERE
from vla_ros.types import (
    ONE_CAMERA,
    ActionSpace,
    InstructionError,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
)
from vla_ros.wire import (
    Fields,
    Request,
    ServedPolicy,
    ServerError,
    WireError,
    encoded_image,
    error_of,
    pack,
    pack_body,
    read_reply,
    request_map,
    unpack,
    unpack_body,
)

ImageForm = Literal['raw', 'png', 'jpeg']

_OPENVLA_KEYS = ServerKeys(((ONE_CAMERA, ('image',)),), (), ('instruction',), 1, False)


class Dialect(Protocol):
    """The messages of one server."""

    @property
    def info(self) -> PolicyInfo: ...

    @property
    def is_checked(self) -> bool:
        """Whether the server says that its self-check passed."""

    @property
    def told(self) -> str:
        """What the server tells of its policy, for the user."""

    @property
    def any_key(self) -> str:
        """A key that the server has, for the warm-up."""

    @property
    def unnorm_keys(self) -> tuple[str, ...]:
        """The data sets whose statistics it has; empty if it takes any key, or tells none."""

    def spec(self, unnorm_key: str | None) -> tuple[str, PolicySpec]:
        """Return the key in force and its spec.

        :raises PolicyError: if there are no such statistics.
        """

    def difference(self, other: Dialect) -> str:
        """Return what differs in the answers, as text; empty if nothing does."""

    def encode(self, request: Request) -> bytes:
        """Return the message of a request.

        :raises WireError: if it cannot be sent.
        """

    def decode(self, answer: bytes, unnorm_key: str) -> Prediction:
        """Return the prediction of an answer.

        :raises PolicyError: if it is an error, or malformed.
        """


@dataclass(frozen=True)
class Ours:
    """The dialect of ``vla_serve``."""

    address: str
    served: ServedPolicy
    image: ImageForm

    @property
    def info(self) -> PolicyInfo:
        """The server's policy, with the address before the name of its model."""
        return replace(self.served.info, model=f'{self.address} ({self.served.info.model})')

    @property
    def is_checked(self) -> bool:
        """Whether the server says that its self-check passed."""
        return self.served.self_checked

    @property
    def told(self) -> str:
        """Its model, where it runs, its data sets, and for how many more robots it has sessions."""
        info, served = self.served.info, self.served
        keys = ', '.join(self.unnorm_keys[:10]) or 'any data set'
        free = f', {served.sessions_free} sessions free' if served.sessions_free >= 0 else ''
        checked = 'self-check passed' if served.self_checked else 'not self-checked'
        return (
            f'{info.model} on {info.device} in {info.dtype} ({checked}), for {keys}{free}; vla_ros '
            f'{served.version}'
        )

    @property
    def any_key(self) -> str:
        """The first of the server's keys."""
        return next(iter(self.served.specs))

    @property
    def unnorm_keys(self) -> tuple[str, ...]:
        """The data sets whose statistics it has; empty if it takes any key."""
        return () if self.served.takes_any_key else tuple(filter(None, self.served.specs))

    def spec(self, unnorm_key: str | None) -> tuple[str, PolicySpec]:
        """Return the key in force and its spec, as the server has them.

        :raises PolicyError: if there are no such statistics.
        """
        return self.served.spec(unnorm_key)

    def difference(self, other: Dialect) -> str:
        """Return what differs in the answers, as text; empty if nothing does."""
        if not isinstance(other, Ours):
            return 'the kind of server differs'
        return self.served.difference(other.served)

    def encode(self, request: Request) -> bytes:
        """Return the message of a request.

        :raises WireError: if it cannot be sent.
        """
        if self.image != 'raw':
            images: Any = {
                camera: encoded_image(image, self.image)
                for camera, image in request.observation.images.items()
            }
            request = replace(request, observation=replace(request.observation, images=images))
        return pack(request_map(request))

    def decode(self, answer: bytes, unnorm_key: str) -> Prediction:
        """Return the prediction of an answer.

        :raises PolicyError: if it is an error, or malformed.
        """
        message = unpack(answer)
        if (error := error_of(message)) is not None:
            raise _of_server(self.address, error)
        prediction = read_reply(message)
        if unnorm_key not in ('', prediction.unnorm_key):  # of another contract: in other units
            raise WireError(
                f'the answer is of the data set {prediction.unnorm_key!r}, and {unnorm_key!r} was '
                'asked for',
                'check the server',
                value=prediction.unnorm_key,
                expected=unnorm_key,
            )
        return prediction


@dataclass(frozen=True)
class Foreign:
    """The dialect of a server that says nothing about its policy.

    :param metadata: of the server, packed; empty if it has none.
    :param is_rest: whether messages are JSON.
    """

    address: str
    contract: Contract
    keys: ServerKeys
    is_rest: bool
    image: ImageForm
    metadata: bytes = b''

    @property
    def info(self) -> PolicyInfo:
        """The address; nothing else is known."""
        return PolicyInfo(self.address, '', ELSEWHERE, ELSEWHERE, 'none')

    @property
    def is_checked(self) -> bool:
        """False: such servers check nothing."""
        return False

    @property
    def told(self) -> str:
        """That it tells nothing."""
        return f'a policy of which it tells nothing; the contract of {self.any_key} does'

    @property
    def any_key(self) -> str:
        """The key of the contract."""
        return self.contract.unnorm_key

    @property
    def unnorm_keys(self) -> tuple[str, ...]:
        """None: such servers tell no data set."""
        return ()

    def spec(self, unnorm_key: str | None) -> tuple[str, PolicySpec]:
        """Return the key and the spec of the contract."""
        columns = self.contract.columns
        return self.contract.unnorm_key, PolicySpec(
            cameras=tuple(camera for camera, _ in self.keys.images),
            state_dim=state_dim(self.contract.state) if self.keys.state else 0,
            action_dim=len(columns),
            horizon=self.keys.rows,
            action_space=ActionSpace.UNKNOWN,  # the contract tells
            names=columns,
            period_s=None,
            emits_tokens=False,
            deterministic=False,
        )

    def difference(self, other: Dialect) -> str:
        """Return what differs in the metadata, as text; empty if nothing does."""
        same = isinstance(other, Foreign) and other.metadata == self.metadata
        return '' if same else 'the metadata of the server differs'

    def encode(self, request: Request) -> bytes:
        """Return the message of a request.

        :raises WireError: if it cannot be sent.
        """
        message: dict[str, Any] = {}
        for camera, keys in self.keys.images:
            _put(message, keys, self._encoded(request.observation.images[camera]))
        if self.keys.state and request.observation.state is not None:
            _put(message, self.keys.state, request.observation.state)
        _put(message, self.keys.prompt, request.observation.instruction)
        if self.keys is _OPENVLA_KEYS:
            message['unnorm_key'] = self.contract.unnorm_key
        return pack_body(message) if self.is_rest else pack(message)

    def decode(self, answer: bytes, unnorm_key: str) -> Prediction:
        """Return the prediction of an answer: a chunk, or one row.

        :raises PolicyError: if it is an error, or malformed.
        """
        message = unpack_body(answer)[0] if self.is_rest else unpack(answer)
        if isinstance(message, str):
            raise PolicyError(
                f'{self.address} answers {message[:80]!r} in place of an action',
                'see the log of the server, and the section server of the contract',
            )
        found = message.get('actions') if isinstance(message, dict) else message
        if found is None:
            _raise_error(self.address, message)
        actions = _as_rows(found)
        return Prediction(actions=actions, unnorm_key=unnorm_key)

    def _encoded(self, image: NDArray[np.uint8]) -> Any:
        if self.image != 'raw':
            return encoded_image(image, self.image)
        return np.ascontiguousarray(image.transpose(2, 0, 1)) if self.keys.channels_first else image


def foreign(
    address: str, contract: Contract | None, is_rest: bool, image: ImageForm, metadata: Any
) -> Foreign:
    """Return the dialect of a foreign server.

    :param contract: of the parameter unnorm_key; None if there is none.
    :raises PolicyError: if the contract does not say what the server needs.
    """
    keys = None if contract is None else contract.server
    if keys is None and is_rest:
        keys = _OPENVLA_KEYS
    if contract is None or keys is None:
        raise PolicyError(
            f'{address} does not say what its policy needs, and neither does a contract',
            'set unnorm_key to a data set with a contract that has the section server '
            '(docs/serving.md)',
        )
    if keys.state and not contract.state:
        raise PolicyError(
            f'the contract of {contract.unnorm_key} has a key for the state in its section server, '
            'and no section state',
            'add the parts of the state (docs/contracts.md)',
        )
    if image != 'raw':
        raise PolicyError(
            f'remote_image is {image}, and {address} takes raw images only',
            'set remote_image to raw',
            value=image,
        )
    packed = b'' if metadata is None else pack(metadata)
    return Foreign(address, contract, keys, is_rest, image, packed)


def _of_server(address: str, error: ServerError) -> PolicyError:
    kind = InstructionError if error.kind == 'instruction' else PolicyError
    return kind(f'{address}: {error.what or error.kind}', error.advice or 'see its log')


def _raise_error(address: str, message: Any) -> None:
    """Raise PolicyError for a map without actions: an error, in the words of several servers."""
    given = Fields(message, 'answer')
    for key in ('message', 'error', 'detail'):
        if key in given:
            raise PolicyError(
                f'{address}: {str(given.get(key))[:300]}', 'see the log of the server'
            )
    raise WireError(f'the answer of {address} has no actions', value=list(given)[:10])


def _as_rows(found: Any) -> NDArray[np.float64]:
    """Return actions as rows, float64 [K, D]; the gate judges their shape and values.

    :raises WireError: if they are no numbers of one or two dimensions.
    """
    answer = {'actions': found}
    is_row = isinstance(found, np.ndarray) and found.ndim == 1
    is_row = is_row or (isinstance(found, list) and not any(map(_is_row, found)))
    try:
        rows = Fields(answer, 'answer').floats('actions', 1 if is_row else 2)
    except VlaError as error:
        raise PolicyError(error.what, error.advice) from error
    return rows[None] if is_row else rows


def _is_row(value: Any) -> bool:
    return isinstance(value, list | np.ndarray)


def _put(message: dict[str, Any], keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        message = message.setdefault(key, {})
    message[keys[-1]] = value
