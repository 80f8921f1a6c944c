# SPDX-License-Identifier: Apache-2.0
"""The interface between policies and all other code.

An Observation goes into a Policy and a Prediction comes out. Depends on numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.reasons import Reason
from vla_ros.text import is_blank, is_visible, printable

MAX_INSTRUCTION_CHARACTERS = 500
ONE_CAMERA = 'image'  # name of a single camera
_SPECIAL_TOKENS = ('<s>', '</s>', '<unk>', '<pad>')


class PolicyError(VlaError):
    """A policy that can't be built, or can't answer.

    :cvar reason: reason of the ERROR that it causes where it ends the policy; None: that of the
        phase in which it is raised.
    """

    reason: ClassVar[Reason | None] = None


class InstructionError(PolicyError):
    """An instruction that can't be turned into a prompt."""


class SelfCheckError(PolicyError):
    """A self-check after warm-up failed."""


class InferenceCancelled(Exception):
    """An inference that was cancelled and has no prediction."""


class Cancel(Protocol):
    """A flag that stops a running inference, such as a threading.Event."""

    def is_set(self) -> bool: ...


@runtime_checkable
class TimedCancel(Protocol):
    """A Cancel that knows when the inference is late."""

    def is_set(self) -> bool: ...

    def left_s(self) -> float:
        """Return the time until the inference is late [s]; may be below 0."""


class ActionSpace(IntEnum):
    """The meaning of an action's columns; the numbers are part of the messages."""

    UNKNOWN = 0
    POSE_DELTA = 1
    JOINT_POSITION = 2
    JOINT_DELTA = 3
    JOINT_VELOCITY = 4


@dataclass(frozen=True)
class Observation:
    """The input of a policy at one moment.

    :param images: uint8 [H, W, 3] RGB by camera name; never written to.
    :param instruction: the user's words, without the prompt's template.
    :param stamps_ns: capture time of each image by camera name, nanoseconds of the robot's clock.
    :param state: float64 [S], raw, in the contract's order and units.
    :param state_stamp_ns: when the state was measured; None: unknown, or there is none.
    """

    images: Mapping[str, NDArray[np.uint8]]
    instruction: str
    stamps_ns: Mapping[str, int]
    state: NDArray[np.float64] | None = None
    state_stamp_ns: int | None = None

    @classmethod
    def of_one(cls, image: NDArray[np.uint8], instruction: str, stamp_ns: int) -> Observation:
        """Make an observation of a single camera, without a state."""
        return cls({ONE_CAMERA: image}, instruction, {ONE_CAMERA: stamp_ns})

    @property
    def image(self) -> NDArray[np.uint8]:
        """The only image.

        :raises ValueError: if there are several.
        """
        (image,) = self.images.values()
        return image

    @property
    def stamp_ns(self) -> int:
        """Capture time of the oldest image."""
        return min(self.stamps_ns.values())


@dataclass(frozen=True)
class PolicySpec:
    """The inputs that a policy needs, and the actions that it gives.

    :param cameras: names in the model's order.
    :param state_dim: S, values of the state; 0 if the policy takes none.
    :param action_dim: D, columns of an action.
    :param horizon: K, rows of a chunk.
    :param names: names of the D columns; ``value_0``, ``value_1``, ... where they are unknown.
    :param period_s: time between two rows; None if unknown.
    :param emits_tokens: whether drafts and token probabilities exist.
    :param deterministic: whether equal inputs give equal actions.
    :param largest_normalized: magnitude of a normalised value that may move a robot. Tokens stand
        for values up to 1.
    :raises PolicyError: if the period is not finite or not above 0.
    """

    cameras: tuple[str, ...]
    state_dim: int
    action_dim: int
    horizon: int
    action_space: ActionSpace
    names: tuple[str, ...]
    period_s: float | None
    emits_tokens: bool
    deterministic: bool
    largest_normalized: float = 1.0

    def __post_init__(self) -> None:
        period_s = self.period_s
        if period_s is not None and not 0 < period_s < math.inf:  # nan is in no interval
            raise PolicyError(
                f'period_s of the policy is {period_s:g}',
                value=period_s,
                expected='a finite time above 0 s, or None',
            )

    @property
    def action_shape(self) -> tuple[int, int]:
        """Shape of the actions, [K, D]."""
        return self.horizon, self.action_dim


def unknown_names(action_dim: int) -> tuple[str, ...]:
    """Return names for columns whose meaning is unknown."""
    return tuple(f'value_{column}' for column in range(action_dim))


