# SPDX-License-Identifier: Apache-2.0
"""The language model: a Llama or a Qwen2 with static shapes, and its kv-cache.

Prompts are padded on the right. Attention is causal, so no real position attends to a pad, and
decoded tokens overwrite the pads: positions are contiguous, and padding changes no result. Names
and the order of roundings are those of transformers' LlamaForCausalLM and Qwen2ForCausalLM. A
Qwen2 is a Llama with biases of queries, keys and values, and often with its embedding as its head.

Runs in the policy's thread. Independent of images, prompts and actions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.openvla.config import LlamaConfig
from vla_ros.openvla.quantization import project

_CAUSAL_ROWS = 32  # that a CPU attends to together: as many as its kernel takes at a time
_TABLES_KEPT = 8  # there are four prompt lengths; a table has 0.2 MB for a head of 128

# What rows attend to: of all, of parts; None: causal.
Mask: TypeAlias = 'Tensor | list[Tensor] | None'


@dataclass(frozen=True)
class KVCache:
    """Keys and values of every position of a batch. It has its final size from the start.

    Each layer has its own tensor: training writes to all of them, and autograd would count a write
    to a view of one common tensor as a write to all views.

    :param layers: for each layer [2, B, key_value_heads, S, head_dim], keys and values.
    :param rotary: [2, S, head_dim], see :func:`rotary_tables`.
    """

    layers: tuple[Tensor, ...]
    rotary: Tensor

    @classmethod
    def empty(cls, config: LlamaConfig, like: Tensor, size: int) -> KVCache:
        """Return a cache without keys and values.

        :param like: [B, ...], the input that it is for: batch size, dtype and device are its own.
        :param size: S, the number of positions.
        """
        shape = (2, len(like), config.num_key_value_heads, size, config.head_dim)
        # Zeros, because masked values are multiplied by zero, and uninitialised memory may be NaN.
        layers = tuple(like.new_zeros(shape) for _ in range(config.num_hidden_layers))
        return cls(layers, rotary_tables(config, size, like.device).to(like.dtype))

    def repeated(self, count: int) -> KVCache:
        """Return a copy with each row ``count`` times in succession: a batch of B * count."""
        layers = tuple(layer.repeat_interleave(count, dim=1) for layer in self.layers)
        return KVCache(layers, self.rotary)


class CacheMemory:
    """Memory for the keys and values of every batch, where graphs find them again.

    :param rows: of the largest batch.
    :param size: S, the number of positions of every cache.
    """

    def __init__(
        self,
        config: LlamaConfig,
        rows: int,
        size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, size)
        self.rows = rows
        self._all = torch.zeros(*shape, config.head_dim, device=device, dtype=dtype)
        self._rotary = rotary_tables(config, size, device).to(dtype)

    def cache(self, rows: int, used: int) -> KVCache:
        """Return the cache of a batch; it replaces that of the last batch.

        :param used: positions that will be written to before they are read. The others become
            zeros: what an earlier batch left there may be infinite.
        :raises ValueError: if there is no room for as many rows.
        """
        if rows > self.rows:
            raise ValueError(f'a batch of {rows}; there is memory for {self.rows}')
        mine = self._all[:, :, :rows]
        mine[:, :, :, :, used:] = 0
        return KVCache(mine.unbind(), self._rotary)


class Llama(nn.Module):
    """The network. Its parameters have the checkpoint's names.

    :param has_logits: False if it is never asked for logits, and so has no ``lm_head``.
    """

    def __init__(self, config: LlamaConfig, has_logits: bool = True) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = (
            nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            if has_logits and not config.tie_word_embeddings
            else None
        )

    def hidden_states(self, x: Tensor) -> list[Tensor]:
        """Return the input and the output of every layer, the last one normalised; causal.

        :param x: [B, T, hidden].
        :returns: [B, T, hidden] each, one more than there are layers.
        """
        rotary, mask = self._rotary(x), _causal_masks(x.shape[1], x.device)
        states = [x]
        for layer in self.model.layers:
            states.append(layer(states[-1], rotary, mask=mask))
        states[-1] = self.model.norm(states[-1])
        return states

    def attend_all(self, x: Tensor, visible: Tensor, keep: Tensor) -> Tensor:
        """Return the normalised output at some positions, where each attends to all visible ones.

        :param x: [B, T, hidden].
        :param visible: bool [B, T], False for pads.
        :param keep: int64 [B, R], the positions to return.
        :returns: [B, R, hidden].
        """
        rotary = self._rotary(x)
        mask = _mask(visible[:, None, None], x)  # [B, 1, 1, T]
        *layers, last = self.model.layers
        for layer in layers:
            x = layer(x, rotary, mask=mask)
        return self.model.norm(last(x, rotary, keep=keep, mask=mask))

    def _rotary(self, x: Tensor) -> Tensor:
        """Return the tables of all positions of [B, T, hidden]: [2, 1, 1, T, head_dim]."""
        tables = rotary_tables(self.config, x.shape[1], x.device)
        return tables.to(x.dtype)[:, None, None]

    def forward(
        self, x: Tensor, positions: Tensor | None, cache: KVCache, keep: Tensor | None = None
    ) -> Tensor:
        """Return the output of the last layer, before the final norm; add ``x`` to the cache.

        :param x: [B, T, hidden].
        :param positions: int64 [B, T], the positions of ``x``; each attends to the cache up to and
            including itself. None: 0 to T - 1, and the cache is empty.
        :param keep: int64 [B, R], the rows of ``x`` to return; None: all.
        :returns: [B, T or R, hidden].
        """
        if positions is None:
            rotary = cache.rotary[:, None, None, : x.shape[1]]  # [2, 1, 1, T, E]
            mask: Mask = _causal_masks(x.shape[1], x.device)
            last_mask = mask
            if keep is not None:
                last_mask = _mask(_up_to(keep, x.shape[1]), x)
        else:
            rotary = cache.rotary[:, positions][:, :, None]  # [2, B, 1, T, E]
            size = cache.layers[0].shape[3]
            mask = last_mask = _mask(_up_to(positions, size), x)
            if keep is not None:
                last_mask = _mask(_up_to(positions.gather(1, keep), size), x)
        *layers, last = self.model.layers
        for layer, kv_cache in zip(layers, cache.layers[:-1], strict=True):
            x = layer(x, rotary, kv_cache, positions, mask=mask)
        return last(x, rotary, cache.layers[-1], positions, keep, last_mask)

    def prefill(
        self, inputs_embeds: Tensor, lengths: Tensor, cache: KVCache, rows: int = 1
    ) -> Tensor:
        """Return the logits after each prompt, and after each token of its draft.

        :param inputs_embeds: [B, L, hidden]: prompt, draft, and pads of any value.
        :param lengths: int64 [B], the positions of each prompt without its draft.
        :param cache: empty, of at least L positions; written to.
        :param rows: the number of positions whose logits are needed: the last one of the prompt,
            and those of the draft.
        :returns: float32 [B, rows, vocab].
        """
        needed = lengths[:, None] - 1 + torch.arange(rows, device=lengths.device)  # [B, rows]
        needed = needed.clamp(max=inputs_embeds.shape[1] - 1)
        return self.logits(self.model.norm(self(inputs_embeds, None, cache=cache, keep=needed)))

    def decode(self, token_ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """Return the logits after each of some successive tokens.

        :param token_ids: int64 [B, T].
        :param positions: int64 [B, T], their positions; the cache has all before the first.
        :param cache: written to.
        :returns: float32 [B, T, vocab].
        """
        x = self.model.embed_tokens(token_ids)  # [B, T, hidden]
        return self.logits(self.model.norm(self(x, positions, cache=cache)))

    def logits(self, normalized: Tensor) -> Tensor:
        """Return the logits, float32 [B, T, vocab], of the normalised output [B, T, hidden]."""
        if self.lm_head is None:
            return F.linear(normalized, self.model.embed_tokens.weight).float()
        return self.lm_head(normalized).float()


class Trunk(nn.Module):
    """Everything but the head; the checkpoint calls it ``model``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Layer(nn.Module):
    """One transformer layer.

    Its only state is its weights, so that all compiled layers share one graph.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        kv_cache: Tensor | None = None,
        positions: Tensor | None = None,
        keep: Tensor | None = None,
        mask: Mask = None,
    ) -> Tensor:
        """Return the layer's output; see :meth:`Llama.forward`.

        :param rotary: [2, B or 1, 1, T, head_dim], cosines and sines of the positions of ``x``.
        :param kv_cache: [2, B, key_value_heads, S, head_dim], this layer's; written to. None where
            nothing is decoded.
        :param mask: [B, 1, T or R or 1, S or T], what each position attends to, from :func:`_mask`;
            or of :func:`_causal_masks`, and the cache is empty.
        """
        attended = self.self_attn(self.input_layernorm(x), rotary, kv_cache, positions, keep, mask)
        x = (x if keep is None else _rows(x, keep)) + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Attention, usually causal; several query heads may share one head of keys and values."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.grouped = config.num_key_value_heads != config.num_attention_heads
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        kv_cache: Tensor | None,
        positions: Tensor | None,
        keep: Tensor | None,
        mask: Mask,
    ) -> Tensor:
        """Attend; the parameters are those of Layer. H heads (KVH of keys), each of E values."""
        if keep is None:
            query, key, value = project(x, self.q_proj, self.k_proj, self.v_proj)
        else:
            query = self.q_proj(_rows(x, keep))
            key, value = project(x, self.k_proj, self.v_proj)
        query = self._heads(query)  # [B, H, R, E]
        key = _rotate(self._heads(key), rotary)  # [B, KVH, T, E]
        value = self._heads(value)  # [B, KVH, T, E]
        if kv_cache is not None and positions is None:
            past = kv_cache[:, :, :, : x.shape[1]]
            past[0], past[1] = key, value
            key, value = past.unbind()  # where a head's rows lie together, which is faster
        elif kv_cache is not None:
            batch = torch.arange(x.shape[0], device=x.device)[:, None]  # [B, 1]
            kv_cache[0, batch, :, positions] = key.transpose(1, 2)
            kv_cache[1, batch, :, positions] = value.transpose(1, 2)
            key, value = kv_cache.unbind()  # [B, KVH, S, E] each
        if keep is not None:
            batch = torch.arange(x.shape[0], device=x.device)[:, None]  # [B, 1]
            rotary = rotary.expand(-1, len(x), -1, -1, -1)[:, batch, 0, keep][:, :, None]
        query = _rotate(query, rotary)
        attended = _attend(query, key, value, mask, self.grouped)  # [B, H, R, E]
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        """Return [B, T, H * E] as [B, H, T, E]."""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """The gated feed-forward part of a layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of the input's shape [B, T, hidden]."""
        gate, up = project(x, self.gate_proj, self.up_proj)
        return self.down_proj(F.silu(gate) * up)


