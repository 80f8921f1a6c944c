"""Self-checks of a warm policy: image and instruction affect the action, equal inputs give equal.

Users have run policies that ignored the image: black, white and noise gave one plausible action
(openvla issue 346). Only the outputs show that. Runs in the policy's thread. Depends on the
tokenizer and on predictions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.openvla.request import Request
from vla_ros.types import Prediction, SelfCheckError, TokenTrace

_INSTRUCTION = 'pick up the red cup and put it on the left plate'

# All in standard deviations of the first step's action logits.
#
# Two equal calls give equal logits on a CPU, and usually on a GPU. Where the order of sums varies
# they differ by roundings: in bfloat16 by 0.03 to 0.06 with every sum in another order (compiled
# and not compiled). A much larger difference is uninitialised memory, or a broken kernel.
_REPEAT_TOLERANCE = 0.2
# An input that does not affect the action changes it by nothing, or by roundings, like two equal
# calls. Sound checkpoints were measured at 1.0 and more for images, 0.08 and more for words.
_MIN_CHANGE = 0.01
_MIN_CHANGE_OF_REPEAT = 3


@dataclass(frozen=True)
class Trial:
    """One inference of the warm-up.

    :param text: the progress that the user reads.
    :param image: uint8 [H, W, 3].
    :param draft: int64 [<=D].
    :param batch_size: number of requests.
    """

    text: str
    image: NDArray[np.uint8]
    instruction: str
    draft: NDArray[np.int64] | None = None
    batch_size: int = 1

    def requests(self, unnorm_key: str) -> list[Request]:
        """Return requests with different images, which no smaller batch has had."""
        first = self.batch_size * (self.batch_size - 1) // 2
        return [
            Request(np.roll(self.image, first + row), self.instruction, unnorm_key, self.draft)
            for row in range(self.batch_size)
        ]


def plan_trials(
    tokenizer: PromptTokenizer,
    wrong_draft: NDArray[np.int64],
    max_batch_size: int,
    compiled: bool,
) -> dict[str, Trial]:
    """Return the inferences, in order, that run every shape and give predictions to check.

    The first is checked, too. The last is the first again without its draft, because a draft must
    not matter; its image differs from that of the trial before it, so that no cached embedding
    makes it fast.

    :param wrong_draft: int64 [<=D], tokens that are never chosen; with two of them a trial has the
        shapes of a prefill, of a block and of a single token.
    :param compiled: whether the texts mention compilation.
    """
    black = np.zeros((224, 224, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, black.shape, np.uint8)
    tokens = tokenizer(_INSTRUCTION).shape[1]
    lengths = tokenizer.prompt_lengths
    first_length = tokenizer.padded_length(tokens)
    compiling = ' (compiling)' if compiled else ''

    def first_inference(length: int, instruction: str, batch_size: int) -> Trial:
        together = f', batch of {batch_size}' if batch_size > 1 else ''
        text = f'first inference, prompts up to {length} tokens{together}{compiling}'
        return Trial(text, noise, instruction, wrong_draft, batch_size)

    instructions = {
        length: _repeated(tokenizer, shorter + 1)
        for shorter, length in zip((0, *lengths), lengths, strict=False)
    } | {first_length: _INSTRUCTION}
    shapes = [(length, size) for size in range(1, max_batch_size + 1) for length in lengths]
    shapes.remove((first_length, 1))
    return {
        'noise': first_inference(first_length, _INSTRUCTION, 1),
        **{
            f'{size} of {length} tokens': first_inference(length, instructions[length], size)
            for length, size in shapes
        },
        # Of equal length, because other positions alone would change the action.
        'other words': Trial('self-check: other words', noise, _repeated(tokenizer, tokens)),
        'black': Trial('self-check: black, white and noise images', black, _INSTRUCTION),
        'white': Trial('self-check: black, white and noise images', ~black, _INSTRUCTION),
        'noise again': Trial('self-check: the same again', noise, _INSTRUCTION),
    }


def check(predictions: Mapping[str, Prediction]) -> None:
    """Check the predictions of all trials.

    :param predictions: with logits, of the trials, under their names.
    :raises SelfCheckError: naming the check that failed.
    """
    for name, prediction in predictions.items():
        _check_choice(name, prediction)
    noise = predictions['noise']
    repeat = _check_repeatable(noise, predictions['noise again'])
    least = max(_MIN_CHANGE, _MIN_CHANGE_OF_REPEAT * repeat)
    spread = float(_logits(noise)[0].std())
    for first, second in (('black', 'white'), ('black', 'noise'), ('white', 'noise')):
        change = _change(predictions[first], predictions[second], spread)
        if not change > least:
            raise SelfCheckError(
                f'self-check of the image failed: {first} and {second} images change the logits of '
                f'an action by {change:.2g} of their spread, more than {least:.2g} is expected',
                'the policy does not see: vision or projector weights of this checkpoint are zero '
                'or damaged, so download or export it again',
            )
    change = _change(noise, predictions['other words'], spread)
    if not change > least:
        raise SelfCheckError(
            f'self-check of the instruction failed: other words than {_INSTRUCTION!r} change the '
            f'logits of an action by {change:.2g} of their spread, more than {least:.2g} is '
            'expected',
            'the policy does not hear: embedding or tokenizer of this checkpoint are damaged, so '
            'download or export it again',
        )


def _check_choice(name: str, prediction: Prediction) -> None:
    finite = np.isfinite(_logits(prediction))
    # An invalid action has NaN where no token was emitted; black images may cause one.
    valid = prediction.invalid is None
    if not finite.all() or (valid and not np.isfinite(prediction.action).all()):
        raise SelfCheckError(
            f'self-check of finite numbers failed: in the trial {name!r} {(~finite).sum()} of '
            f'{finite.size} logits are not finite, action {prediction.action.tolist()}',
            "the checkpoint's weights have NaN, or values too large for this dtype: try dtype "
            'bfloat16 or float32, or download the checkpoint again',
        )
    if not (_logits(prediction).std(axis=1) > 0).all():
        raise SelfCheckError(
            f'self-check of a choice failed: in the trial {name!r} all action tokens are equally '
            'likely at some step',
            "the checkpoint's lm_head is zero or damaged: download or export it again",
        )


def _check_repeatable(first: Prediction, again: Prediction) -> float:
    """Return the difference of two equal calls, in standard deviations of the logits.

    Tokens may differ only where the logits tie within the tolerance; the tokens after such a place
    belong to different sequences and are not compared.
    """
    ids, ids_again = _tokens(first).ids, _tokens(again).ids
    shared = min(len(ids), len(ids_again))
    unequal = np.flatnonzero(ids[:shared] != ids_again[:shared])
    steps = unequal[0] + 1 if len(unequal) else shared
    logits, logits_again = _logits(first)[:steps], _logits(again)[:steps]
    changes = np.sqrt(((logits - logits_again) ** 2).mean(axis=1)) / logits.std(axis=1)  # [steps]
    if not changes.max() <= _REPEAT_TOLERANCE:
        raise SelfCheckError(
            f'self-check of repeatability failed: two equal calls differ by {changes.max():.2g} of '
            f'the spread of their logits at step {changes.argmax()}, at most {_REPEAT_TOLERANCE} '
            'is allowed',
            'the device computes wrongly: try another version of torch, another dtype, or the cpu',
        )
    return float(changes[0])


def _change(first: Prediction, second: Prediction, spread: float) -> float:
    """Return the root mean square difference of the first step's action logits, over ``spread``."""
    difference = _logits(first)[0] - _logits(second)[0]
    return float(np.sqrt((difference**2).mean())) / spread


def _tokens(prediction: Prediction) -> TokenTrace:
    if prediction.tokens is None:
        raise ValueError('the prediction has no tokens')
    return prediction.tokens


def _logits(prediction: Prediction) -> NDArray[np.float64]:
    """Return the action logits, [steps, n_action_bins]."""
    logits = _tokens(prediction).logits
    if logits is None:
        raise ValueError('the prediction has no logits')
    return logits.astype(np.float64)


def _repeated(tokenizer: PromptTokenizer, tokens: int) -> str:
    """Return the shortest instruction of one repeated word whose prompt has enough tokens.

    :param tokens: minimum number of the prompt's tokens.
    """
    instruction = 'a'
    while tokenizer(instruction).shape[1] < tokens:
        instruction += ' a'
    return instruction
