# SPDX-License-Identifier: Apache-2.0
"""Errors that the user can cause; each says what failed, the value, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from vla_ros.types import PolicyError, PolicyInfo


class CheckpointError(PolicyError):
    """The checkpoint is not found, or is not a whole OpenVLA checkpoint."""


class PlacementError(PolicyError):
    """The requested device, dtype or quantization is not available here."""


class PreprocessingError(PolicyError):
    """The preprocessing is unknown, or its parts do not go together."""


class UnnormKeyError(PolicyError):
    """The checkpoint has no statistics under the requested unnorm_key."""


def listing(names: Iterable[str], most: int = 8) -> str:
    """Return the first names, and the number of the others."""
    ordered = sorted(names)
    shown = ', '.join(ordered[:most]) or 'none'
    return shown if len(ordered) <= most else f'{shown} and {len(ordered) - most} more'


@contextmanager
def explained(info: PolicyInfo, doing: str) -> Iterator[None]:
    """Raise a failure of torch that the user can fix as a PolicyError that says how.

    :param doing: what fails, such as ``loading``.
    :raises PolicyError: that of :func:`known_failure`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        failure = known_failure(error, info, doing)
        if failure is None:
            raise
        raise failure from error


def known_failure(
    error: MemoryError | RuntimeError, info: PolicyInfo, doing: str
) -> PolicyError | None:
    """Return the error for a failure of torch that the user can fix; None for all others.

    :param doing: what failed, such as ``an inference``.
    """
    # The first line may only say that something raised, and the second what.
    told = ' '.join(str(error).strip().splitlines()[:2])[:200].strip() or type(error).__name__
    # On the CPU and on MPS torch raises a plain RuntimeError.
    if (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or 'out of memory' in told
        or "can't allocate memory" in told
    ):
        return PolicyError(
            f'out of memory on {info.device} during {doing} ({told})',
            'end what else uses its memory, or load the policy in a smaller dtype or quantization',
        )
    if info.compiled and isinstance(error, torch._dynamo.exc.TorchDynamoException):
        return PolicyError(
            f'torch.compile does not work on {info.device} here ({told})',
            'install what it lacks, or load the policy without compile',
        )
    return None
