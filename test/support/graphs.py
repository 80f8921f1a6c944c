# SPDX-License-Identifier: Apache-2.0
"""A policy with graphs is compared with itself without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from support.asking import predict
from support.drafts import DRAFTS
from support.golden import CASES, picture
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.request import Request
from vla_ros.types import Prediction


@contextmanager
def without_graphs(one: OpenVLAPolicy) -> Iterator[None]:
    """No shape has a graph."""
    programs, one._graphs._programs = one._graphs._programs, {}
    try:
        yield
    finally:
        one._graphs._programs = programs


def predicted(one: OpenVLAPolicy, requests: Sequence[Request]) -> list[Prediction]:
    """All in one batch; none has an error."""
    predictions = [each for each in predict(one, requests) if isinstance(each, Prediction)]
    assert len(predictions) == len(requests)
    return predictions


def assert_same_bits(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        assert (one.tokens is None) == (other.tokens is None)
        if one.tokens is not None and other.tokens is not None:
            np.testing.assert_array_equal(one.tokens.ids, other.tokens.ids)
            np.testing.assert_array_equal(one.tokens.probabilities, other.tokens.probabilities)


def golden_batches(name: str) -> list[list[Request]]:
    """Golden cases of all prompt lengths, with drafts of every kind, alone and in pairs."""
    cases = [case for checkpoint, case in CASES.values() if checkpoint == name]
    kinds = list(DRAFTS.values())
    asked = [
        Request(
            (picture(case),),
            case['instruction'],
            case['unnorm_key'],
            kinds[number % len(kinds)](np.array(case['new_tokens'])),
        )
        for number, case in enumerate(cases)
    ]
    return [*([each] for each in asked), *(asked[i : i + 2] for i in range(0, len(asked), 2))]


def assert_graphs_change_no_bit(one: OpenVLAPolicy, batches: Sequence[Sequence[Request]]) -> None:
    """Neither do they change one a second time."""
    for batch in batches:
        one.reset()
        with without_graphs(one):
            plain = predicted(one, batch)
        for _ in range(2):
            one.reset()
            assert_same_bits(predicted(one, batch), plain)
