# SPDX-License-Identifier: Apache-2.0
"""What a block of tokens costs, as the warm-up measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.costs import BlockCosts
from vla_ros.policies import load_policy, resolve
from vla_ros.policy_request import PolicyRequest
from vla_ros.replay.run import run
from vla_ros.types import PolicyError


def passes(block_s: float, token_s: float, first_s: float = 9.0) -> list[tuple[int, float]]:
    """Those of one inference of the warm-up, the first one of each kind slow."""
    return [
        *((6, first_s), (6, block_s), (6, 1.1 * block_s)),
        *((1, first_s), (1, token_s), (1, 1.2 * token_s)),
    ]


def test_without_a_warm_up_a_block_costs_a_token() -> None:
    assert BlockCosts().of(1) == BlockCosts().of(3) == 1.0


@pytest.mark.parametrize(
    ('block_s', 'token_s', 'cost'),
    [(0.4, 0.1, 4.0), (0.011, 0.01, 1.1), (0.1, 0.2, 1.0), (5.0, 0.1, 6.0)],
)
def test_the_first_pass_of_a_kind_does_not_count_and_the_ratio_is_bounded(
    block_s: float, token_s: float, cost: float
) -> None:
    costs = BlockCosts()
    costs.add(2, passes(block_s, token_s))
    assert costs.of(2) == pytest.approx(cost)
    assert costs.of(1) == 1.0


def test_a_disturbed_inference_changes_little() -> None:
    costs, noise = BlockCosts(), np.random.default_rng(0)
    for _ in range(5):
        costs.add(1, passes(0.4 * noise.uniform(1, 1.1), 0.1 * noise.uniform(1, 1.1)))
    costs.add(1, passes(0.4, 50.0))
    costs.add(1, passes(50.0, 0.1))
    assert 3.5 < costs.of(1) < 4.5


@pytest.mark.parametrize(
    'few', [[], [(1, 0.1)] * 6, [(6, 0.1)] * 3, [(6, 0.1), (6, 0.1), (1, 0.1)]]
)
def test_too_few_passes_say_nothing(few: list[tuple[int, float]]) -> None:
    costs = BlockCosts()
    costs.add(1, few)
    assert costs.of(1) == 1.0


@pytest.mark.parametrize('repeatable', [False, True])
def test_nothing_measured_decides_where_answers_must_repeat(
    tiny_checkpoint: Path, repeatable: bool
) -> None:
    request = resolve(PolicyRequest(str(tiny_checkpoint), device='cpu', dtype='float32'))
    policy = load_policy(request, repeatable=repeatable)
    assert isinstance(policy, OpenVLAPolicy)
    costs = policy._predictor.block_costs
    costs.add(1, passes(0.4, 0.1))
    assert costs.of(1) == (1.0 if repeatable else pytest.approx(4.0))


def test_a_replay_measures_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    def load(*_: object, repeatable: bool, **__: object) -> None:
        asked.append(repeatable)
        raise PolicyError('enough')

    monkeypatch.setattr('vla_ros.replay.run.load_policy', load)
    with pytest.raises(PolicyError, match='enough'):
        run(cast(Any, None), cast(Any, None), PolicyRequest('scripted'), tmp_path, print)
    assert asked == [True]
