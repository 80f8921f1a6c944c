# SPDX-License-Identifier: Apache-2.0
"""Our own dialect: what a node asks of ``vla_serve``, with nothing lost on the way.

It extends openpi's websocket: first the server sends metadata, then requests and replies alternate.
A request that is not answered ends with its connection. No clock is shared: a request says how much
time is left, and the server counts from its receipt. Keys of ours begin with ``vla_ros``; clients
and servers of openpi ignore them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from vla_ros.text import printable
from vla_ros.types import (
    ActionSpace,
    Invalid,
    InvalidReason,
    Observation,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    TokenTrace,
    WarmupTimes,
)
from vla_ros.wire.errors import WireError
from vla_ros.wire.fields import Fields

PROTOCOL = 1
OURS = 'vla_ros'  # the key of our metadata

# Keys of a request.
IMAGES = 'vla_ros/images'  # map: camera name -> uint8 [H, W, 3]
STATE = 'vla_ros/state'  # float64 [S]
PROMPT = 'prompt'
UNNORM_KEY = 'unnorm_key'
BUDGET_MS = 'vla_ros/budget_ms'
RESET = 'vla_ros/reset'

# Keys of a reply.
ACTIONS = 'actions'  # float64 [K, D]
NORMALIZED = 'normalized_actions'
VALID = 'valid'
INVALID = 'vla_ros/invalid'
IDS = 'token_ids'
PROBABILITIES = 'token_probabilities'
TIMINGS = 'vla_ros/timings'
ERROR = 'vla_ros/error'

_MAX_BUDGET_MS = 3_600_000.0
_MAX_DATA_SETS = 1000
_MAX_TIMINGS = 100
_MAX_INDEX = 1_000_000
_MAX_VALUES = 10_000  # of a chunk, and its tokens: a node's executor makes messages of them


@dataclass(frozen=True)
class Request:
    """One request for actions.

    :param unnorm_key: data set whose statistics scale the actions; empty: the only one.
    :param budget_s: time left for the answer, from the receipt on [s]; None: no limit.
    :param reset: whether the session forgets all earlier predictions first.
    """

    observation: Observation
    unnorm_key: str = ''
    budget_s: float | None = None
    reset: bool = False


@dataclass(frozen=True)
class ServerError:
    """An answer that is an error; the connection stays open.

    :param kind: ``instruction``: it can't be used; ``stale``: not begun in its time;
        ``superseded``: a newer request of this session came; ``cancelled``, ``overrun``,
        ``failed``: of the inference; ``busy``: no session is free; ``request``: malformed.
    :param what: what failed, as one clause, without paths.
    """

    kind: str
    what: str
    advice: str = ''


@dataclass(frozen=True)
class ServedPolicy:
    """The policy of a server, as its metadata describes it.

    :param specs: by unnorm_key; a policy without statistics has one with an empty key.
    :param takes_any_key: whether any unnorm_key is allowed, with the spec of the empty key.
    :param preprocessing, rotate_180, center_crop: of images, by the server.
    :param warmup: durations of the server's warm-up.
    :param self_checked: whether the self-check after the warm-up passed.
    :param identity: text that differs if the answers may differ: of weights, statistics, versions.
    :param sessions_free: number of further robots that can connect; -1: unknown.
    """

    info: PolicyInfo
    specs: Mapping[str, PolicySpec]
    takes_any_key: bool = False
    preprocessing: str = 'raw'
    rotate_180: bool = False
    center_crop: bool = False
    warmup: WarmupTimes = field(default_factory=lambda: WarmupTimes(0.0, 0.0, 0.0))
    self_checked: bool = False
    identity: str = ''
    sessions_free: int = -1
    version: str = ''

    def to_metadata(self) -> dict[str, Any]:
        """Return the map of the server's first frame."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        told['info'] = dict(vars(self.info))
        told['warmup'] = dict(vars(self.warmup))
        told['specs'] = {key: _spec_map(spec) for key, spec in self.specs.items()}
        return {OURS: {'protocol': PROTOCOL, **told}}

    @classmethod
    def from_metadata(cls, metadata: Any) -> ServedPolicy:
        """Return the policy that a server's first frame describes.

        :raises WireError: if it is not our dialect, of another protocol, or malformed.
        """
        ours = Fields(metadata, 'metadata').map(OURS)
        protocol = ours.whole('protocol')
        if protocol != PROTOCOL:
            raise WireError(
                f'the server speaks protocol {protocol}',
                'install the same version of this package on both machines',
                value=protocol,
                expected=f'{PROTOCOL}',
            )
        specs = ours.map('specs')
        keys = list(specs)
        if not 1 <= len(keys) <= _MAX_DATA_SETS:
            raise WireError('specs of metadata', value=len(keys), expected=f'1 to {_MAX_DATA_SETS}')
        return cls(
            info=_read_info(ours.map('info')),
            specs={key: _read_spec(specs.map(key)) for key in keys},
            takes_any_key=ours.flag('takes_any_key'),
            preprocessing=ours.text('preprocessing'),
            rotate_180=ours.flag('rotate_180'),
            center_crop=ours.flag('center_crop'),
            warmup=_read_warmup(ours.map('warmup')),
            self_checked=ours.flag('self_checked'),
            identity=ours.text('identity'),
            sessions_free=ours.whole('sessions_free', low=-1, high=1_000_000),
            version=ours.text('version'),
        )

    def spec(self, unnorm_key: str | None) -> tuple[str, PolicySpec]:
        """Return the key in force and its spec; the key is optional if there is only one.

        :raises PolicyError: if there are no such statistics.
        """
        if self.takes_any_key and '' in self.specs:
            return unnorm_key or '', self.specs['']
        if not unnorm_key and len(self.specs) == 1:
            return next(iter(self.specs.items()))
        if unnorm_key and unnorm_key in self.specs:
            return unnorm_key, self.specs[unnorm_key]
        there = ', '.join(sorted(self.specs)[:20])
        raise PolicyError(
            f'unnorm_key {unnorm_key or ""!r} is not in the policy of the server; it has {there}',
            'set unnorm_key to one of them',
            value=unnorm_key,
            expected=there,
        )

    def difference(self, other: ServedPolicy) -> str:
        """Return what differs in the answers of two policies, as text; empty if nothing does."""
        info = replace(other.info, device=self.info.device)  # replicas have several
        free = self.sessions_free
        same = replace(other, warmup=self.warmup, sessions_free=free, info=info)
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(same, one.name)
            if mine != theirs:
                return f'{one.name} was {_shown(mine)} and is {_shown(theirs)}'
        return ''


