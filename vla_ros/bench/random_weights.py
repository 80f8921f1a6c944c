# SPDX-License-Identifier: Apache-2.0
"""Policies with random weights, which are drawn on the device: a benchmark needs no files."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vla_ros.bench.combinations import inspection_of
from vla_ros.measure.memory import available_bytes
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.placement import empty_cache
from vla_ros.policy_request import PolicyRequest
from vla_ros.synthetic.random_checkpoint import RandomWeights, describe_random_checkpoint
from vla_ros.types import Cancel, PolicyError


@contextmanager
def described(shape: str) -> Iterator[str]:
    """Keep a folder with the description of a shape, without weights, within the block."""
    with TemporaryDirectory(prefix=f'vla_bench-{shape}-') as folder:
        yield str(describe_random_checkpoint(Path(folder), shape))


def load_random(
    request: PolicyRequest, shape: str, max_batch_size: int, cancel: Cancel | None = None
) -> OpenVLAPolicy:
    """Return a policy with random weights.

    :param request: resolved; its model is a folder from :func:`described`.
    :raises PolicyError: if it does not fit into the free memory.
    :raises InferenceCancelled: soon after ``cancel`` is set.
    """
    check_room(request, shape, max_batch_size)
    folder, device = Path(request.model), torch.device(request.device)
    return OpenVLAPolicy.from_pretrained(
        folder,
        device=request.device,
        dtype=request.dtype,
        quantization=request.quantization,
        compile=request.compile,
        max_batch_size=max_batch_size,
        weights=RandomWeights(folder, shape, device, cancel),
        cuda_graphs=request.cuda_graphs,
        recomputed_patches=request.recomputed_patches,
    )


def check_room(request: PolicyRequest, shape: str, max_batch_size: int) -> None:
    """Check that a policy fits into the memory that is free now.

    :raises PolicyError: if it does not.
    """
    gc.collect()  # what the policies before had
    empty_cache(torch.device(request.device))
    needed = inspection_of(request).needed_bytes(request, max_batch_size) or 0
    free = available_bytes(request.device)
    if needed > free:
        words = [request.dtype, *([] if request.quantization == 'none' else [request.quantization])]
        raise PolicyError(
            f'{shape} in {" ".join(words)} takes {needed / 1e9:.1f} GB on {request.device}, and '
            f'{free / 1e9:.1f} GB are free',
            'take --quantization int8 or int4, or another shape',
        )
