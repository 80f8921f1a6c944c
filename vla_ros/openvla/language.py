"""The language model: a Llama whose every shape is fixed before it runs.

Prompts are padded on the right and attention is causal, so no real position ever sees a pad; the
tokens that follow are written over the pads. Positions stay contiguous, and padding changes no
result. Follows transformers' LlamaForCausalLM in names and in the order of roundings.

Runs in the policy's thread. Knows nothing of pictures, prompts or actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.openvla.config import LlamaConfig


class RMSNorm(nn.Module):
    """Computes in float32, rounds, and only then scales."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that ends in ``size``."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Causal; several query heads may share one key and value head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.grouped = config.num_key_value_heads != config.num_attention_heads
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor,
        kv_cache: Tensor,
        positions: Tensor | None,
        keep: Tensor | None,
    ) -> Tensor:
        """The parameters are those of Layer. H heads (KVH of keys), each of E values."""
        query = self._heads(self.q_proj, x if keep is None else _rows(x, keep))  # [B, H, R, E]
        key = _rotate(self._heads(self.k_proj, x), rotary)  # [B, KVH, T, E]
        value = self._heads(self.v_proj, x)  # [B, KVH, T, E]
        mask = None
        if positions is None:
            kv_cache[0, :, :, : x.shape[1]] = key
            kv_cache[1, :, :, : x.shape[1]] = value
            if keep is not None:
                rotary = rotary[:, 0, 0, keep][:, :, None]  # [2, B, 1, R, E]
                mask = _up_to(keep, key)
        else:
            batch = torch.arange(x.shape[0], device=x.device)[:, None]  # [B, 1]
            kv_cache[0, batch, :, positions] = key.transpose(1, 2)
            kv_cache[1, batch, :, positions] = value.transpose(1, 2)
            key, value = kv_cache.unbind()  # [B, KVH, S, E] each
            mask = _up_to(positions, key)
        attended = F.scaled_dot_product_attention(
            _rotate(query, rotary),
            key,
            value,
            mask,
            is_causal=mask is None,
            enable_gqa=self.grouped,
        )  # [B, H, R, E]
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, projection: nn.Module, x: Tensor) -> Tensor:
        """[B, T, hidden] to [B, H, T, E]."""
        return projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden] to the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One transformer layer. It keeps nothing of its own but weights, so that all layers can share
    what is compiled for one."""

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
        kv_cache: Tensor,
        positions: Tensor | None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """
        :param x: [B, T, hidden].
        :param rotary: [2, B or 1, 1, T, head_dim], cosines and sines of the positions of ``x``.
        :param kv_cache: [2, B, key_value_heads, S, head_dim], keys and values; written to.
        :param positions: int64 [B, T], where in the cache ``x`` goes; each sees what is there up to
            itself. None: from 0 to T, and nothing else is seen.
        :param keep: int64 [B, R], which of these are needed behind this layer; None: all. Without
            ``positions`` only.
        :returns: [B, R, hidden].
        """
        attended = self.self_attn(self.input_layernorm(x), rotary, kv_cache, positions, keep)
        x = (x if keep is None else _rows(x, keep)) + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """All but the head; the checkpoint calls it ``model``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """Its parameters carry the checkpoint's names.

    ``block_cost`` is what a pass of a few tokens costs, in passes of one: 1 where reading the
    weights takes all the time.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.block_cost = 1.0
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @contextmanager
    def following_any_draft(self) -> Iterator[None]:
        """Meanwhile even a draft that was never right leads to a block, whatever that costs."""
        block_cost, self.block_cost = self.block_cost, 1.0
        try:
            yield
        finally:
            self.block_cost = block_cost

    def logits(self, hidden: Tensor) -> Tensor:
        """The last layer's output [B, T, hidden] to float32 [B, T, vocab]."""
        return self.lm_head(self.model.norm(hidden)).float()