def is_ours(metadata: Any) -> bool:
    """Return whether a server's first frame is of our dialect."""
    return isinstance(metadata, dict) and OURS in metadata


def request_map(request: Request) -> dict[str, Any]:
    """Return the map of a request."""
    observation = request.observation
    message: dict[str, Any] = {IMAGES: dict(observation.images), PROMPT: observation.instruction}
    if observation.state is not None:
        message[STATE] = observation.state
    if request.unnorm_key:
        message[UNNORM_KEY] = request.unnorm_key
    if request.budget_s is not None:
        message[BUDGET_MS] = 1000.0 * request.budget_s
    if request.reset:
        message[RESET] = True
    return message


def read_request(message: Any, stamp_ns: int = 0) -> Request:
    """Return the request of a map.

    :param stamp_ns: time of the receipt, which becomes the stamp of all images.
    :raises WireError: if it is malformed.
    """
    given = Fields(message, 'request')
    images = given.map(IMAGES)
    cameras = list(images)
    budget_ms = given.number(BUDGET_MS, -1.0, 0.0, _MAX_BUDGET_MS)
    return Request(
        Observation(
            {camera: images.image(camera) for camera in cameras},
            given.text(PROMPT),
            dict.fromkeys(cameras, stamp_ns),
            given.floats(STATE, 1) if STATE in given else None,
        ),
        unnorm_key=given.text(UNNORM_KEY, ''),
        budget_s=None if budget_ms < 0 else budget_ms / 1000.0,
        reset=given.flag(RESET, False),
    )


def reply_map(prediction: Prediction) -> dict[str, Any]:
    """Return the map of a reply; the images that the model was given and logits are not sent."""
    reply: dict[str, Any] = {
        ACTIONS: prediction.actions,
        UNNORM_KEY: prediction.unnorm_key,
        VALID: prediction.invalid is None,
        TIMINGS: dict(prediction.timings),
    }
    if prediction.normalized_actions is not None:
        reply[NORMALIZED] = prediction.normalized_actions
    if (invalid := prediction.invalid) is not None:
        reply[INVALID] = {**vars(invalid), 'kind': int(invalid.kind)}
    if (tokens := prediction.tokens) is not None:
        reply[IDS], reply[PROBABILITIES] = tokens.ids, tokens.probabilities
        reply |= {'drafted': tokens.drafted, 'accepted': tokens.accepted}
    return reply


