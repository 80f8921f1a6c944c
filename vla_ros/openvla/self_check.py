# SPDX-License-Identifier: Apache-2.0
"""Self-checks of a warm policy: every input affects the action, equal inputs give equal ones.

Users have run policies that ignored the image: black, white and noise gave one plausible action
(openvla issue 346). Only the outputs show that. Runs in the policy's thread. Depends on the
tokenizer, the config and on predictions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.kept_patches import PatchMemory
from vla_ros.openvla.normalization import Statistics
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.openvla.request import Request
from vla_ros.types import ONE_CAMERA, Prediction, SelfCheckError, TokenTrace

_INSTRUCTION = 'pick up the red cup and put it on the left plate'

# With tokens, in standard deviations of the first step's action logits.
#
# Two equal calls give equal logits on a CPU, and usually on a GPU. Where the order of sums varies
# they differ by roundings: in bfloat16 by 0.03 to 0.06 with every sum in another order (compiled
# and not compiled). A much larger difference is uninitialised memory, or a broken kernel.
_REPEAT_TOLERANCE = 0.2
# An input that does not affect the action changes it by nothing, or by roundings, like two equal
# calls. Sound checkpoints were measured at 1.0 and more for images, 0.08 and more for words.
_MIN_CHANGE = 0.01
_MIN_CHANGE_OF_REPEAT = 3
# Without tokens, in normalised values, of which a data set has nearly all from -1 to 1. Sound tiny
# checkpoints were measured at 0.2 and more for images, 0.002 and more for words, 0.03 for states.
_MIN_CHANGE_OF_VALUES = 1e-4

_BLACK_AND_WHITE = ('black', 'white')
_AGAIN = 'noise again'
_KEPT = ', with kept patches'  # ends the name of a trial


@dataclass(frozen=True)
class Trial:
    """One inference of the warm-up.

    :param text: the progress that the user reads.
    :param images: uint8 [H, W, 3], of each camera.
    :param draft: int64 [<=D].
    :param batch_size: number of requests.
    :param state: float64 [S], raw; None if the policy takes none.
    :param keeps: whether its sessions are those of the trial before, so that patches are kept.
    """

    text: str
    images: tuple[NDArray[np.uint8], ...]
    instruction: str
    draft: NDArray[np.int64] | None = None
    batch_size: int = 1
    state: NDArray[np.float64] | None = None
    keeps: bool = False

    def requests(
        self, unnorm_key: str, memories: Sequence[PatchMemory] | None = None
    ) -> list[Request]:
        """Return requests with different images, which no smaller batch has had.

        :param memories: of each request; None if nothing is kept.
        """
        first = self.batch_size * (self.batch_size - 1) // 2
        return [
            Request(
                tuple(np.roll(image, first + row) for image in self.images),
                self.instruction,
                unnorm_key,
                self.draft,
                self.state,
                None if memories is None else memories[row],
            )
            for row in range(self.batch_size)
        ]


def plan_trials(
    tokenizer: PromptTokenizer,
    config: OpenVLAConfig,
    max_batch_size: int,
    compiled: bool,
    keeps_patches: bool = False,
) -> dict[str, Trial]:
    """Return the inferences, in order, that run every shape and give predictions to check.

    The first is checked, too. It comes again without its draft, because a draft must not matter.

    :param compiled: whether the texts mention compilation.
    :param keeps_patches: whether each shape and each check comes again with kept patches.
    """
    statistics = config.norm_stats[config.longest_key]
    cameras = config.cameras
    # Tokens that are never chosen. With four, a trial of an action of seven values has a prefill,
    # three blocks and three single tokens.
    few = min(4, config.decoded_tokens(statistics.action_dim))
    wrong_draft = np.full(few, config.llama.pad_token_id)
    states = statistics.state
    state = None if states is None else (states.low + states.high) / 2
    random = np.random.default_rng(0)
    noise = tuple(random.integers(0, 256, (224, 224, 3), np.uint8) for _ in cameras)
    tokens, lengths = tokenizer(_INSTRUCTION).shape[1], tokenizer.prompt_lengths
    first_length = tokenizer.padded_length(tokens)
    compiling = ' (compiling)' if compiled else ''

    def first_inference(length: int, instruction: str, batch_size: int) -> Trial:
        together = f', batch of {batch_size}' if batch_size > 1 else ''
        text = f'first inference, prompts up to {length} tokens{together}{compiling}'
        draft = wrong_draft if config.decodes else None
        return Trial(text, noise, instruction, draft, batch_size, state)

    instructions = {
        length: _repeated(tokenizer, shorter + 1)
        for shorter, length in zip((0, *lengths), lengths, strict=False)
    } | {first_length: _INSTRUCTION}
    shapes = [(length, size) for size in range(1, max_batch_size + 1) for length in lengths]
    shapes.remove((first_length, 1))
    of_shapes = {'noise': first_inference(first_length, _INSTRUCTION, 1)} | {
        f'{size} of {length} tokens': first_inference(length, instructions[length], size)
        for length, size in shapes
    }
    base = Trial('', noise, _INSTRUCTION, state=state)
    words = _repeated(tokenizer, tokens)  # of equal length: positions alone matter
    of_inputs = _input_trials(base, cameras, states, words)
    if not keeps_patches:
        return of_shapes | of_inputs
    return _again_with_kept(of_shapes) | of_inputs | _kept_trials(base, cameras)


def _again_with_kept(trials: Mapping[str, Trial]) -> dict[str, Trial]:
    """Return the trials, each followed by itself with kept patches."""
    both: dict[str, Trial] = {}
    for name, trial in trials.items():
        both[name] = trial
        both[name + _KEPT] = replace(trial, text=trial.text + _KEPT, keeps=True)
    return both


def _input_trials(
    base: Trial, cameras: Sequence[str], states: Statistics | None, other_words: str
) -> dict[str, Trial]:
    """Return the trials that differ from ``base`` in one input, and ``base`` again."""
    trials = {'other words': ('other words', replace(base, instruction=other_words))}
    if states is not None:
        trials['low state'] = ('the state', replace(base, state=states.low))
        trials['high state'] = ('the state', replace(base, state=states.high))
    trials |= _level_trials(base, cameras)
    trials[_AGAIN] = ('the same again', base)
    return {name: replace(one, text=f'self-check: {text}') for name, (text, one) in trials.items()}


def _level_trials(base: Trial, cameras: Sequence[str]) -> dict[str, tuple[str, Trial]]:
    """Return the trials, with their texts, in which the image of one camera is a single colour."""
    return {
        f'{colour} {camera}': (
            f'black, white and noise images{_of(camera, cameras)}',
            replace(base, images=_with_level(base.images, place, level)),
        )
        for place, camera in enumerate(cameras)
        for colour, level in zip(_BLACK_AND_WHITE, (0, 255), strict=True)
    }


def _kept_trials(base: Trial, cameras: Sequence[str]) -> dict[str, Trial]:
    """Return the trials with kept patches; they follow ``base``, whose patches are the first."""
    trials = {_AGAIN: ('the same again', base)} | _level_trials(base, cameras)
    return {
        name + _KEPT: replace(one, text=f'self-check: kept patches, {text}', keeps=True)
        for name, (text, one) in trials.items()
    }


def check(predictions: Mapping[str, Prediction], cameras: Sequence[str] = (ONE_CAMERA,)) -> None:
    """Check the predictions of all trials.

    :param predictions: with logits where there are tokens, of the trials, under their names.
    :param cameras: of the policy.
    :raises SelfCheckError: naming the check that failed.
    """
    for name, prediction in predictions.items():
        _check_choice(name, prediction)
    noise = predictions['noise']
    scale = _Scale.of(noise)
    repeat = _check_repeatable(noise, predictions[_AGAIN])
    least = max(scale.least, _MIN_CHANGE_OF_REPEAT * repeat)
    _check_images(predictions, noise, cameras, scale, least)
    if (kept := predictions.get(_AGAIN + _KEPT)) is not None:
        _check_repeatable(predictions[_AGAIN], kept, 'with and without kept patches ')
        _check_images(predictions, kept, cameras, scale, least, _KEPT)
    change = scale.change(noise, predictions['other words'])
    if not change > least:
        raise SelfCheckError(
            f'self-check of the instruction failed: other words than {_INSTRUCTION!r} change '
            f'{scale.words(change)}, more than {least:.2g} is expected',
            'the policy does not hear: embedding or tokenizer of this checkpoint are damaged, so '
            'download or export it again',
        )
    if 'low state' in predictions:
        change = scale.change(predictions['low state'], predictions['high state'])
        if not change > least:
            raise SelfCheckError(
                f'self-check of the state failed: its lowest and highest values change '
                f'{scale.words(change)}, more than {least:.2g} is expected',
                'the policy does not feel: the projector of the state in this checkpoint is zero '
                'or damaged, so download or convert it again',
            )


def _check_images(
    predictions: Mapping[str, Prediction],
    noise: Prediction,
    cameras: Sequence[str],
    scale: _Scale,
    least: float,
    kept: str = '',
) -> None:
    """Check that the image of each camera changes the action.

    :param least: change that is expected.
    :param kept: ends the names of the trials.
    :raises SelfCheckError: if one does not.
    """
    for camera in cameras:
        black, white = (predictions[f'{colour} {camera}{kept}'] for colour in _BLACK_AND_WHITE)
        for names, first, second in (
            ('black and white', black, white),
            ('black and noise', black, noise),
            ('white and noise', white, noise),
        ):
            change = scale.change(first, second)
            if not change > least:
                raise SelfCheckError(
                    f'self-check of the image{_of(camera, cameras)} failed: {names} images{kept} '
                    f'change {scale.words(change)}, more than {least:.2g} is expected',
                    'the policy does not see: vision or projector weights of this checkpoint are '
                    'zero or damaged, so download or export it again',
                )


@dataclass(frozen=True)
class _Scale:
    """The unit of the changes of an action.

    :param spread: of the outputs; 1 for normalised values.
    :param least: change that an input must make, in this unit.
    :param what: the words for a change.
    """

    spread: float
    least: float
    what: str

    @classmethod
    def of(cls, prediction: Prediction) -> _Scale:
        if prediction.tokens is None:
            return cls(1.0, _MIN_CHANGE_OF_VALUES, 'the normalised actions by {:.2g}')
        spread = float(_outputs(prediction)[0].std())
        return cls(spread, _MIN_CHANGE, 'the logits of an action by {:.2g} of their spread')

    def change(self, first: Prediction, second: Prediction) -> float:
        """Return the root mean square difference of the first step's outputs."""
        difference = _outputs(first)[0] - _outputs(second)[0]
        return float(np.sqrt((difference**2).mean())) / self.spread

    def words(self, change: float) -> str:
        return self.what.format(change)