@dataclass(frozen=True)
class TokenTrace:
    """The tokens of one prediction.

    N is K x D, or the number of codes that stand for the whole chunk.

    :param ids: int64 [<=N], exactly as greedy decoding emits them.
    :param probabilities: float32 [N], probability of each token among the action tokens.
    :param logits: float32 [N, bins] of the action tokens, by rising token id.
    :param drafted: number of draft tokens that were verified.
    :param accepted: number of these that were right.
    :param passes: number of passes of the language model after the prefill, for the whole batch.
    """

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None
    drafted: int = 0
    accepted: int = 0
    passes: int = 0


class Invalid(IntEnum):
    """A kind of defect of a prediction."""

    TOKEN = 1  # a token without a value
    ENDED_EARLY = 2
    NOT_FINITE = 3
    OUT_OF_BOUNDS = 4
    SHAPE = 5
    BY_POLICY = 6


_SENTENCES = {
    Invalid.TOKEN: 'token {value} at step {index} is not an action token ({expected})',
    Invalid.ENDED_EARLY: 'the sequence ended after {value} of {expected} action tokens',
    Invalid.NOT_FINITE: '{expected} {index} is {value}, which is not finite',
    Invalid.OUT_OF_BOUNDS: 'normalized value {index} is {value}, not within {expected}',
    Invalid.SHAPE: 'it has {value} values, expected {expected}',
    Invalid.BY_POLICY: 'the policy marked it as invalid',
}


@dataclass(frozen=True)
class InvalidReason:
    """The reason why a prediction's actions must not move a robot; ``str()`` gives a sentence.

    :param index: index of the first affected value or token over all rows; -1 if there is none.
    :param value: this value or token; for SHAPE and ENDED_EARLY a count.
    :param expected: what is allowed; for NOT_FINITE the name of the value.
    """

    kind: Invalid
    index: int = -1
    value: float | int | None = None
    expected: str = ''

    def __str__(self) -> str:
        return _SENTENCES[self.kind].format(**vars(self))


@dataclass(frozen=True)
class Prediction:
    """A chunk of actions, with optional diagnostics.

    :param actions: float64 [K, D], un-normalised, in the units of the data set.
    :param unnorm_key: data set whose statistics scaled ``actions``; empty if the policy has none.
    :param normalized_actions: float64 [K, D], each within [-1, 1], or a little beyond where no
        tokens stand for them.
    :param invalid: why the actions must not move a robot; None if they may.
    :param model_images: uint8 [S, S, 3] RGB by camera name: the model's inputs before they were
        normalised; never written to.
    :param tokens: None if the policy decodes no tokens.
    :param timings: seconds for each stage of the whole batch.
    """

    actions: NDArray[np.float64]
    unnorm_key: str
    normalized_actions: NDArray[np.float64] | None = None
    invalid: InvalidReason | None = None
    model_images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    tokens: TokenTrace | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def action(self) -> NDArray[np.float64]:
        """The first row, float64 [D]."""
        row: NDArray[np.float64] = self.actions[0]
        return row


def invalid_reason(prediction: Prediction, spec: PolicySpec) -> InvalidReason | None:
    """Return why the actions must not move a robot, or None if they may.

    They may if the policy says they are valid, and they are complete, finite and within bounds.
    """
    if prediction.invalid is not None:
        return prediction.invalid
    actions, normalized = prediction.actions, prediction.normalized_actions
    checked = [actions] if normalized is None else [actions, normalized]
    for values in checked:
        if values.shape != spec.action_shape:
            rows, columns = spec.action_shape
            expected = f'{columns}' if rows == 1 else f'{rows} rows of {columns}'
            return InvalidReason(Invalid.SHAPE, value=values.size, expected=expected)
    for values, what in zip(checked, ('value', 'normalized value'), strict=False):
        if not (finite := np.isfinite(values)).all():
            return _first(Invalid.NOT_FINITE, values, ~finite, what)
    most = spec.largest_normalized
    if normalized is not None and (beyond := np.abs(normalized) > most).any():
        return _first(Invalid.OUT_OF_BOUNDS, normalized, beyond, f'{-most:g} and {most:g}')
    return None


def _first(
    kind: Invalid, values: NDArray[np.float64], wrong: NDArray[np.bool_], expected: str
) -> InvalidReason:
    index = int(wrong.argmax())
    return InvalidReason(kind, index, float(values.flat[index]), expected)


