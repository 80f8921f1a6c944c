"""The kinds of policies that there are, and the way from a request to a policy."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vla_ros.policy_request import Inspection, Kind, PolicyRequest

if TYPE_CHECKING:  # the doctor reports what is not installed
    from vla_ros.types import Policy, ProgressCallback

# A line for each, imported when its turn comes. The last owns all that is left: folders, hub ids.
KINDS = (
    'vla_ros.scripted.kind:Scripted',
    'vla_ros.openvla.kind:OpenVLA',
)


def kind_of(model: str) -> Kind:
    """Return the kind that a model is of."""
    for name in KINDS:
        module, _, attribute = name.partition(':')
        kind: Kind = getattr(import_module(module), attribute)()
        if kind.owns(model):
            return kind
    raise LookupError(f'no kind of policy owns {model!r}')


def resolve(request: PolicyRequest) -> PolicyRequest:
    """Return the request without ``auto``, and checked as far as that goes without loading.

    :raises PolicyError: if it asks for what the kind or the machine does not have.
    :raises ContractError: if nobody knows whether images are to be cropped.
    """
    resolved = kind_of(request.model).resolve(request)
    center_crop(resolved)
    return resolved


def resolve_all(requests: Iterable[PolicyRequest]) -> list[PolicyRequest]:
    """Resolve them, and return each of the results once.

    :raises PolicyError: as :func:`resolve`.
    """
    return list(dict.fromkeys(map(resolve, requests)))


def inspect(request: PolicyRequest) -> Inspection | None:
    """Return what is known without the weights; None if it has to be downloaded first.

    :raises PolicyError: if not even its description can be read.
    """
    return kind_of(request.model).inspect(request)


def recipe(request: PolicyRequest) -> dict[str, Any]:
    """Return what the answers of a loaded policy depend on beside the request."""
    return kind_of(request.model).recipe(request, center_crop(request))


def load_policy(
    request: PolicyRequest,
    max_batch_size: int = 1,
    progress: ProgressCallback = lambda _: None,
) -> Policy:
    """Load the policy. Importing torch, where the policy needs it, takes seconds.

    :param max_batch_size: number of observations that may be predicted at a time.
    :raises PolicyError: if there can be no such policy.
    """
    kind = kind_of(request.model)
    return kind.load(request, center_crop(request), max_batch_size, progress)


def center_crop(request: PolicyRequest) -> bool:
    """Return whether images are cropped: if they were in the training that is imitated.

    :raises ContractError: if nobody knows whether they were.
    """
    from vla_ros.motion import was_cropped

    in_training = request.preprocessing == 'training'
    return in_training and was_cropped(request.unnorm_key, request.contracts or None)
