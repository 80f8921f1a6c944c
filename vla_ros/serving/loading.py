# SPDX-License-Identifier: Apache-2.0
"""Loading of a policy for the server, with what its metadata tells clients about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_ros.policies import center_crop, inspect, load_policy, recipe, resolve
from vla_ros.policy_request import PolicyRequest
from vla_ros.types import Policy, PolicyInfo, PolicySpec, ProgressCallback
from vla_ros.wire import ServedPolicy

_SAMPLES = 64  # blocks of each file of weights that are hashed
_BLOCK_BYTES = 4096
_MAX_DESCRIPTION_BYTES = 64_000_000


@dataclass(frozen=True)
class Loaded:
    """A policy and its description."""

    policy: Policy
    served: ServedPolicy


def load(request: PolicyRequest, max_batch_size: int, progress: ProgressCallback) -> Loaded:
    """Load the policy that is asked for.

    :param request: its ``unnorm_key``, if set, is the only data set that clients may choose.
    :param max_batch_size: number of observations that may be predicted at a time.
    :raises PolicyError: if it can't be loaded.
    """
    resolved = resolve(request)
    policy = load_policy(resolved, max_batch_size, progress)
    found = inspect(resolved)
    keys = sorted(found.unnorm_keys) if found is not None else []
    if resolved.unnorm_key:
        keys = [resolved.unnorm_key]
    folder = None if found is None else found.folder
    specs: Mapping[str, PolicySpec] = {key: policy.spec(key) for key in keys} or {'': policy.spec()}
    # What may differ between replicas: on which card or with how many threads they compute.
    facts = {**recipe(resolved), **vars(_shown(policy.info))}
    facts = {name: fact for name, fact in facts.items() if name not in ('threads', 'device')}
    return Loaded(
        policy,
        ServedPolicy(
            info=_shown(policy.info),
            specs=specs,
            takes_any_key=not keys,
            preprocessing=resolved.preprocessing,
            rotate_180=resolved.rotate_180,
            center_crop=center_crop(resolved),
            identity=identity(folder, facts),
        ),
    )


def _shown(info: PolicyInfo) -> PolicyInfo:
    """Return the info with a folder's name in place of its path."""
    is_path = Path(info.model).is_absolute() or Path(info.model).exists()
    return replace(info, model=Path(info.model).name) if is_path else info


def identity(folder: Path | None, facts: Mapping[str, Any]) -> str:
    """Return text that differs if the answers of two policies may differ.

    Descriptions are hashed whole, weights by their sizes and by blocks from all over each file:
    enough to tell two trainings apart, without reading gigabytes.

    :param folder: the checkpoint; None if there is none.
    :param facts: what the answers depend on beside the files.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for file in sorted(folder.iterdir()) if folder is not None else ():
        if file.suffix in ('.json', '.safetensors', '.model') and file.is_file():
            digest.update(f'{file.name} {file.stat().st_size} '.encode())
            digest.update(_sampled(file))
    return digest.hexdigest()[:32]


def _sampled(file: Path) -> bytes:
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open('rb') as opened:
        if size <= _SAMPLES * _BLOCK_BYTES or (
            file.suffix != '.safetensors' and size <= _MAX_DESCRIPTION_BYTES
        ):
            digest.update(opened.read())
        else:
            for number in range(_SAMPLES):
                opened.seek(number * (size - _BLOCK_BYTES) // (_SAMPLES - 1))
                digest.update(opened.read(_BLOCK_BYTES))
    return digest.digest()