@dataclass(frozen=True)
class PolicyInfo:
    """The loaded policy. No field is ``auto``.

    :param recomputed_patches: share of an image's patches that an inference computes; below 1 the
        others are kept from the last one, and actions are inexact.
    """

    model: str
    revision: str
    device: str
    dtype: str
    quantization: str
    compiled: bool = False
    recomputed_patches: float = 1.0


@dataclass(frozen=True)
class WarmupTimes:
    """The durations of the warm-up, and of an inference after it.

    :param total_s: duration of the whole warm-up, with the self-checks.
    :param first_inference_s: duration of the first inference, which prepares kernels and caches.
    :param steady_inference_s: duration of the last inference of the warm-up.
    :param graphs: how many CUDA graphs there are, or why none; empty if none are wanted.
    """

    total_s: float
    first_inference_s: float
    steady_inference_s: float
    graphs: str = ''


@dataclass(frozen=True)
class Progress:
    """The progress of loading or warming up: ``text`` names step ``done`` of ``total``.

    :param total: 0 if it is unknown.
    """

    text: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]


class Session(Protocol):
    """The memory of a policy for one robot between predictions: drafts, a connection.

    Where statistics scale the actions, it also has ``unnorm_key``, the name of those in force.
    """

    @property
    def spec(self) -> PolicySpec: ...

    def reset(self) -> None:
        """Forget all earlier predictions."""


class Policy(Protocol):
    """A vision-language-action policy. One thread builds it, warms it up and calls it."""

    @property
    def info(self) -> PolicyInfo: ...

    @property
    def max_batch_size(self) -> int: ...

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the inputs that the policy needs, and the actions that it gives.

        :param unnorm_key: data set whose statistics scale the actions; optional if there is one.
        :raises PolicyError: if there are no such statistics.
        """

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Run every shape that can occur, then check that inputs affect the action.

        :raises SelfCheckError: if a check fails.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """

    def check_files(self) -> None:
        """Raise PolicyError if a file that the policy was loaded from has changed since."""

    def check_instruction(self, instruction: str) -> None:
        """Raise InstructionError if the instruction can't be used."""

    def session(self, unnorm_key: str | None = None) -> Session:
        """Begin the session of one robot.

        :param unnorm_key: data set whose statistics scale the actions; optional if there is one.
        :raises PolicyError: if there are no such statistics.
        """

    def predict(
        self, batch: Sequence[tuple[Session, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        """Predict the actions for each observation, all in one pass.

        :param batch: 1 to ``max_batch_size`` observations, each with a session of this policy.
        :returns: answers in the same order, each as if predicted alone. An error in the list
            concerns only its observation; an error of the whole batch is raised. A session changes
            only if it gets a prediction.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """

    def close(self) -> None:
        """Free the policy's memory. The policy must not be used afterwards."""


def all_predicted(answers: Sequence[Prediction | PolicyError]) -> list[Prediction]:
    """Return the predictions.

    :raises PolicyError: the first of the errors, if there are any.
    """
    predictions = []
    for answer in answers:
        if isinstance(answer, PolicyError):
            raise answer
        predictions.append(answer)
    return predictions


def check_instruction(instruction: str) -> None:
    """Check that an instruction would reach the policy as the user's words.

    An instruction that looks empty is allowed; it means hold.

    :raises InstructionError: if it is too long, has invisible characters, or has the text of a
        special token (the tokenizer would read ``</s>`` as the end of the sequence).
    """
    if is_blank(instruction):
        return
    if len(instruction) > MAX_INSTRUCTION_CHARACTERS:
        raise InstructionError(
            f'instruction has {len(instruction)} characters, at most {MAX_INSTRUCTION_CHARACTERS} '
            f"are allowed; it begins '{printable(instruction, 40)}'",
            'shorten it',
        )
    shown = printable(instruction, 80)
    for character in instruction:
        if not is_visible(character):
            kind = 'control' if ord(character) < 0x20 else 'invisible or misleading'
            raise InstructionError(
                f"instruction '{shown}' has the {kind} character '{printable(character)}'",
                'send one line of plain text',
            )
    lowered = instruction.lower()
    for token in _SPECIAL_TOKENS:
        if token in lowered:
            raise InstructionError(
                f'instruction {shown!r} has the special token {token!r}',
                'leave it out, since the tokenizer would not read it as text',
            )
