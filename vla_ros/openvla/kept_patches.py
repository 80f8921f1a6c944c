# SPDX-License-Identifier: Apache-2.0
"""Patches that changed little keep their keys and values from the robot's last inference.

Most of a robot's image does not change from one inference to the next. Only a share of the patches
goes through the language model again, those that changed most since they last did; the text behind
them always does (Xu et al. 2025, VLA-Cache, arXiv:2502.02175). A patch is judged by its embedding
alone; the paper also recomputes those that the last action attended to most.

Inexact: a kept patch attended to the patches before it as they were then.

Runs in the policy's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.errors import PlacementError
from vla_ros.openvla.language import KVCache, Llama
from vla_ros.openvla.request import Request

LOWEST_SHARE = 0.1
_BEFORE = 1  # positions before the patches: the prompt's first token


def check_share(share: float, compile: bool, config: OpenVLAConfig | None = None) -> None:
    """Check a share of recomputed patches together with the other settings.

    :param config: None if it is not known yet.
    :raises PlacementError: if it is not within bounds, or not available with the others.
    """
    if not LOWEST_SHARE <= share <= 1:
        raise PlacementError(
            f'recomputed_patches is {share:g}', value=share, expected=f'{LOWEST_SHARE} to 1'
        )
    if share < 1 and compile:
        raise PlacementError(
            f'recomputed_patches {share:g} does not go with compile',
            'set compile to false, or recomputed_patches to 1',
        )
    # A chunk's head reads the patches in every layer, or patches attend to the text behind them.
    if share < 1 and config is not None and not config.decodes:
        raise PlacementError(
            f'recomputed_patches {share:g} needs a policy that decodes tokens one by one; this '
            'checkpoint gives a chunk in one pass',
            'set recomputed_patches to 1',
        )


@dataclass(frozen=True)
class _Kept:
    """What an inference left.

    :param instruction: of that inference.
    :param embeds: [N, hidden], of each patch the embedding that its keys and values come from.
    :param layers: [layers, 2, key_value_heads, 1 + N, head_dim], of the first token and of the
        patches.
    """

    instruction: str
    embeds: Tensor
    layers: Tensor


class PatchMemory:
    """The keys and values of one robot's patches; its session has it."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def forget(self) -> None:
        """Forget the patches, so that the next inference computes all of them."""
        self._kept = None

    def keep(self, kept: _Kept) -> None:
        """Keep what an inference left."""
        self._kept = kept

    def of(self, instruction: str, embeds: Tensor) -> _Kept | None:
        """Return what the last inference left; None if the next one computes all patches.

        :param embeds: [N, hidden], of the next image.
        """
        kept = self._kept
        if kept is None or kept.instruction != instruction or kept.embeds.shape != embeds.shape:
            return None
        return kept


class PatchPass:
    """What the prefill of one batch takes from the last inferences of its robots.

    If one robot of the batch kept none, all patches of all robots are computed: one pass for all.

    :param share: of the patches that are computed.
    :param requests: B; one without a memory keeps nothing.
    :param image_embeds: [B, N, hidden].
    """

    def __init__(self, share: float, requests: Sequence[Request], image_embeds: Tensor) -> None:
        self._requests = requests
        self._embeds = image_embeds
        self._count = max(1, round(share * image_embeds.shape[1]))
        kept = [
            None if one.patches is None else one.patches.of(one.instruction, embeds)
            for one, embeds in zip(requests, image_embeds, strict=True)
        ]
        found = [one for one in kept if one is not None]
        self._kept = found if len(found) == len(requests) else None

    def restore(self, cache: KVCache) -> tuple[Tensor, ...]:
        """Put what was kept into the cache, and return the patches to compute.

        :param cache: for this batch; written to.
        :returns: int64 [B, count], rising; nothing if all are computed.
        """
        if self._kept is None:
            return ()
        old = torch.stack([one.embeds for one in self._kept])  # [B, N, hidden]
        chosen = most_changed(old, self._embeds, self._count)
        batch = torch.arange(len(chosen), device=chosen.device)[:, None]  # [B, 1]
        old[batch, chosen] = self._embeds[batch, chosen]
        self._embeds = old
        for row, one in enumerate(self._kept):
            for layer, kept in zip(cache.layers, one.layers, strict=True):
                layer[:, row, :, : kept.shape[2]] = kept
        return (chosen,)

    def remember(self, cache: KVCache, usable: Sequence[bool]) -> None:
        """Have each robot keep its patches, or forget them: then its next inference is exact.

        :param cache: as the prefill left it, or the decoding.
        :param usable: of each request; False after an invalid action.
        """
        behind = _BEFORE + self._embeds.shape[1]
        for row, request in enumerate(self._requests):
            if request.patches is not None and usable[row]:
                layers = torch.stack([layer[:, row, :, :behind] for layer in cache.layers])
                request.patches.keep(_Kept(request.instruction, self._embeds[row], layers))
            elif request.patches is not None:
                request.patches.forget()


def prefill_chosen(
    llama: Llama,
    inputs_embeds: Tensor,
    lengths: Tensor,
    cache: KVCache,
    rows: int,
    chosen: Tensor,
    patches: int,
) -> Tensor:
    """Return the logits as :meth:`Llama.prefill` does, computing some patches and the text.

    The parameters are its own, and:

    :param cache: with the keys and values of the first token and of the other patches.
    :param chosen: int64 [B, count], the patches to compute, rising.
    :param patches: N, the number of all of them.
    """
    behind = _BEFORE + patches  # position of the text behind them
    device, count = chosen.device, chosen.shape[1]
    text = torch.arange(behind, inputs_embeds.shape[1], device=device)
    positions = torch.cat([_BEFORE + chosen, text.expand(len(chosen), -1)], dim=1)  # [B, T]
    needed = lengths[:, None] - 1 + torch.arange(rows, device=device)  # [B, rows], positions
    needed = needed.clamp(max=inputs_embeds.shape[1] - 1) - behind + count  # places in positions
    x = inputs_embeds[torch.arange(len(chosen), device=device)[:, None], positions]
    return llama.logits(llama.model.norm(llama(x, positions, cache=cache, keep=needed)))


def most_changed(old: Tensor, new: Tensor, count: int) -> Tensor:
    """Return the patches whose embeddings changed most, in relation to their size.

    :param old: [B, N, hidden].
    :param new: [B, N, hidden].
    :returns: int64 [B, count], rising.
    """
    before, now = old.float(), new.float()
    change = (now - before).norm(dim=2) / before.norm(dim=2).clamp(min=1e-12)  # [B, N]
    return change.topk(count, dim=1).indices.sort(dim=1).values
