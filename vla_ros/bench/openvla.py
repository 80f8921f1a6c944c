# SPDX-License-Identifier: Apache-2.0
"""The parts of a benchmark that only OpenVLA has: costs, drafts and a cache of images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.bench.combinations import Combination
from vla_ros.bench.memory import loaded_together
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.costs import Costs, count_costs
from vla_ros.openvla.kind import OpenVLAInspection
from vla_ros.openvla.placement import DTYPES
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.openvla.session import OpenVLASession
from vla_ros.policy_request import PolicyRequest
from vla_ros.types import Policy, PolicySpec, Session


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model that its predictions do not have.

    :param costs: costs of one combination's inference.
    :param action_ids: the token ids of bins.
    :param tokens: that are decoded for an inference, 1 where nothing is decoded.
    """

    costs: Costs
    action_ids: range
    tokens: int


def model_facts(
    inspection: OpenVLAInspection,
    spec: PolicySpec,
    instruction: str,
    combinations: Sequence[Combination],
) -> list[ModelFacts]:
    """Return the facts for each combination, from the checkpoint's description.

    :raises PolicyError: if the instruction can't be used.
    """
    config = inspection.config
    tokenizer = PromptTokenizer(inspection.folder, config)
    prompt_tokens = tokenizer.padded_length(tokenizer(instruction).shape[1])
    rows = config.decoded_tokens(spec.action_dim) if config.decodes else 1
    action_tokenizer = config.action_tokenizer
    action_ids = range(action_tokenizer.first_id, action_tokenizer.vocab_size)

    @functools.cache  # threads and drafts do not change the costs
    def costs(policy: PolicyRequest, batch_size: int) -> Costs:
        tokens = prompt_tokens + rows - 1  # with the places of a draft
        dtype, quantization, device = DTYPES[policy.dtype], policy.quantization, policy.device
        return count_costs(config, dtype, tokens, batch_size, quantization, device, rows=rows)

    return [ModelFacts(costs(one.policy, one.batch_size), action_ids, rows) for one in combinations]


def fit_together(
    inspection: OpenVLAInspection,
    combinations: Sequence[Combination],
    facts: Sequence[ModelFacts],
    is_random: bool,
) -> bool:
    """Return whether all policies of the combinations fit into the free memory together.

    :param is_random: whether their weights are in no files.
    """
    costs = [one.costs for one in facts]
    stored = set() if is_random else Checkpoint(inspection.folder).dtypes
    return loaded_together(combinations, costs, stored)


def forget_images(policy: Policy) -> None:
    """Empty the cache of images, if the policy has one."""
    if isinstance(policy, OpenVLAPolicy):
        policy.reset()


def offer_draft(session: Session, draft: NDArray[np.int64] | None) -> None:
    """Set the draft of a session's next inference, if it takes drafts."""
    if isinstance(session, OpenVLASession):
        session.draft = draft


def wrong_draft(right: NDArray[np.int64], action_ids: range) -> NDArray[np.int64]:
    """Return a draft of action tokens that all differ from those of the right draft."""
    bins = len(action_ids)
    return action_ids.start + (right - action_ids.start + bins // 2) % bins