class RMSNorm(nn.Module):
    """Normalises in float32, rounds to the dtype, and scales last."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of the input's shape [..., size]."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotary_tables(config: LlamaConfig, size: int, device: torch.device) -> Tensor:
    """Return the cosines and sines of every position's angles. Made once; do not write to them.

    Su et al. 2021, arXiv:2104.09864, equation 15; pairs are the two halves of a head, as in
    transformers.

    :returns: float32 [2, size, head_dim].
    """
    return _rotary_tables(config.head_dim, config.rope_theta, size, device)


@functools.lru_cache(_TABLES_KEPT)
@torch.inference_mode(False)  # training, too, may use a table that an inference made
def _rotary_tables(head_dim: int, theta: float, size: int, device: torch.device) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    frequencies = 1.0 / theta**exponents  # [head_dim / 2]
    angles = torch.outer(torch.arange(size, device=device).float(), frequencies).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def _rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate each pair of values of [B, H, T, E] by its position's angle."""
    cosines, sines = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask, grouped: bool) -> Tensor:
    """Return the attention of queries [B, H, R, E], of the same shape."""
    attend = functools.partial(F.scaled_dot_product_attention, enable_gqa=grouped)
    if isinstance(mask, Tensor):
        return attend(query, key, value, mask)
    if mask is None:
        return attend(query, key, value, is_causal=True)
    parts = []
    for rows, visible in zip(query.split(_CAUSAL_ROWS, dim=2), mask, strict=True):
        end = visible.shape[1]
        parts.append(attend(rows, key[:, :, :end], value[:, :, :end], visible))
    return torch.cat(parts, dim=2)


