# SPDX-License-Identifier: Apache-2.0
"""The plain path through a policy's weights, to compare with: one token after the other.

It does what the references do. Every module runs eagerly, keys and values are appended to a growing
cache, the logits of all positions of the prompt are made, and each token is read back before the
next one. There are no drafts, no kept images, no padding, no graphs and no batches. Both paths
leave out the last block of each tower, whose output the references discard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.chunks import mean_embedding, run_chunk
from vla_ros.openvla.language import Attention, Layer, Llama, rotary_tables
from vla_ros.openvla.normalization import ActionStatistics, select_statistics
from vla_ros.openvla.request import Request
from vla_ros.openvla.session import own
from vla_ros.openvla.stages import Stages
from vla_ros.types import (
    Cancel,
    InferenceCancelled,
    Observation,
    Policy,
    Prediction,
    Session,
    TokenTrace,
)

_BEFORE_DECODING = ('preprocess', 'vision', 'projector', 'prefill')


class PlainPath:
    """The plain path; it shares the policy's weights.

    :raises TypeError: if the policy has another kind of model.
    """

    def __init__(self, policy: Policy) -> None:
        if not isinstance(policy, OpenVLAPolicy):
            raise TypeError(f'{type(policy).__name__} has no plain path')
        self._config = policy.config
        self._model, self._processor, self._tokenizer = policy.parts

    @torch.inference_mode()
    def predict(
        self, batch: Sequence[tuple[Session, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction]:
        """Predict for each observation, one after the other.

        :raises InferenceCancelled: before the next token once ``cancel`` is set.
        """
        self._model.cancel_with(cancel)
        return [self._predict(own(session).request(one), cancel) for session, one in batch]

    def _predict(self, request: Request, cancel: Cancel | None) -> Prediction:
        model, decodes = self._model, self._config.decodes
        decode = ('decode',) if decodes else ()
        stages = Stages(model.device, (*_BEFORE_DECODING, *decode, 'postprocess'))
        key, statistics = select_statistics(self._config.norm_stats, request.unnorm_key)
        with stages('preprocess'):
            input_ids = self._tokenizer(request.instruction).to(model.device)  # [1, T]
            lengths = torch.tensor([input_ids.shape[1]], device=model.device)
            pixels = [self._processor(image) for image in request.images]
            pixel_values = torch.cat(pixels).to(model.device, model.dtype)
        with stages('vision'):
            words = None
            if model.vision_backbone.has_film:
                words = mean_embedding(model, input_ids, lengths).repeat(len(pixels), 1)
            features = model.vision_backbone(pixel_values, words)
        with stages('projector'):
            embeds = model.projector(features)
        image_embeds = embeds.reshape(1, -1, embeds.shape[2])
        ids: NDArray[np.int64] | None
        if decodes:
            steps = self._config.decoded_tokens(statistics.action_dim)
            ids = self._decode(model.embed(input_ids, image_embeds), steps, stages, cancel)
            normalized = self._values(ids)
        else:
            state = self._state(request, statistics)
            with stages('prefill'):
                output = run_chunk(model, input_ids, lengths, image_embeds, state)[0].float().cpu()
            normalized, ids = self._chunk(output)
        with stages('postprocess'):
            actions = statistics.unnormalize(normalized)
        stages.finish()
        tokens = None if ids is None else _trace(ids, decodes)
        return Prediction(actions, key, tokens=tokens, timings=stages.seconds)

    def _decode(
        self, x: Tensor, steps: int, stages: Stages, cancel: Cancel | None
    ) -> NDArray[np.int64]:
        """Return the most likely tokens.

        :param x: [1, L, hidden], the embedded prompt.
        """
        llama, past = self._model.language_model, _Past()
        ids: list[int] = []
        for step in range(steps):
            if cancel is not None and cancel.is_set():
                raise InferenceCancelled
            with stages('decode' if step else 'prefill'):
                logits = llama.logits(past.extended_by(llama, x))
                token = logits[:, -1].argmax(dim=-1, keepdim=True)
                ids.append(int(token))
            x = llama.model.embed_tokens(token)
        return np.array(ids)

    def _values(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the normalised values [K, D] of decoded tokens."""
        tokenizer, decoder = self._config.action_tokenizer, self._model.code_decoder
        if decoder is None:
            return tokenizer.decode(ids)[None]
        return decoder(tokenizer.codes(ids)).astype(np.float64)

    def _chunk(self, output: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Return the normalised values [K, D] of a pass without decoding, and its tokens.

        :param output: float32 [K, D], or logits [K * D, vocab].
        """
        layout = self._model.layout
        if layout is None or not layout.emits_tokens:
            return output.double().numpy(), None
        ids = output.argmax(dim=1).numpy()
        values = self._config.action_tokenizer.decode(ids)
        return values.reshape(layout.horizon, layout.action_dim), ids

    def _state(self, request: Request, statistics: ActionStatistics) -> Tensor | None:
        if request.state is None or statistics.state is None:
            return None
        state = torch.from_numpy(statistics.state.normalize(request.state))[None]
        return state.to(self._model.device, self._model.dtype)


class _Past:
    """The keys and values of all positions so far; they grow by concatenation."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}  # [1, KVH, S, E] each
        self._size = 0

    def extended_by(self, llama: Llama, x: Tensor) -> Tensor:
        """Return the normalised output of the layers at the positions of ``x``.

        :param x: [1, T, hidden].
        :returns: [1, T, hidden].
        """
        first = self._size
        self._size += x.shape[1]
        tables = rotary_tables(llama.config, self._size, x.device)[:, first:].to(x.dtype)
        for number, layer in enumerate(cast('Sequence[Layer]', llama.model.layers)):
            attended = self._attend(number, layer.self_attn, layer.input_layernorm(x), tables)
            x = x + attended
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return llama.model.norm(x)

    def _attend(self, number: int, attention: Attention, x: Tensor, tables: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )  # [1, heads, T, E] each
        query, key = _rotated(query, tables), _rotated(key, tables)
        if number in self._layers:
            keys, values = self._layers[number]
            key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        self._layers[number] = key, value
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=x.shape[1] > 1, enable_gqa=attention.grouped
        )
        return attention.o_proj(attended.transpose(1, 2).flatten(2))


def _rotated(x: Tensor, tables: Tensor) -> Tensor:
    """Rotate [1, H, T, E] by the angles of its positions, [2, T, E]."""
    first, second = x.chunk(2, dim=-1)
    return x * tables[0] + torch.cat([-second, first], dim=-1) * tables[1]


def _trace(ids: NDArray[np.int64], was_decoded: bool) -> TokenTrace:
    return TokenTrace(ids, np.ones(len(ids), np.float32), passes=was_decoded * (len(ids) - 1))