def _check_choice(name: str, prediction: Prediction) -> None:
    outputs = _outputs(prediction)
    finite = np.isfinite(outputs)
    # An invalid action has NaN where no token was emitted; black images may cause one.
    valid = prediction.invalid is None
    if not finite.all() or (valid and not np.isfinite(prediction.action).all()):
        raise SelfCheckError(
            f'self-check of finite numbers failed: in the trial {name!r} {(~finite).sum()} of '
            f'{finite.size} {"logits" if prediction.tokens else "values"} are not finite, action '
            f'{prediction.action.tolist()}',
            "the checkpoint's weights have NaN, or values too large for this dtype: try dtype "
            'bfloat16 or float32, or download the checkpoint again',
        )
    if prediction.tokens is not None and not (outputs.std(axis=1) > 0).all():
        raise SelfCheckError(
            f'self-check of a choice failed: in the trial {name!r} all action tokens are equally '
            'likely at some step',
            "the checkpoint's lm_head is zero or damaged: download or export it again",
        )


def _check_repeatable(first: Prediction, again: Prediction, how: str = '') -> float:
    """Return the difference of two equal calls, in the unit of :class:`_Scale`.

    :param how: words for the two calls, with a space at the end.

    Tokens may differ only where the logits tie within the tolerance; the tokens after such a place
    belong to different sequences and are not compared.
    """
    if first.tokens is None:
        change = _Scale.of(first).change(first, again)
        if not change <= _REPEAT_TOLERANCE:
            raise _not_repeatable(f'{how}by {change:.2g} in their normalised actions')
        return change
    ids, ids_again = first.tokens.ids, _tokens(again).ids
    shared = min(len(ids), len(ids_again))
    unequal = np.flatnonzero(ids[:shared] != ids_again[:shared])
    steps = unequal[0] + 1 if len(unequal) else shared
    logits, logits_again = _outputs(first)[:steps], _outputs(again)[:steps]
    changes = np.sqrt(((logits - logits_again) ** 2).mean(axis=1)) / logits.std(axis=1)  # [steps]
    if not changes.max() <= _REPEAT_TOLERANCE:
        raise _not_repeatable(
            f'{how}by {changes.max():.2g} of the spread of their logits at step {changes.argmax()}'
        )
    return float(changes[0])


