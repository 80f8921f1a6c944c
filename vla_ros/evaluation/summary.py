"""What was tried, what came of it, and what that adds up to as one JSON object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath

from vla_ros.evaluation.episode import Episode
from vla_ros.measure.statistics import Summary, percentiles
from vla_ros.policy_request import PolicyRequest

_Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
# By their names; what a report says of them.
PACES = {'step': 'in step', 'free': 'free-running'}
_OF_POLICY = ('model', 'device', 'dtype', 'quantization')
CONTROLS = {'none': '', 'swapped': 'swapped instructions', 'black': 'black image'}


@dataclass(frozen=True)
class Condition:
    """One way to run a policy and a world; nothing in here says ``auto``.

    :param policy: resolved.
    :param pace: ``step`` (the world waits for each action) or ``free`` (it does not).
    :param added_latency_s: that a picture comes to the policy later than it would.
    :param control: what was done to the policy's input, to see that it matters: ``none``,
        ``swapped`` (another instruction) or ``black`` (no picture).
    :param deltas_from: an action moves the arm from where it is ``now``, or from where it was in
        the ``picture``.
    """

    policy: PolicyRequest
    pace: str = 'step'
    added_latency_s: float = 0.0
    control: str = 'none'
    deltas_from: str = 'now'

    def __str__(self) -> str:
        policy = self.policy
        words = [PurePath(policy.model).name, policy.device, policy.dtype]
        words += [policy.quantization] if policy.quantization != 'none' else []
        parts = [' '.join(words), PACES[self.pace]]
        parts += [f'+{1e3 * self.added_latency_s:.0f} ms'] if self.added_latency_s else []
        parts += ['deltas from the image'] if self.deltas_from == 'image' else []
        parts += [CONTROLS[self.control]] if self.control != 'none' else []
        return ', '.join(parts)

    def as_json(self) -> Summary:
        """Return the fields by name, without those in which policies of a report never differ."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != 'policy'}
        return {name: getattr(self.policy, name) for name in _OF_POLICY} | own

    @classmethod
    def from_json(cls, summary: Summary) -> Condition:
        """Return the condition of what :meth:`as_json` gave."""
        policy = PolicyRequest(**{name: summary[name] for name in _OF_POLICY})
        own = {one.name: summary[one.name] for one in fields(cls) if one.name != 'policy'}
        return cls(policy, **own)


@dataclass(frozen=True)
class Outcome:
    """What came of a condition.

    :param episodes: at least one.
    :param drafted: tokens of drafts that the policy looked at, in all episodes.
    :param accepted: of these, how many were right.
    :param agreement: of its tokens with a reference's, by
        :func:`~vla_ros.measure.agreement.agreement`; None if it was held against none.
    """

    condition: Condition
    episodes: Sequence[Episode]
    drafted: int = 0
    accepted: int = 0
    agreement: Summary | None = None


def summarize(outcomes: Sequence[Outcome]) -> list[Summary]:
    """One object for each, in the same order: the condition, ``all`` of its episodes, those of each
    of the ``instructions`` it was judged by, ``latency_s`` from capture to arrival (None if there
    was no action), and each episode in a few words."""
    return [_summary(outcome) for outcome in outcomes]


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
    """Between which rates, with 95 % confidence, the true one lies: Wilson's score interval, which
    also holds near 0 and 1 and for few episodes.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n); E. B. Wilson, "Probable inference, the law
    of succession, and statistical inference", J. Am. Stat. Assoc. 22 (1927), 209-212.

    :param episodes: at least 1.
    """
    n, p = episodes, successes / episodes
    centre = p + _Z**2 / (2 * n)
    reach = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)
