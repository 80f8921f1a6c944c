"""The language model: a stock Llama from transformers, driven by embeddings, one pass at a time.

Runs in the policy's thread. Knows nothing of pictures, prompts or actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM


def build_llama(shape: Mapping[str, Any]) -> LlamaForCausalLM:
    """A Llama with whatever weights; call it under ``torch.device('meta')`` for none.

    :param shape: the arguments of a LlamaConfig.
    """
    arguments = dict(shape)
    rope = {'rope_type': 'default', 'rope_theta': arguments.pop('rope_theta')}
    config = LlamaConfig(**arguments, rope_parameters=rope)
    config._attn_implementation = 'sdpa'
    return LlamaForCausalLM(config)


def restore_rotary_tables(llama: LlamaForCausalLM, device: torch.device) -> None:
    """Compute the rotary frequencies, which no checkpoint stores and the meta device lacks."""
    with device:
        llama.model.rotary_emb = type(llama.model.rotary_emb)(llama.config)


class Generation:
    """One sequence under way: its kv_cache grows with every pass. Attention is causal."""

    def __init__(self, llama: LlamaForCausalLM) -> None:
        self._llama = llama
        self._kv_cache = DynamicCache(config=llama.config)

    def prefill(self, inputs_embeds: Tensor) -> Tensor:
        """
        :param inputs_embeds: [1, L, hidden].
        :returns: float32 [vocab], the logits of the next token.
        """
        return self._forward(inputs_embeds=inputs_embeds)

    def decode(self, token_id: int) -> Tensor:
        """Append one token; float32 [vocab], the logits of the next one."""
        input_ids = torch.tensor([[token_id]], device=self._llama.device)  # [1, 1]
        return self._forward(input_ids=input_ids)

    def _forward(self, **inputs: Tensor) -> Tensor:
        output = self._llama(
            **inputs, past_key_values=self._kv_cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[0, -1].float()