def read_reply(message: Any) -> Prediction:
    """Return the prediction of a reply that is not an error.

    Its actions are not checked beyond their form: the worker's gate does that.

    :raises WireError: if it is malformed.
    """
    given = Fields(message, 'reply')
    normalized = given.floats(NORMALIZED, 2) if NORMALIZED in given else None
    return Prediction(
        actions=given.floats(ACTIONS, 2),
        unnorm_key=given.text(UNNORM_KEY),
        normalized_actions=normalized,
        invalid=_read_invalid(given),
        tokens=_read_tokens(given) if IDS in given else None,
        timings=_read_timings(given.map(TIMINGS, {})),
    )


def error_map(error: ServerError) -> dict[str, Any]:
    """Return the map of an answer that is an error."""
    return {ERROR: dict(vars(error))}


def error_of(message: Any) -> ServerError | None:
    """Return the error of an answer, or None if it is a reply.

    :raises WireError: if it is a malformed error.
    """
    given = Fields(message, 'reply')
    if ERROR not in given:
        return None
    error = given.map(ERROR)
    texts = (error.text(key, '') for key in ('kind', 'what', 'advice'))
    return ServerError(*(printable(text, 500) for text in texts))


def _spec_map(spec: PolicySpec) -> dict[str, Any]:
    told = {one.name: getattr(spec, one.name) for one in fields(spec)}
    return {**told, 'action_space': int(spec.action_space)}


def _read_spec(given: Fields) -> PolicySpec:
    action_dim = given.whole('action_dim', low=1, high=1000)
    names, cameras = given.names('names'), given.names('cameras')
    space = given.whole('action_space', high=max(ActionSpace))
    if len(names) != action_dim or not 1 <= len(cameras) <= 16:
        raise WireError(
            f'a spec of metadata has {len(names)} names and {len(cameras)} cameras',
            expected=f'{action_dim} names, and 1 to 16 cameras',
        )
    horizon = given.whole('horizon', low=1, high=1000)
    if horizon * action_dim > _MAX_VALUES:
        raise WireError(
            f'a spec of metadata has {horizon} rows of {action_dim}',
            value=horizon * action_dim,
            expected=f'at most {_MAX_VALUES} values',
        )
    period_s = given.number('period_s', 1.0, 1e-4, 3600.0) if 'period_s' in given else None
    return PolicySpec(
        cameras=cameras,
        state_dim=given.whole('state_dim'),
        action_dim=action_dim,
        horizon=horizon,
        action_space=ActionSpace(space),
        names=names,
        period_s=period_s,
        emits_tokens=given.flag('emits_tokens'),
        deterministic=given.flag('deterministic'),
        largest_normalized=given.number('largest_normalized', low=1e-6, high=1e6),
    )


def _read_info(given: Fields) -> PolicyInfo:
    def text(name: str) -> str:
        return printable(given.text(name), 300)

    return PolicyInfo(
        text('model'),
        text('revision'),
        text('device'),
        text('dtype'),
        text('quantization'),
        given.flag('compiled'),
        given.number('recomputed_patches', low=0.0, high=1.0),
    )


def _read_warmup(given: Fields) -> WarmupTimes:
    return WarmupTimes(
        given.number('total_s'),
        given.number('first_inference_s'),
        given.number('steady_inference_s'),
        printable(given.text('graphs'), 300),
    )


def _read_invalid(given: Fields) -> InvalidReason | None:
    if given.flag(VALID):
        return None
    if INVALID not in given:
        return InvalidReason(Invalid.BY_POLICY)
    reason = given.map(INVALID)
    value = reason.get('value')
    return InvalidReason(
        Invalid(reason.whole('kind', low=min(Invalid), high=max(Invalid))),
        reason.whole('index', low=-1, high=_MAX_INDEX),
        value if type(value) in (int, float) else None,
        printable(reason.text('expected', ''), 200),
    )


def _read_tokens(given: Fields) -> TokenTrace:
    ids, probabilities = given.array(IDS, 1), given.array(PROBABILITIES, 1)
    if ids.dtype.kind not in 'iu':
        raise WireError(f'{IDS} of reply', value=str(ids.dtype), expected='whole numbers')
    if (most := max(ids.size, probabilities.size)) > _MAX_VALUES:
        raise WireError(f'a reply has {most} tokens', value=most, expected=f'at most {_MAX_VALUES}')
    return TokenTrace(
        ids.astype(np.int64),
        probabilities.astype(np.float32),
        drafted=given.whole('drafted', 0, high=_MAX_INDEX),
        accepted=given.whole('accepted', 0, high=_MAX_INDEX),
    )


def _read_timings(given: Fields) -> dict[str, float]:
    names = list(given)[:_MAX_TIMINGS]
    return {printable(name, 80): given.number(name) for name in names}


def _shown(value: Any) -> str:
    return printable(str(value), 120)
