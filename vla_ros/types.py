"""What flows through the package: an Observation goes in, a Prediction comes out of a Policy.

Knows numpy only: nothing of ROS, torch or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.text import is_blank, is_visible, printable

MAX_INSTRUCTION_CHARACTERS = 500
_SPECIAL_TOKENS = ('<s>', '</s>', '<unk>', '<pad>')


class PolicyError(VlaError):
    """The policy can't be built or can't do what was asked."""


class InstructionError(PolicyError):
    """The instruction can't be turned into a prompt."""


class ProofError(PolicyError):
    """The policy is warm, and was seen to do something that no sound one does."""


class InferenceCancelled(Exception):
    """The inference was told to stop and did; there is no prediction."""


class Cancel(Protocol):
    """Tells a running inference to stop; a threading.Event is one."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Observation:
    """What the robot perceives at one moment.

    :param image: uint8 [H, W, 3] RGB; never written to.
    :param instruction: what a person said, without the prompt's template.
    :param stamp_ns: when the picture was captured, nanoseconds of the robot's clock.
    """

    image: NDArray[np.uint8]
    instruction: str
    stamp_ns: int


@dataclass(frozen=True)
class Request:
    """One picture and one instruction for a policy.

    :param image: uint8 [H, W, 3] RGB; never written to.
    :param instruction: what a person said, without the prompt's template.
    :param unnorm_key: whose statistics scale the action; may be left out if there is one.
    :param draft: int64 [<=D], a guess at the action's token ids, such as the previous action's.
        Where it is right the action comes sooner; right or wrong, the action is the same.
    """

    image: NDArray[np.uint8]
    instruction: str
    unnorm_key: str | None = None
    draft: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Prediction:
    """What a policy makes of one request.

    D is the action's dimension. Where ``valid`` is False nothing in here may move a robot.

    :param action: float64 [D], un-normalised, in the units of the data set.
    :param normalized_action: float64 [D], each within [-1, 1].
    :param token_ids: int64 [<=D], exactly as greedy decoding emits them.
    :param token_probabilities: float32 [D], of each emitted token within the action tokens.
    :param unnorm_key: whose statistics scaled ``action``.
    :param valid: False if a token is no action token, the sequence ended early, or a value is
        not finite; ``invalid_reason`` tells which.
    :param timings: seconds per stage, of the whole batch that this was predicted in.
    :param drafted: tokens of the draft that were looked at.
    :param accepted: of these, how many were right.
    :param logits: float32 [D, n_action_bins] of the action tokens, by rising token id.
    :param picture: uint8 [S, S, 3] RGB, as the first vision tower was shown it, before normalising;
        of a policy without towers the request's image; never written to.
    """

    action: NDArray[np.float64]
    normalized_action: NDArray[np.float64]
    token_ids: NDArray[np.int64]
    token_probabilities: NDArray[np.float32]
    unnorm_key: str
    valid: bool = True
    invalid_reason: str = ''
    timings: Mapping[str, float] = field(default_factory=dict)
    drafted: int = 0
    accepted: int = 0
    logits: NDArray[np.float32] | None = None
    picture: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class PolicyInfo:
    """What was loaded, as chosen: nothing in here says ``auto``."""

    model: str
    revision: str
    device: str
    dtype: str
    quantization: str
    compiled: bool = False


@dataclass(frozen=True)
class WarmupTimes:
    """What the warm-up took, and what one action takes from now on.

    :param total_s: the whole warm-up, proofs included.
    :param first_inference_s: the first action, with whatever is made only once.
    :param steady_inference_s: the last one, when all was warm.
    """

    total_s: float
    first_inference_s: float
    steady_inference_s: float


@dataclass(frozen=True)
class Progress:
    """How far loading or warming up has come: step ``done`` of ``total`` is what ``text`` says."""

    text: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]


class Policy(Protocol):
    """A vision-language-action policy; built, warmed and called by one thread."""

    @property
    def info(self) -> PolicyInfo: ...

    def action_dim(self, unnorm_key: str | None = None) -> int:
        """How many values an action has.

        :raises PolicyError: if there are no such statistics.
        """

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Meet every shape that can occur later, then prove that picture and instruction count.

        :raises PolicyError: if a proof fails.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """

    def check_files(self) -> None:
        """Raise PolicyError if a file that the policy was loaded from has changed since."""

    def check_instruction(self, instruction: str) -> None:
        """
        :raises InstructionError: if the instruction can't be used.
        """

    def predict_actions(
        self, requests: Sequence[Request], cancel: Cancel | None = None
    ) -> list[Prediction]:
        """Predict one action for each request, all in one pass.

        :param requests: 1 to as many as the policy was built for.
        :returns: in the same order, each as if it had been predicted alone.
        :raises InstructionError: if one of the instructions can't be used.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """

    def close(self) -> None:
        """Give its memory back; nothing else may be asked of it afterwards."""


def check_instruction(instruction: str) -> None:
    """Refuse what would not reach the policy as a person's words. One that looks empty means hold.

    :raises InstructionError: too long, characters that can't be seen, or the text of a special
        token (the tokenizer would read ``</s>`` as the end of the sequence).
    """
    if is_blank(instruction):
        return
    if len(instruction) > MAX_INSTRUCTION_CHARACTERS:
        raise InstructionError(
            f'instruction has {len(instruction)} characters, at most {MAX_INSTRUCTION_CHARACTERS} '
            f"are allowed; it begins '{printable(instruction, 40)}'"
        )
    shown = printable(instruction, 80)
    for character in instruction:
        if not is_visible(character):
            kind = 'control' if ord(character) < 0x20 else 'invisible or misleading'
            raise InstructionError(
                f"instruction '{shown}' has the {kind} character '{printable(character)}'; "
                'send one line of plain text'
            )
    lowered = instruction.lower()
    for token in _SPECIAL_TOKENS:
        if token in lowered:
            raise InstructionError(
                f'instruction {shown!r} has the special token {token!r}; '
                'leave it out, the tokenizer would not read it as text'
            )