def _causal_masks(size: int, device: torch.device) -> list[Tensor] | None:
    """Return what each part of the rows attends to: bool [rows, keys up to the part's end].

    torch's kernel for CPUs multiplies the keys that a causal mask hides, too. So a CPU has the rows
    in parts, each with the keys up to its end. None: in one part.
    """
    return _masks_of_parts(size) if device.type == 'cpu' else None


@functools.lru_cache(_TABLES_KEPT)
@torch.inference_mode(False)  # training, too, may use masks that an inference made
def _masks_of_parts(size: int) -> list[Tensor]:
    parts = torch.arange(size).split(_CAUSAL_ROWS)
    return [part[:, None] >= torch.arange(int(part[-1]) + 1) for part in parts]


def _rows(x: Tensor, keep: Tensor) -> Tensor:
    """Return the rows of [B, T, hidden] with the numbers int64 [B, R]."""
    return x[torch.arange(len(x), device=x.device)[:, None], keep]


def _up_to(positions: Tensor, size: int) -> Tensor:
    """Return which of ``size`` keys each position int64 [B, T] attends to: bool [B, 1, T, size]."""
    slots = torch.arange(size, device=positions.device)  # [size]
    return (slots <= positions[:, :, None])[:, None]


def _mask(visible: Tensor, like: Tensor) -> Tensor:
    """Return the mask that attention takes, of bool, made once for all layers.

    On CUDA torch would add it as numbers of the inputs' dtype, and make these in each layer.
    """
    if not like.is_cuda:
        return visible
    return like.new_zeros(visible.shape).masked_fill_(~visible, float('-inf'))