class Generation:
    """A batch of sequences under way. Nothing in here grows: the kv_cache has its final size.

    Greedy, with a draft of what may come (speculative decoding, Leviathan et al. 2022,
    arXiv:2211.17192, in its greedy form): the draft goes through the layers as if it had been
    emitted, in one pass, and stands up to the first token that differs from the one that the logits
    before it choose. What comes out is what decoding one by one gives.

    :param batch_size: B.
    :param prompt_length: L, positions of the prefill, drafts and pads included.
    :param max_new_tokens: at most so many tokens are emitted.
    """

    def __init__(
        self, llama: Llama, batch_size: int, prompt_length: int, max_new_tokens: int
    ) -> None:
        self._llama = llama
        config, weight = llama.config, llama.model.embed_tokens.weight
        size = prompt_length + max_new_tokens  # S
        self._block = max(1, max_new_tokens - 1)  # tokens decoded at once where a draft is followed
        # Zeros: what is masked is multiplied by zero, and zero times what memory held may be NaN.
        heads = (config.num_key_value_heads, size, config.head_dim)
        self._kv_cache = weight.new_zeros((config.num_hidden_layers, 2, batch_size, *heads))
        self._rotary = rotary_tables(config, size, weight.device).to(weight.dtype)  # [2, S, E]

    def prefill(self, inputs_embeds: Tensor, lengths: Tensor, rows: int = 1) -> Tensor:
        """
        :param inputs_embeds: [B, L, hidden], each row padded on the right with whatever; the draft
            stands where the pads begin.
        :param lengths: int64 [B], how many positions of each row are its prompt.
        :param rows: logits of so many positions are needed: the prompt's last one and the draft's.
        :returns: float32 [B, rows, vocab], the logits of what follows each.
        """
        rotary = self._rotary[:, None, None, : inputs_embeds.shape[1]]  # [2, 1, 1, L, E]
        needed = lengths[:, None] - 1 + torch.arange(rows, device=lengths.device)  # [B, rows]
        needed = needed.clamp(max=inputs_embeds.shape[1] - 1)
        return self._llama.logits(self._through_layers(inputs_embeds, rotary, None, needed))

    def decode(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """
        :param token_ids: int64 [B, T], tokens that follow each other.
        :param positions: int64 [B, T], theirs; all before the first are there already.
        :returns: float32 [B, T, vocab], the logits of what follows each.
        """
        x = self._llama.model.embed_tokens(token_ids)  # [B, T, hidden]
        rotary = self._rotary[:, positions][:, :, None]  # [2, B, 1, T, E]
        return self._llama.logits(self._through_layers(x, rotary, positions))

    def greedy(
        self,
        logits: Tensor,
        lengths: Tensor,
        steps: NDArray[np.int64],
        drafts: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], Tensor]:
        """Emit the likeliest token so many times, whatever it is.

        :param logits: float32 [B, rows, vocab], the prefill's.
        :param lengths: int64 [B], the prefill's.
        :param steps: [B], how many tokens each row emits.
        :param drafts: int64 [B, G], those whose first ``rows`` - 1 tokens went through the prefill;
            -1 from where a row has none.
        :returns: token ids [B, most steps], -1 behind a row's last one, and their logits
            float32 [B, most steps, vocab] on the CPU.
        """
        batch_size, most = len(steps), int(steps.max())
        rows = np.arange(batch_size)
        token_ids = np.full((batch_size, most), -1)
        all_logits = torch.zeros(batch_size, most, logits.shape[2], dtype=logits.dtype)
        guesses = np.full((batch_size, most + self._block), -1)
        if drafts is not None:
            guesses[:, : drafts.shape[1]] = drafts
        guesses[np.arange(most + self._block) >= steps[:, None] - 1] = -1  # nothing follows these
        emitted = np.zeros(batch_size, dtype=np.int64)
        while True:
            chosen = logits.argmax(dim=2).cpu().numpy()  # [B, rows]
            for row in range(batch_size):
                done = int(emitted[row])
                agreed = chosen[row] == guesses[row, done : done + chosen.shape[1]]
                # As many as agreed, and the one that was chosen instead of what did not.
                count = min(int(np.argmin([*agreed, False])) + 1, len(agreed), steps[row] - done)
                token_ids[row, done : done + count] = chosen[row, :count]
                all_logits[row, done : done + count] = logits[row, :count].cpu()
                emitted[row] += count
            if (emitted == steps).all():
                return token_ids, all_logits
            offsets = np.arange(self._block if self._follows(guesses, token_ids, emitted) else 1)
            block = guesses[rows[:, None], emitted[:, None] + offsets - 1].clip(min=0)
            block[:, 0] = token_ids[rows, emitted - 1]
            positions = lengths[:, None] + torch.from_numpy(emitted[:, None] - 1 + offsets).to(
                lengths.device
            )
            logits = self.decode(torch.from_numpy(block).to(lengths.device), positions)

    def _follows(
        self, guesses: NDArray[np.int64], token_ids: NDArray[np.int64], emitted: NDArray[np.int64]
    ) -> bool:
        """Whether the next pass takes a block of guesses along, and not the last token alone.

        Where a block costs more than a token, it is for drafts whose guess at the last token was
        right, and only where it can save more passes than it costs.
        """
        rows, cost = np.arange(len(emitted)), self._llama.block_cost
        left = ((guesses >= 0) & (np.arange(guesses.shape[1]) >= emitted[:, None])).sum(axis=1)
        trusted = (guesses[rows, emitted - 1] == token_ids[rows, emitted - 1]) | (cost <= 1)
        return bool((trusted & (left + 1 > cost)).any())

    def _through_layers(
        self, x: Tensor, rotary: Tensor, positions: Tensor | None, keep: Tensor | None = None
    ) -> Tensor:
        """:param keep: what is needed in the end; the last layer makes no more than that."""
        *layers, last = self._llama.model.layers
        for layer, kv_cache in zip(layers, self._kv_cache[:-1], strict=True):
            x = layer(x, rotary, kv_cache, positions)
        return last(x, rotary, self._kv_cache[-1], positions, keep)


def rotary_tables(config: LlamaConfig, size: int, device: torch.device) -> Tensor:
    """Cosines and sines of every position's angles (Su et al. 2021, arXiv:2104.09864, eq. 15; the
    two halves of a head belong together, as in transformers).

    :returns: float32 [2, size, head_dim].
    """
    exponents = torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents  # [head_dim / 2]
    angles = torch.outer(torch.arange(size, device=device).float(), frequencies).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def _rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn each pair of values of [B, H, T, E] by its position's angle."""
    cosines, sines = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


def _rows(x: Tensor, keep: Tensor) -> Tensor:
    """Those of [B, T, hidden] that int64 [B, R] names."""
    return x[torch.arange(len(x), device=x.device)[:, None], keep]


def _up_to(positions: Tensor, key: Tensor) -> Tensor:
    """Which of the keys [B, KVH, S, E] each of int64 [B, T] sees: bool [B, 1, T, S]."""
    slots = torch.arange(key.shape[2], device=key.device)  # [S]
    return (slots <= positions[:, :, None])[:, None]
