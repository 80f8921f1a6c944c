# SPDX-License-Identifier: Apache-2.0
"""The combinations of device, dtype and other values to compare, checked before a policy loads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import starmap
from typing import Any

from vla_ros.policies import inspect, resolve
from vla_ros.policy_request import Inspection, PolicyRequest, product
from vla_ros.types import PolicyError

# Drafts: none, one whose tokens are all right, or one whose tokens are all wrong.
DRAFTS = ('none', 'right', 'wrong')

_OF_POLICY = ('device', 'dtype', 'quantization', 'compile', 'cuda_graphs')


@dataclass(frozen=True)
class Combination:
    """One way to run the model.

    :param policy: resolved request. Combinations with equal requests share one loaded policy.
    :param threads: number of torch's threads on the CPU.
    :param is_plain: whether it takes the plain path through the policy's weights.
    """

    policy: PolicyRequest
    batch_size: int
    threads: int
    draft: str = 'none'
    is_plain: bool = False

    @property
    def ceilings_key(self) -> tuple[str, str, str, int]:
        """Key that is equal for combinations with the same limits."""
        policy = self.policy
        return policy.device, policy.dtype, policy.quantization, self.threads

    def __str__(self) -> str:
        policy = self.policy
        words = [policy.device, policy.dtype]
        words += [policy.quantization] if policy.quantization != 'none' else []
        words += [f'batch {self.batch_size}'] if self.batch_size > 1 else []
        words += [f'{self.threads} thread{"s" if self.threads > 1 else ""}']
        words += ['compiled'] if policy.compile else []
        words += [] if policy.cuda_graphs else ['no graphs']
        words += [f'{self.draft} draft'] if self.draft != 'none' else []
        words += ['plain path'] if self.is_plain else []
        return ' '.join(words)

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, with those of the policy that may differ."""
        policy = {name: getattr(self.policy, name) for name in _OF_POLICY}
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != 'policy'}
        return policy | own


def combine(
    devices: Sequence[str],
    dtypes: Sequence[str],
    quantizations: Sequence[str],
    compiles: Sequence[bool],
    batch_sizes: Sequence[int],
    threads: Sequence[int],
    drafts: Sequence[str] = ('none',),
    model: str = '',
    with_plain: bool = False,
    cuda_graphs: Sequence[bool] = (True,),
) -> list[Combination]:
    """Return all combinations, the first values first.

    A value that is given twice is measured twice, which shows the noise.

    :param model: model, whose kind decides which values are allowed; empty: a checkpoint.
    :param with_plain: whether the plain path of each device, dtype and number of threads comes
        first.

    :raises PolicyError: if one of the values is not available here.
    """
    for draft in drafts:
        if draft not in DRAFTS:
            raise PolicyError(f'draft {draft!r} is unknown', f'allowed: {", ".join(DRAFTS)}')
    cores = os.cpu_count() or 1
    for count in threads:
        if not 1 <= count <= cores:
            raise PolicyError(f'threads is {count}', f'allowed: 1 to {cores}, the number of cores')
    lists = [devices, dtypes, quantizations, compiles, cuda_graphs]
    requests = product(PolicyRequest(model), **dict(zip(_OF_POLICY, lists, strict=True)))
    policies = [resolve(request) for request in requests]
    combinations = list(
        starmap(Combination, itertools.product(policies, batch_sizes, threads, drafts))
    )
    return [*(_plain(combinations) if with_plain else ()), *combinations]


def _plain(combinations: Sequence[Combination]) -> list[Combination]:
    """Return the plain path of each device, dtype and number of threads."""
    # Like the first one, so that both share a policy where they can.
    graphs = combinations[0].policy.cuda_graphs
    found = []
    for one in combinations:
        policy = replace(one.policy, quantization='none', compile=False, cuda_graphs=graphs)
        found.append(Combination(policy, 1, one.threads, is_plain=True))
    return list(dict.fromkeys(found))


def locate(combinations: Sequence[Combination], model: str) -> list[Combination]:
    """Return the combinations for a model on this machine, and for its longest actions.

    :param model: folder of a checkpoint, or ``scripted:...``.
    :raises PolicyError: if the model's description can't be read.
    """
    inspection = inspection_of(PolicyRequest(model))
    keys = inspection.unnorm_keys
    key = max(keys, key=lambda key: inspection.spec(key).action_dim, default='')
    return [
        replace(one, policy=replace(one.policy, model=model, revision='', unnorm_key=key))
        for one in combinations
    ]


def inspection_of(request: PolicyRequest) -> Inspection:
    """Return the properties of a policy on this machine.

    :raises PolicyError: if its description can't be read, or its files are not downloaded.
    """
    inspection = inspect(request)
    if inspection is None:
        raise PolicyError(f'model {request.model!r} is not downloaded', 'download it first')
    return inspection
