# SPDX-License-Identifier: Apache-2.0
"""The list of all kinds of policies, and the functions that select and load a policy."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vla_ros.policy_request import Inspection, Kind, PolicyRequest

if TYPE_CHECKING:  # the doctor reports what is not installed
    from vla_ros.types import Policy, ProgressCallback

# One line for each kind, imported when needed. The last one owns all other names: folders, hub ids.
KINDS = (
    'vla_ros.scripted.kind:Scripted',
    'vla_ros.remote.kind:Remote',
    'vla_ros.openvla.kind:OpenVLA',
)


def kind_of(model: str) -> Kind:
    """Return the kind of a model."""
    for name in KINDS:
        module, _, attribute = name.partition(':')
        kind: Kind = getattr(import_module(module), attribute)()
        if kind.owns(model):
            return kind
    raise LookupError(f'no kind of policy owns {model!r}')


def resolve(request: PolicyRequest) -> PolicyRequest:
    """Return the request without ``auto``, checked as far as is possible without loading.

    :raises PolicyError: if it asks for what the kind or the machine does not have.
    :raises ContractError: if it is unknown whether images must be cropped.
    """
    resolved = kind_of(request.model).resolve(request)
    center_crop(resolved)
    return resolved


def resolve_all(requests: Iterable[PolicyRequest]) -> list[PolicyRequest]:
    """Resolve the requests, and return each result once.

    :raises PolicyError: as :func:`resolve`.
    """
    return list(dict.fromkeys(map(resolve, requests)))


def inspect(request: PolicyRequest) -> Inspection | None:
    """Return the policy's properties; None if its files must be downloaded first.

    :raises PolicyError: if not even its description can be read.
    """
    return kind_of(request.model).inspect(request)


def recipe(request: PolicyRequest) -> dict[str, Any]:
    """Return the facts beyond the request that a loaded policy's answers depend on."""
    return kind_of(request.model).recipe(request, center_crop(request))


def load_policy(
    request: PolicyRequest,
    max_batch_size: int = 1,
    progress: ProgressCallback = lambda _: None,
    repeatable: bool = False,
) -> Policy:
    """Load the policy. Importing torch, where the policy needs it, takes seconds.

    :param max_batch_size: number of observations that may be predicted at a time.
    :param repeatable: whether equal inputs give equal bits in every process of a machine.
    :raises PolicyError: if the policy can't be loaded.
    """
    kind = kind_of(request.model)
    return kind.load(request, center_crop(request), max_batch_size, progress, repeatable)


def center_crop(request: PolicyRequest) -> bool:
    """Return whether images are cropped: if they were in the training that is reproduced.

    :raises ContractError: if it is unknown whether they were.
    """
    from vla_ros.motion import was_cropped

    in_training = request.preprocessing == 'training'
    return in_training and was_cropped(request.unnorm_key, request.contracts or None)
