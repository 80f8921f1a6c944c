# SPDX-License-Identifier: Apache-2.0
"""The conditions of an evaluation, their outcomes, and a summary for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import PurePath

from vla_ros.evaluation.episode import Episode
from vla_ros.measure.statistics import Summary, percentiles
from vla_ros.policy_request import PolicyRequest

_Z = 1.959964  # standard deviations around the mean with 95 % of a normal distribution
# Names of paces and of controls, with their texts in reports.
PACES = {'step': 'in step', 'free': 'free-running', 'world': 'in world time'}
_OF_POLICY = ('model', 'device', 'dtype', 'quantization', 'recomputed_patches')
CONTROLS = {'none': '', 'swapped': 'swapped instructions', 'black': 'black image'}


@dataclass(frozen=True)
class Condition:
    """One way to run a policy and a world. No field is ``auto``.

    :param policy: the request, resolved.
    :param pace: ``step`` (the world waits for each action), ``free`` (it does not) or ``world`` (an
        inference takes ``added_latency_s`` of the world's time).
    :param added_latency_s: additional time from capture to sending of an image [s].
    :param control: change of the policy's input, which must lower the success rate: ``none``,
        ``swapped`` (another instruction) or ``black`` (black images).
    :param deltas_from: start of a displacement: the tool's pose ``now``, or when the ``image`` was
        captured.
    :param motion: what moves the arm: ``action`` or ``twist``.
    """

    policy: PolicyRequest
    pace: str = 'step'
    added_latency_s: float = 0.0
    control: str = 'none'
    deltas_from: str = 'now'
    motion: str = 'action'

    def __str__(self) -> str:
        policy = self.policy
        words = [PurePath(policy.model).name, policy.device, policy.dtype]
        words += [policy.quantization] if policy.quantization != 'none' else []
        share = policy.recomputed_patches
        words += [f'{share:.0%} of the patches'] if share < 1 else []
        parts = [' '.join(words), PACES[self.pace]]
        parts += [f'+{1e3 * self.added_latency_s:.0f} ms'] if self.added_latency_s else []
        parts += ['twists'] if self.motion == 'twist' else []
        parts += ['deltas from the image'] if self.deltas_from == 'image' else []
        parts += [CONTROLS[self.control]] if self.control != 'none' else []
        return ', '.join(parts)

    def as_json(self) -> Summary:
        """Return the fields by name; of the policy only those that differ within a report."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != 'policy'}
        return {name: getattr(self.policy, name) for name in _OF_POLICY} | own

    @classmethod
    def from_json(cls, summary: Summary) -> Condition:
        """Return the condition from the result of :meth:`as_json`."""
        policy = PolicyRequest(**{name: summary[name] for name in _OF_POLICY})
        own = {one.name: summary[one.name] for one in fields(cls) if one.name != 'policy'}
        return cls(policy, **own)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a condition.

    :param episodes: at least one.
    :param drafted: number of draft tokens that were verified, in all episodes.
    :param accepted: number of these that were right.
    :param agreement: agreement of its tokens with those of a reference, from
        :func:`~vla_ros.measure.agreement.agreement`; None if there is no reference.
    """

    condition: Condition
    episodes: Sequence[Episode]
    drafted: int = 0
    accepted: int = 0
    agreement: Summary | None = None


def summarize(outcomes: Sequence[Outcome]) -> list[Summary]:
    """Return one object for each outcome, in the same order.

    It has the condition, ``all`` its episodes together and for each of the ``instructions``,
    ``latency_s`` from capture to arrival (None if there was no action), and each episode.
    ``difference`` is that of the success rate to the first policy's, in the same conditions and
    with the same starts; None for the first policy.
    """
    return [
        {**_summary(outcome), 'difference': _difference(_first_of(outcome, outcomes), outcome)}
        for outcome in outcomes
    ]


def _first_of(outcome: Outcome, outcomes: Sequence[Outcome]) -> Outcome:
    """Return the first outcome whose conditions differ in the policy only."""
    own = outcome.condition
    return next(one for one in outcomes if replace(one.condition, policy=own.policy) == own)


def _difference(first: Outcome, second: Outcome) -> Summary | None:
    """Return the difference of two success rates with the same starts, and its interval."""
    if first is second or len(first.episodes) != len(second.episodes):
        return None
    pairs = [
        (one.success, other.success)
        for one, other in zip(first.episodes, second.episodes, strict=True)
    ]
    won, lost = pairs.count((False, True)), pairs.count((True, False))
    return {'rate': (won - lost) / len(pairs), 'interval': paired_interval(won, lost, len(pairs))}


def paired_interval(won: int, lost: int, pairs: int) -> tuple[float, float]:
    """Return the interval of a difference of two paired success rates, with 95 % confidence.

    It is Wald's after half a pair is added to each of the four outcomes (Agresti and Min,
    "Simple improved confidence intervals for comparing matched proportions", Statistics in
    Medicine 24 (2005), 729-740).

    :param won: number of pairs in which only the second succeeded.
    :param lost: number of pairs in which only the first succeeded.
    """
    n, centre, apart = pairs + 2, won - lost, won + lost + 1
    reach = _Z * math.sqrt(apart - centre**2 / n)
    return max(-1.0, (centre - reach) / n), min(1.0, (centre + reach) / n)


def _summary(outcome: Outcome) -> Summary:
    episodes, drafted = outcome.episodes, outcome.drafted
    instructions = dict.fromkeys(episode.instruction for episode in episodes)
    latencies_s = [latency_s for episode in episodes for latency_s in episode.latencies_s]
    return {
        'name': str(outcome.condition),
        **outcome.condition.as_json(),
        'all': _success(episodes),
        'instructions': {
            instruction: _success([one for one in episodes if one.instruction == instruction])
            for instruction in instructions
        },
        'latency_s': percentiles(latencies_s) if latencies_s else None,
        'unanswered': sum(episode.unanswered for episode in episodes),
        'skipped': sum(episode.skipped for episode in episodes),
        'drafted': drafted,
        'accepted': outcome.accepted,
        'acceptance': outcome.accepted / drafted if drafted else None,
        'agreement': outcome.agreement,
        'episodes': [
            {
                'seed': one.seed,
                'instruction': one.instruction,
                'said': one.said,
                'success': one.success,
                'failure': one.failure,
                'steps': one.steps,
                'duration_s': one.duration_s,
            }
            for one in episodes
        ],
    }


def _success(episodes: Sequence[Episode]) -> Summary:
    steps = [episode.steps for episode in episodes if episode.success]
    return {
        'episodes': len(episodes),
        'successes': len(steps),
        'success_rate': len(steps) / len(episodes),
        'interval': wilson_interval(len(steps), len(episodes)),
        'mean_steps': sum(steps) / len(steps) if steps else None,
    }


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate, with 95 % confidence.

    It is also valid near 0 and 1 and for few episodes:
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n); E. B. Wilson, "Probable inference, the law
    of succession, and statistical inference", J. Am. Stat. Assoc. 22 (1927), 209-212.

    :param episodes: at least 1.
    """
    n, p = episodes, successes / episodes
    centre = p + _Z**2 / (2 * n)
    reach = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)
