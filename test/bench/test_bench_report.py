# SPDX-License-Identifier: Apache-2.0
"""How near actions are to each other is told of bins only."""

from __future__ import annotations

from support.fakes import SPEC
from vla_ros.bench.combinations import Combination
from vla_ros.bench.measure import Measurement
from vla_ros.bench.report import _agreement
from vla_ros.policy_request import PolicyRequest

BINS = range(100, 200)


def measured(*batches: list[list[int]]) -> Measurement:
    combination = Combination(PolicyRequest(device='cpu', dtype='float32'), 1, 1)
    return Measurement(combination, SPEC, token_ids=list(batches))


def test_tokens_that_are_no_bins_have_no_distance() -> None:
    first = measured([[100, 150, 7]], [[199, 199]])
    ours = measured([[103, 150, 190], [100, 100, 100]], [[199]])
    assert _agreement(ours, first, BINS) == {
        'actions': 2,
        'equal_actions': 0,
        'equal_bins': 2 / 5,
        'largest_bin_distance': 3,
    }
    assert _agreement(first, first, BINS)['equal_bins'] == 1
    assert _agreement(measured([[7]]), measured([[8]]), BINS)['largest_bin_distance'] == 0
