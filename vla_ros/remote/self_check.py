# SPDX-License-Identifier: Apache-2.0
"""Self-checks of a server's policy, through the wire: every input affects the action.

A server of ours has checked its policy by the logits, which shows more; then only the form of the
answers is checked here. Pure functions, any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.types import Observation, PolicySpec, Prediction, SelfCheckError, invalid_reason

_HEIGHT, _WIDTH = 480, 640  # of many cameras: the durations are those of a robot's images
_WORDS = 'pick up the red cup and put it on the left plate'
_OTHER_WORDS = 'open the top drawer'


@dataclass(frozen=True)
class Trial:
    """One inference of the warm-up.

    :param text: the progress that the user reads.
    """

    name: str
    text: str
    observation: Observation


def plan_trials(spec: PolicySpec) -> list[Trial]:
    """Return the inferences in order; the first two are equal."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
    state = np.zeros(spec.state_dim) if spec.state_dim else None

    def trial(name: str, text: str, image: NDArray[np.uint8], words: str = _WORDS) -> Trial:
        images = dict.fromkeys(spec.cameras, image)
        stamps = dict.fromkeys(spec.cameras, 0)
        return Trial(name, text, Observation(images, words, stamps, state))

    return [
        trial('noise', 'first inference', noise),
        trial('noise again', 'the same again', noise),
        trial('black', 'self-check: black image', np.zeros_like(noise)),
        trial('white', 'self-check: white image', np.full_like(noise, 255)),
        trial('other words', 'self-check: other words', noise, _OTHER_WORDS),
    ]


def check(
    answers: Mapping[str, Prediction], spec: PolicySpec, is_checked: bool, shown: str
) -> None:
    """Check the answers to all trials.

    :param is_checked: whether the server has checked that inputs matter.
    :param shown: name of the server.
    :raises SelfCheckError: naming the check that failed.
    """
    for name, answer in answers.items():
        reason = invalid_reason(answer, spec)
        if reason is not None and not (is_checked and name != 'noise'):
            raise SelfCheckError(
                f'self-check of {shown} failed: its answer to the trial {name!r} is not valid: '
                f'{reason}',
                'compare the policy of the server with the contract of unnorm_key',
            )
    if is_checked:
        return
    noise = answers['noise'].actions
    if all(np.array_equal(answers[name].actions, noise) for name in ('black', 'white')):
        raise SelfCheckError(
            f'self-check of the image failed: {shown} answers black, white and noise images alike',
            'check the keys of the images in the section server of the contract',
        )
    if np.array_equal(answers['other words'].actions, noise):
        raise SelfCheckError(
            f'self-check of the instruction failed: {shown} answers other words alike',
            'check the key of the prompt in the section server of the contract',
        )