def _not_repeatable(by: str) -> SelfCheckError:
    return SelfCheckError(
        f'self-check of repeatability failed: two equal calls differ {by}, at most '
        f'{_REPEAT_TOLERANCE} is allowed',
        'the device computes wrongly: try another version of torch, another dtype, or the cpu',
    )


def _tokens(prediction: Prediction) -> TokenTrace:
    if prediction.tokens is None:
        raise ValueError('the prediction has no tokens')
    return prediction.tokens


def _outputs(prediction: Prediction) -> NDArray[np.float64]:
    """Return the action logits [steps, n_action_bins]; without tokens all values [1, K * D]."""
    if prediction.tokens is None:
        if prediction.normalized_actions is None:
            raise ValueError('the prediction has neither tokens nor normalised actions')
        return prediction.normalized_actions.reshape(1, -1)
    logits = prediction.tokens.logits
    if logits is None:
        raise ValueError('the prediction has no logits')
    return logits.astype(np.float64)


def _of(camera: str, cameras: Sequence[str]) -> str:
    """Return the words for one of several cameras."""
    return f' of {camera}' if len(cameras) > 1 else ''


def _with_level(
    images: tuple[NDArray[np.uint8], ...], place: int, level: int
) -> tuple[NDArray[np.uint8], ...]:
    """Return the images, the one at ``place`` replaced by a single grey level."""
    plain = np.full_like(images[place], level)
    return tuple(plain if index == place else image for index, image in enumerate(images))


def _repeated(tokenizer: PromptTokenizer, tokens: int) -> str:
    """Return the shortest instruction of one repeated word whose prompt has enough tokens.

    :param tokens: minimum number of the prompt's tokens.
    """
    instruction = 'a'
    while tokenizer(instruction).shape[1] < tokens:
        instruction += ' a'
    return instruction
