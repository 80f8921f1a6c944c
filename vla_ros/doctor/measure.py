# SPDX-License-Identifier: Apache-2.0
"""Loads the policy and times it: the only check that takes as long as starting the node."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, ok, warn
from vla_ros.policies import load_policy
from vla_ros.types import Policy, all_predicted

_INSTRUCTION = 'pick up the red cup'
_REPEATS = 3


def check_by_measuring(facts: Facts) -> Iterator[Finding]:
    """Load, warm up with self-checks, and infer, each time with new images.

    :raises PolicyError: if one of these fails.
    """
    if not facts.is_whole:
        return  # the check of the checkpoint has reported it
    if facts.fits is False:
        yield warn('not measured: the policy does not fit into memory', 'see the check memory')
        return
    robots = 1 if facts.parameters is None else len(facts.parameters.robot_names)
    started_s = time.monotonic()
    policy = load_policy(facts.request, robots)
    loaded_s = time.monotonic()
    try:
        policy.warmup()
        warm_s = time.monotonic()
        facts.inference_s = _inference_s(policy, facts.unnorm_key or None, robots)
    finally:
        policy.close()
    together = f' of {robots} robots together' if robots > 1 else ''
    facts.inference_source = f'measured, the median of {_REPEATS}{together}'
    yield ok(
        f'loaded in {loaded_s - started_s:.1f} s, warm and checked in {warm_s - loaded_s:.1f} s'
    )


def _inference_s(policy: Policy, unnorm_key: str | None, robots: int) -> float:
    """Return the median duration of an inference for all robots together.

    :raises PolicyError: if the policy can't predict.
    """
    from vla_ros.measure.images import noise_images
    from vla_ros.measure.observations import make_observations

    spec = policy.spec(unnorm_key)
    images = noise_images(_REPEATS * robots * len(spec.cameras))
    observations = iter(make_observations(spec, images, _INSTRUCTION))
    seconds = []
    for _ in range(_REPEATS):
        taken = itertools.islice(observations, robots)
        batch = [(policy.session(unnorm_key), observation) for observation in taken]
        started_s = time.monotonic()
        all_predicted(policy.predict(batch))
        seconds.append(time.monotonic() - started_s)
    return statistics.median(seconds)
