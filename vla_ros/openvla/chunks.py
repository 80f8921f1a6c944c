# SPDX-License-Identifier: Apache-2.0
"""The pass that makes a chunk without decoding: prompt, images and state to actions or logits.

The language model runs once over ``[BOS] [images] [state] [the prompt's other tokens] [slots]``.
OpenVLA-OFT's slots are zeros, one for each value of the chunk, and a stop token follows; every
position attends to every other one, and the head reads the output at the positions before each
value. VLA-Adapter's slots are learned queries; attention is causal, the state goes to the head
alone, and the head reads the output of every layer.

Differentiable: training runs the same pass. Runs in the policy's thread. Independent of text,
pixels and units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_ros.openvla.action_head import BridgeHead
from vla_ros.openvla.layout import Layout
from vla_ros.openvla.model import ACTION_QUERIES, OpenVLAModel


def run_chunk(
    model: OpenVLAModel,
    input_ids: Tensor,
    lengths: Tensor,
    image_embeds: Tensor,
    state: Tensor | None = None,
) -> Tensor:
    """Return the normalised chunk, or the logits of its tokens where the layout says so.

    :param model: with a layout.
    :param input_ids: int64 [B, T], prompts with pads of any id.
    :param lengths: int64 [B], tokens of each prompt without pads.
    :param image_embeds: [B, N, hidden], from :func:`embed_images`, the cameras in their order.
    :param state: [B, S], normalised; None if the policy takes none.
    :returns: [B, K, D] in the model's dtype; or float32 [B, K * D, vocab].
    """
    if isinstance(model.action_head, BridgeHead):
        task, adapter = bridge_inputs(model, input_ids, lengths, image_embeds, state)
        return model.action_head(task, adapter)
    hidden = parallel_hidden(model, input_ids, lengths, image_embeds, state)
    if model.action_head is None:
        return model.language_model.logits(hidden)
    return model.action_head(hidden)


def embed_images(
    model: OpenVLAModel, pixel_values: Tensor, instruction: Tensor | None = None
) -> Tensor:
    """Return the embeddings of images, [B, N, hidden].

    :param pixel_values: [B, 3 * towers, H, W].
    :param instruction: [B, hidden], from :func:`mean_embedding`; only with FiLM.
    """
    embeds: Tensor = model.projector(model.vision_backbone(pixel_values, instruction))
    return embeds


def mean_embedding(model: OpenVLAModel, input_ids: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean embedding of a prompt and the stop token, for FiLM: [B, hidden].

    :param input_ids: int64 [B, T], prompts with pads of any id.
    :param lengths: int64 [B], tokens of each prompt without pads.
    """
    embed, config = model.language_model.model.embed_tokens, model.language_model.config
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    words = (places < lengths[:, None])[..., None]  # [B, T, 1]
    total = (embed(input_ids) * words).float().sum(dim=1)
    stop = embed(torch.full_like(lengths, config.eos_token_id)).float()
    mean: Tensor = (total + stop) / (lengths[:, None] + 1)
    return mean.to(embed.weight.dtype)


def parallel_hidden(
    model: OpenVLAModel,
    input_ids: Tensor,
    lengths: Tensor,
    image_embeds: Tensor,
    state: Tensor | None,
) -> Tensor:
    """Return OpenVLA-OFT's output at the positions before each value, [B, K * D, hidden].

    The parameters are those of :func:`run_chunk`.
    """
    layout, language = _layout(model), model.language_model
    slots = layout.horizon * layout.action_dim
    ids, places = _with_places(input_ids, lengths, slots + 1)
    ids = ids.masked_fill(places == slots, language.config.eos_token_id)
    is_slot = (places >= 0) & (places < slots)
    text = language.model.embed_tokens(ids).masked_fill(is_slot[..., None], 0)
    x, before = _merged(text, image_embeds, _projected(model, state))
    ends = before + lengths + slots + 1  # behind the stop token
    visible = torch.arange(x.shape[1], device=x.device) < ends[:, None]
    return language.attend_all(x, visible, _rows(before + lengths - 1, slots))


def bridge_inputs(
    model: OpenVLAModel,
    input_ids: Tensor,
    lengths: Tensor,
    image_embeds: Tensor,
    state: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what VLA-Adapter's head attends to in each layer; see :class:`BridgeHead`.

    The parameters are those of :func:`run_chunk`. The last query and the stop token of the
    reference's sequence are left out: no position that is read attends to them.
    """
    if model.action_queries is None:
        raise TypeError('the model has no action queries')
    language, queries = model.language_model, model.action_queries.weight
    ids, places = _with_places(input_ids, lengths, ACTION_QUERIES - 1)
    is_query = (places >= 0) & (places < ACTION_QUERIES - 1)
    text = torch.where(
        is_query[..., None],
        queries[places.clamp(0, ACTION_QUERIES - 1)],
        language.model.embed_tokens(ids),
    )
    x, before = _merged(text, image_embeds, None)
    states = language.hidden_states(x)[1:]
    # As trained, both are one position early: the first token and all patches but the last; the
    # prompt's last token and all queries but the last. Copied, so that strides do not depend on the
    # prompt's length: a compiled head then has one graph.
    form = torch.contiguous_format
    task = [layer[:, :before].clone(memory_format=form) for layer in states]
    rows = _rows(before + lengths - 1, ACTION_QUERIES)
    batch = torch.arange(len(x), device=x.device)[:, None]
    adapter = [layer[batch, rows] for layer in states]
    projected = _projected(model, state)
    if projected is not None:
        adapter = [torch.cat([layer, projected], dim=1) for layer in adapter]
    return task, adapter


def _with_places(input_ids: Tensor, lengths: Tensor, more: int) -> tuple[Tensor, Tensor]:
    """Return the ids with room behind each prompt, and each one's place behind its prompt.

    :returns: int64 [B, T + more] each; places are negative within the prompt.
    """
    ids = torch.nn.functional.pad(input_ids, (0, more))
    return ids, torch.arange(ids.shape[1], device=ids.device) - lengths[:, None]


def _merged(text: Tensor, image_embeds: Tensor, state: Tensor | None) -> tuple[Tensor, int]:
    """Return the sequence, and the number of positions between its first token and the next.

    :param text: [B, T, hidden].
    :param state: [B, 1, hidden] or None.
    """
    between = [image_embeds] if state is None else [image_embeds, state]
    x = torch.cat([text[:, :1], *between, text[:, 1:]], dim=1)
    return x, x.shape[1] - text.shape[1]


def _rows(first: Tensor, count: int) -> Tensor:
    """Return ``count`` successive positions from [B], int64 [B, count]."""
    return first[:, None] + torch.arange(count, device=first.device)


def _projected(model: OpenVLAModel, state: Tensor | None) -> Tensor | None:
    if model.state_projector is None or state is None:
        if model.state_projector is not None or state is not None:
            raise TypeError('a state is needed if and only if the layout has one')
        return None
    projected: Tensor = model.state_projector(state)
    return projected


def _layout(model: OpenVLAModel) -> Layout:
    if model.layout is None:
        raise TypeError('the model gives no chunks')
    return model.layout
