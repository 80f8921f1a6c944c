# SPDX-License-Identifier: Apache-2.0
"""A policy whose inferences take virtual time, and which fails when it is told to.

It reads in an image's pixels which robot, which camera and which frame it shows, and gives a chunk
of its own for every observation, so that an observer can tell what each action was made from.
``PolicyKnobs`` belong to the world, which turns them at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulate.threads import Process
from vla_ros.types import (
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
    TokenTrace,
    WarmupTimes,
    unknown_names,
)

if TYPE_CHECKING:
    from simulate.plan import Shape

ACTION_DIM = 7
SIDE = 8  # pixels of an image
REFUSED = 'impossible'  # an instruction that begins so is refused
FAILURE = 'a failure of the simulated policy'  # in the text of every error it raises

_HEARS_S = 0.02  # a cancel is heard within that time
_INVALID = {
    'nan': 'not finite',
    'inf': 'not finite',
    'size': 'another number of values',
    'unbounded': 'beyond its bounds',
    'invalid': 'called invalid',
}


@dataclass
class PolicyKnobs:
    """
    :param duration_s: of an inference, from and to [s].
    :param fault: of the inferences that begin now; a key of ``_INVALID``, or slow, deaf, hung,
        exact, raise, memory, refuse; empty: none.
    :param share: of the inferences that have the fault.
    :param delay_s: of a slow, deaf or hung one; all that an exact one takes.
    :param preparation: of a loading or warm-up that begins now: fail, slow or hung; empty: none.
    :param files_changed: whether the checkpoint's files have changed.
    """

    duration_s: tuple[float, float] = (0.03, 0.08)
    fault: str = ''
    share: float = 1.0
    delay_s: float = 0.0
    load: str = ''
    warmup: str = ''
    preparation_s: float = 0.1
    files_changed: bool = False


class Frame(NamedTuple):
    """What an image shows.

    :param robot, camera: their numbers.
    :param number: 1, 2, 3, ... of this camera; 0: not known.
    """

    robot: int
    camera: int
    number: int


@dataclass
class Call:
    """One inference, as an observer learns of it.

    :param frames: what the images of each observation show, by the name of their camera.
    :param heard_cancel: it ended early.
    :param predictions: empty unless it came to an answer.
    """

    number: int
    frames: list[dict[str, Frame]]
    observations: Sequence[Observation]
    fault: str
    began_ns: int
    ended_ns: int = 0
    heard_cancel: bool = False
    predictions: list[Prediction] = field(default_factory=list)

    @property
    def robots(self) -> list[int]:
        """The robot of each observation, by its first image."""
        return [next(iter(frames.values())).robot for frames in self.frames]

    @property
    def duration_s(self) -> float:
        return (self.ended_ns - self.began_ns) / 1e9


def pixels(frame: Frame, random: Random) -> bytes:
    """Of an rgb8 image with ``SIDE`` rows; the rest is noise."""
    head = frame.number.to_bytes(3, 'big') + bytes((frame.robot, frame.camera, 0))
    return head + random.randbytes(3 * SIDE * SIDE - len(head))


def frame_of(image: NDArray[np.uint8]) -> Frame:
    """Return what it shows."""
    head = image.reshape(-1)[:5].tolist()
    return Frame(head[3], head[4], int.from_bytes(bytes(head[:3]), 'big'))


class SimulatedSession:
    """Knows whether there is an action that would be a draft."""

    def __init__(self, spec: PolicySpec, unnorm_key: str) -> None:
        self.spec = spec
        self.unnorm_key = unnorm_key
        self.has_draft = False

    def reset(self) -> None:
        self.has_draft = False


class SimulatedPolicy:
    max_batch_size = 8
    info = PolicyInfo('simulated', '', 'cpu', 'float64', 'none')

    def __init__(
        self,
        knobs: PolicyKnobs,
        shape: Shape,
        random: Random,
        on_begin: Callable[[Call], None],
        on_end: Callable[[Call], None],
        on_changed_files: Callable[[], None],
    ) -> None:
        self._knobs = knobs
        self._shape = shape
        self._random = random
        self._on_begin = on_begin
        self._on_end = on_end
        self._on_changed_files = on_changed_files
        self._calls = 0

    @classmethod
    def load(
        cls, progress: ProgressCallback, knobs: PolicyKnobs, **options: Any
    ) -> SimulatedPolicy:
        """As the node's ``load_policy`` does; may take long, or fail."""
        policy = cls(knobs, **options)
        policy._observe_preparation(knobs.load, PolicyError, progress, None)
        return policy

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        return PolicySpec(
            cameras=self._shape.cameras,
            state_dim=self._shape.state_dim,
            action_dim=ACTION_DIM,
            horizon=self._shape.horizon,
            action_space=ActionSpace.UNKNOWN,
            names=unknown_names(ACTION_DIM),
            period_s=self._shape.period_s,
            emits_tokens=True,
            deterministic=False,
        )

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        fault, progress = self._knobs.warmup, progress or (lambda _: None)
        self._observe_preparation(fault, SelfCheckError, progress, cancel)
        return WarmupTimes(self._knobs.preparation_s, 0.05, 0.05)

    def check_files(self) -> None:
        if self._knobs.files_changed:
            self._on_changed_files()
            raise PolicyError(f'{FAILURE}: a file has changed')

    def check_instruction(self, instruction: str) -> None:
        if instruction.startswith(REFUSED):
            raise InstructionError(f'{FAILURE}: the instruction is refused')

    def session(self, unnorm_key: str | None = None) -> SimulatedSession:
        return SimulatedSession(self.spec(), unnorm_key or 'bridge_orig')

    def predict(
        self, batch: Sequence[tuple[SimulatedSession, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        knobs, random = self._knobs, self._random
        fault = knobs.fault if random.random() < knobs.share else ''
        self._calls += 1
        scheduler = Process.scheduler
        observations = [observation for _, observation in batch]
        frames = [
            {name: frame_of(image) for name, image in observation.images.items()}
            for observation in observations
        ]
        call = Call(self._calls, frames, observations, fault, scheduler.now_ns)
        self._on_begin(call)
        try:
            duration_s = random.uniform(*knobs.duration_s)
            if fault in ('slow', 'deaf', 'hung'):
                duration_s += knobs.delay_s
            elif fault == 'exact':
                duration_s = knobs.delay_s
            self._spend(duration_s, None if fault in ('deaf', 'hung') else cancel)
            _raise(fault)
            call.predictions = [self._prediction(*member, fault) for member in batch]
        except InferenceCancelled:
            call.heard_cancel = True
            raise
        finally:
            call.ended_ns = scheduler.now_ns
            self._on_end(call)
        for (session, _), prediction in zip(batch, call.predictions, strict=True):
            session.has_draft |= prediction.invalid is None
        return list(call.predictions)

    def close(self) -> None:
        pass

    def _observe_preparation(self, fault: str, *options: Any) -> None:
        """A preparation is a call without observations."""
        call = Call(0, [], [], fault, Process.scheduler.now_ns)
        self._on_begin(call)
        try:
            self._prepare(fault, *options)
        finally:
            call.ended_ns = Process.scheduler.now_ns
            self._on_end(call)

    def _prepare(
        self,
        fault: str,
        error: type[Exception],
        progress: ProgressCallback,
        cancel: Cancel | None,
    ) -> None:
        for step in range(1, 4):
            progress(Progress('preparing', step, 3))
            self._spend(self._knobs.preparation_s / 3, cancel)
        if fault == 'fail':
            raise error(f'{FAILURE}: not this time')
        if fault == 'slow':
            for step in range(1, 4):
                self._spend(self._knobs.delay_s / 3, cancel)
                progress(Progress('preparing slowly', step, 3))
        if fault == 'hung':
            self._spend(self._knobs.delay_s, None)

    def _spend(self, seconds: float, cancel: Any) -> None:
        """Let time pass, and hear a cancel if there is one to hear."""
        scheduler = Process.scheduler
        if cancel is None:
            scheduler.sleep(seconds)
            return
        if cancel.wait(seconds):  # the simulation's event, so it need not be polled
            scheduler.sleep(self._random.uniform(0.0, _HEARS_S))
            raise InferenceCancelled

    def _prediction(
        self, session: SimulatedSession, observation: Observation, fault: str
    ) -> Prediction:
        random, rows = self._random, self._shape.horizon
        actions = np.array([self._row() for _ in range(rows)])
        normalized = np.array(
            [[random.uniform(-1, 1) for _ in range(ACTION_DIM)] for _ in range(rows)]
        )
        place = random.randrange(rows), random.randrange(ACTION_DIM)
        if fault == 'nan':
            actions[place] = np.nan
        elif fault == 'inf':
            normalized[place] = np.inf
        elif fault == 'size':
            some = np.s_[:, :3] if rows == 1 or random.random() < 0.5 else np.s_[:-1]
            actions, normalized = actions[some], normalized[some]
        elif fault == 'unbounded':
            normalized[place] = random.choice((-1, 1)) * 1.01
        return Prediction(
            actions=actions,
            unnorm_key=session.unnorm_key,
            normalized_actions=normalized,
            invalid=InvalidReason(Invalid.BY_POLICY) if fault == 'invalid' else None,
            model_images=observation.images,
            tokens=self._tokens(session),
        )

    def _row(self) -> list[float]:
        random = self._random
        move = [random.uniform(-0.06, 0.06) for _ in range(3)]
        turn = [random.uniform(-0.25, 0.25) for _ in range(3)]
        return [*move, *turn, random.uniform(-0.1, 1.1)]

    def _tokens(self, session: SimulatedSession) -> TokenTrace:
        random, count = self._random, self._shape.horizon * ACTION_DIM
        drafted = count - 1 if session.has_draft else 0
        return TokenTrace(
            ids=np.array([random.randrange(31744, 32000) for _ in range(count)]),
            probabilities=np.ones(count, dtype=np.float32),
            drafted=drafted,
            accepted=random.randint(0, drafted),
        )


def is_sound(call: Call) -> bool:
    """Whether its predictions are actions."""
    return bool(call.predictions) and call.fault not in _INVALID


def _raise(fault: str) -> None:
    if fault == 'raise':
        raise RuntimeError(FAILURE)
    if fault == 'memory':
        raise MemoryError(FAILURE)
    if fault == 'refuse':
        raise InstructionError(f'{FAILURE}: the instruction is refused')
