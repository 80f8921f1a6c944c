# SPDX-License-Identifier: Apache-2.0
"""The policy that follows a script. Runs in the policy's thread."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import math
import os
import time
from collections.abc import Sequence

import numpy as np

from vla_ros.clock import Clock, SystemClock
from vla_ros.scripted.script import NAME, Fault, Options, read_script
from vla_ros.text import is_blank
from vla_ros.types import (
    ONE_CAMERA,
    ActionSpace,
    Cancel,
    InferenceCancelled,
    InstructionError,
    Invalid,
    InvalidReason,
    Observation,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    Progress,
    ProgressCallback,
    SelfCheckError,
    Session,
    TokenTrace,
    WarmupTimes,
    check_instruction,
    unknown_names,
)

_TICK_S = 0.01  # a Cancel can only be asked, not waited for
_TICKS_PER_REPORT = 10
_PERIOD = 50  # calls after which the motion repeats
_FIRST_ACTION_ID = 31744  # the first of OpenVLA's action tokens; it means the value 1

# The exception and text of each fault that raises.
_ERRORS: dict[str, tuple[type[Exception], str]] = {
    'raise': (RuntimeError, 'failed'),
    'oom': (MemoryError, 'out of memory, tried to allocate 14.00 GiB'),
    'self_check': (SelfCheckError, 'the self-check failed'),
    'refuse': (InstructionError, 'the instruction is refused'),
}


def spec_of(options: Options) -> PolicySpec:
    """Return the spec of a policy with these options."""
    several = tuple(f'camera_{number}' for number in range(1, 1 + options.cameras))
    return PolicySpec(
        cameras=(ONE_CAMERA,) if options.cameras == 1 else several,
        state_dim=options.state,
        action_dim=options.action_dim,
        horizon=options.chunk,
        action_space=ActionSpace.UNKNOWN,
        names=unknown_names(options.action_dim),
        period_s=options.period,
        emits_tokens=bool(options.tokens),
        deterministic=True,
    )


@dataclasses.dataclass(frozen=True)
class ScriptedSession:
    """A session without memory."""

    spec: PolicySpec
    unnorm_key: str

    def reset(self) -> None:
        """Do nothing."""


class ScriptedPolicy:
    """A policy that follows a script. Make it with :meth:`from_script`."""

    def __init__(
        self,
        model: str,
        max_batch_size: int,
        faults: list[Fault],
        options: Options,
        clock: Clock = SystemClock(),
    ) -> None:
        self.info = PolicyInfo(model, '', device='cpu', dtype='float64', quantization='none')
        self.max_batch_size = max_batch_size
        self._faults = faults
        self._clock = clock
        self._random = np.random.default_rng(options.seed)
        self._spec = spec_of(options)
        self._calls = 0
        self._changed = ''

    @classmethod
    def from_script(
        cls,
        model: str,
        progress: ProgressCallback,
        max_batch_size: int = 1,
        clock: Clock = SystemClock(),
    ) -> ScriptedPolicy:
        """Read the script, and run its faults of loading.

        :param model: ``scripted`` or ``scripted:...``; the package's docstring has the grammar.
        :param max_batch_size: maximum observations of a call; the script itself sets no limit.
        :param clock: clock that slow faults wait by.
        :raises PolicyError: if the script is malformed.
        """
        faults, options = read_script(model)
        policy = cls(model, max_batch_size, faults, options, clock)
        policy._prepare('load', None, progress)
        return policy

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec, which is the same for every key."""
        return self._spec

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Run the script's faults of the warm-up.

        :raises SelfCheckError: if the fault ``self_check`` is among them.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        started_s = self._clock.monotonic_s()
        self._prepare('warmup', cancel, progress)
        seconds = []
        for call in (1, 2):
            call_started_s = self._clock.monotonic_s()
            _prediction(call, self._spec, NAME, [])
            seconds.append(self._clock.monotonic_s() - call_started_s)
        return WarmupTimes(self._clock.monotonic_s() - started_s, seconds[0], seconds[1])

    def check_files(self) -> None:
        """Raise PolicyError from the first call on at which ``changed`` was due."""
        if self._changed:
            raise PolicyError(f'a file of the checkpoint has changed (scripted {self._changed})')

    def check_instruction(self, instruction: str) -> None:
        """Raise InstructionError if the instruction can't be used."""
        if is_blank(instruction):
            raise InstructionError('instruction is empty', 'there is nothing to do')
        check_instruction(instruction)

    def session(self, unnorm_key: str | None = None) -> ScriptedSession:
        """Begin a session; any key is allowed."""
        return ScriptedSession(self.spec(), unnorm_key or NAME)

    def predict(
        self, batch: Sequence[tuple[Session, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        """Return the next action for each observation, changed by the faults that are due.

        A batch is one call.

        :returns: a PolicyError where the instruction can't be used, or an image or the state is
            missing.
        :raises InferenceCancelled: soon after ``cancel`` is set, except during ``hung``.
        """
        self._calls += 1
        due = [fault for fault in self._faults if fault.is_due(self._calls, self._random)]
        for fault in due:
            if fault.kind == 'changed':
                self._changed = f'{fault.text} at call {self._calls}'
        _wait(self._clock, 0.0, cancel)
        for fault in due:
            _act(fault, f'{fault.text} at call {self._calls}', self._clock, cancel)
        return [self._answer(session, observation, due) for session, observation in batch]

    def close(self) -> None:
        """Do nothing, since there is nothing to free."""

    def _answer(
        self, session: Session, observation: Observation, due: list[Fault]
    ) -> Prediction | PolicyError:
        try:
            self.check_instruction(observation.instruction)
            _check_parts(observation, self._spec)
        except PolicyError as error:
            return error
        unnorm_key = session.unnorm_key if isinstance(session, ScriptedSession) else NAME
        prediction = _prediction(self._calls, self._spec, unnorm_key, due)
        return dataclasses.replace(prediction, model_images=dict(observation.images))

    def _prepare(
        self, phase: str, cancel: Cancel | None, progress: ProgressCallback | None
    ) -> None:
        for fault in self._faults:
            if fault.phase == phase:
                _act(fault, fault.text, self._clock, cancel, progress)
        if progress is not None:
            progress(Progress(NAME, 1, 1))


def _act(
    fault: Fault,
    what: str,
    clock: Clock,
    cancel: Cancel | None,
    progress: ProgressCallback | None = None,
) -> None:
    """Run a fault that acts before the prediction; the other faults change the prediction.

    :param what: name of the fault in errors and progress.
    """
    if fault.kind in ('slow', 'stuck'):
        _wait(clock, fault.number, cancel, progress, f'{NAME} {what}')
    if fault.kind == 'hung':
        _wait(clock, fault.number)
    if fault.kind == 'lock':
        _keep_lock(fault.number)
    if fault.kind == 'exit':
        if fault.number == math.inf:
            os.abort()
        os._exit(int(fault.number))
    if fault.kind in _ERRORS:
        error, text = _ERRORS[fault.kind]
        raise error(f'{text} (scripted {what})')


def _wait(
    clock: Clock,
    seconds: float,
    cancel: Cancel | None = None,
    progress: ProgressCallback | None = None,
    text: str = '',
) -> None:
    """Wait, and check ``cancel`` while waiting.

    :param seconds: may be infinite.
    :raises InferenceCancelled: soon after ``cancel`` is set; ``progress`` may raise it, too.
    """
    reports = math.ceil(seconds / _TICK_S / _TICKS_PER_REPORT) if seconds < math.inf else 1
    started_s = clock.monotonic_s()
    for tick in itertools.count():
        if cancel is not None and cancel.is_set():
            raise InferenceCancelled
        elapsed_s = clock.monotonic_s() - started_s
        if elapsed_s >= seconds:
            return
        if progress is not None and tick % _TICKS_PER_REPORT == 0:
            progress(Progress(text, int(reports * elapsed_s / seconds), reports))
        clock.sleep(min(_TICK_S, seconds - elapsed_s))


def _keep_lock(seconds: float) -> None:
    """Wait in a native call that lets no other thread of Python run.

    :param seconds: may be infinite.
    """
    library = ctypes.PyDLL(None)  # unlike CDLL it does not release the interpreter's lock
    ends_s = time.monotonic() + seconds
    while (left_s := ends_s - time.monotonic()) > 0:  # a signal may end the call early
        library.poll(None, 0, -1 if math.isinf(left_s) else math.ceil(1e3 * left_s))


def _check_parts(observation: Observation, spec: PolicySpec) -> None:
    """Raise PolicyError if the observation lacks a part that the policy needs."""
    for camera in spec.cameras:
        if camera not in observation.images:
            there = ', '.join(sorted(observation.images)) or 'no camera'
            raise PolicyError(f'there is no image of the camera {camera!r}', f'there are: {there}')
    values = 0 if observation.state is None else observation.state.size
    if values != spec.state_dim:
        raise PolicyError(f'the state has {values} values', f'{spec.state_dim} are needed')


def _prediction(call: int, spec: PolicySpec, unnorm_key: str, due: list[Fault]) -> Prediction:
    """Return the actions of a call, changed by the faults that are due.

    Row k of a call is row 0 of the k-th call after it. Each value oscillates with its own phase;
    the last one, the gripper, opens and closes.
    """
    kinds = {fault.kind: fault.number for fault in due}
    rows, dim = int(kinds.get('row', spec.horizon)), int(kinds.get('dim', spec.action_dim))
    calls = call + np.arange(rows)[:, np.newaxis]  # [K, 1]
    normalized = 0.8 * np.sin(2 * np.pi * (calls / _PERIOD + np.arange(dim) / max(dim, 1)))
    normalized[:, -1:] = calls % _PERIOD < _PERIOD / 2
    if 'unbounded' in kinds:
        normalized[:1] += np.copysign(1.5, normalized[:1])
    # As in OpenVLA: 256 edges over [-1, 1], and the lowest id for the highest value.
    bins = 255 - np.floor((np.clip(normalized, -1.0, 1.0) + 1.0) * 127.5).astype(np.int64)
    tokens = TokenTrace(_FIRST_ACTION_ID + bins.ravel(), np.ones(bins.size, np.float32))
    for kind in kinds:
        if kind in ('nan', 'inf'):
            normalized[:1, :1] = float(kind)
    actions = 0.01 * normalized
    actions[:, -1:] = normalized[:, -1:]
    return Prediction(
        actions=actions,
        unnorm_key=unnorm_key,
        normalized_actions=normalized,
        invalid=InvalidReason(Invalid.BY_POLICY) if 'invalid' in kinds else None,
        tokens=tokens if spec.emits_tokens else None,
    )
