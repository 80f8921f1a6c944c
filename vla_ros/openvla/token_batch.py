# SPDX-License-Identifier: Apache-2.0
"""The actions of OpenVLA and MiniVLA: tokens decoded one after the other, with guesses at them.

Runs in the policy's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.openvla.action_tokenizer import ActionTokenizer
from vla_ros.openvla.batches import Batch, ImageEmbedder, padded, padded_width
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.costs import BlockCosts
from vla_ros.openvla.decoding import Choices, Generation, decode_greedy
from vla_ros.openvla.graphs import Graphs
from vla_ros.openvla.kept_patches import PatchPass, prefill_chosen
from vla_ros.openvla.language import CacheMemory, KVCache
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.normalization import ActionStatistics
from vla_ros.openvla.placement import to_device
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.openvla.stages import Stages
from vla_ros.types import Invalid, InvalidReason, Prediction, TokenTrace

# Attention on CUDA wants rows of masks that begin at multiples of 16 bytes.
_CACHE_STEP = 8


class TokenPredictor:
    """One action, or one chunk of codes, token by token.

    ``block_costs`` has what the warm-up measured.

    :param rows: of the largest batch.
    :param recomputed_patches: share of the patches that are computed where others were kept.
    """

    stages = ('preprocess', 'vision', 'projector', 'prefill', 'decode', 'postprocess')

    def __init__(
        self,
        config: OpenVLAConfig,
        model: OpenVLAModel,
        tokenizer: PromptTokenizer,
        embedder: ImageEmbedder,
        block_costs: BlockCosts,
        graphs: Graphs,
        rows: int,
        recomputed_patches: float = 1.0,
    ) -> None:
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._embedder = embedder
        self.block_costs = block_costs
        self._graphs = graphs
        self._rows = rows
        self._recomputed_patches = recomputed_patches
        self._memory: CacheMemory | None = None

    @property
    def most_tokens(self) -> int:
        """Number of tokens of the longest action of all data sets."""
        config = self._config
        return config.decoded_tokens(config.norm_stats[config.longest_key].action_dim)

    def predict(
        self, batch: Batch, stages: Stages, return_logits: bool, trial: bool
    ) -> list[Prediction]:
        """Return a prediction for each request; see :class:`.Predictor`.

        :raises ValueError: if a draft is none.
        """
        steps, most = self._steps(batch), self.most_tokens
        with stages('preprocess'):
            drafts = self._drafts(batch, steps, most - 1)
            guesses = drafts if trial else np.where(drafts < 0, self._still(batch, drafts), drafts)
            input_ids, tokens = self._padded(batch, guesses)
        image_embeds, shown = self._embedder(batch, stages)
        with stages('prefill'):
            lengths = tokens + image_embeds.shape[1]
            cache = self._cache(image_embeds, image_embeds.shape[1] + input_ids.shape[1])
            patches = PatchPass(self._recomputed_patches, batch.requests, image_embeds)
            inputs = input_ids, lengths, image_embeds, *patches.restore(cache)
            first = Choices(*self._graphs.run('prefill', partial(self._prefill, cache), *inputs))
            step = partial(self._graphs.run, 'decode', partial(self._decode, cache), lengths)
        with stages('decode'):
            decoded = decode_greedy(
                first,
                lambda inputs: Choices(*step(inputs)),
                Generation(steps, guesses, guesses_anew=not trial),
                1.0 if trial else self.block_costs.of(len(batch)),
            )
        if trial:
            self.block_costs.add(len(batch), decoded.passes)
        with stages('postprocess'):
            predictions = [
                self._prediction(
                    decoded.token_ids[row, : steps[row]],
                    decoded.logits[row],
                    drafts[row],
                    batch.keys[row],
                    batch.statistics[row],
                    shown[row],
                    stages.seconds,
                    return_logits,
                    len(decoded.passes),
                )
                for row in range(len(batch))
            ]
            patches.remember(cache, [trial or one.invalid is None for one in predictions])
        return predictions

    def _steps(self, batch: Batch) -> NDArray[np.int64]:
        """Return the number of tokens of each action, int64 [B]."""
        tokens_of = self._config.decoded_tokens
        return np.array([tokens_of(one.action_dim) for one in batch.statistics])

    def _prefill(
        self,
        cache: KVCache,
        input_ids: Tensor,
        lengths: Tensor,
        image_embeds: Tensor,
        chosen: Tensor | None = None,
    ) -> Choices:
        """Return the choices after each prompt and its guesses; see :meth:`Llama.prefill`.

        :param cache: for this batch; written to.
        :param chosen: see :func:`.prefill_chosen`; None: all patches are computed.
        """
        model = self._model
        inputs_embeds = model.embed(input_ids, image_embeds)
        rows = self.most_tokens
        llama = model.language_model
        if chosen is None:
            logits = llama.prefill(inputs_embeds, lengths, cache, rows=rows)
        else:
            behind = image_embeds.shape[1]
            logits = prefill_chosen(llama, inputs_embeds, lengths, cache, rows, chosen, behind)
        return Choices.of(logits, self._bins)

    def _decode(self, cache: KVCache, lengths: Tensor, inputs: Tensor) -> Choices:
        """Return the choices after some tokens.

        :param cache: as the prefill left it; written to.
        :param inputs: int64 [2, B, T], tokens and their places behind the prompts.
        """
        logits = self._model.language_model.decode(inputs[0], lengths[:, None] + inputs[1], cache)
        return Choices.of(logits, self._bins)

    @property
    def _bins(self) -> slice:
        tokenizer = self._config.action_tokenizer
        return slice(tokenizer.first_id, tokenizer.vocab_size)

    def _cache(self, like: Tensor, positions: int) -> KVCache:
        """Return a cache for a batch.

        :param like: [B, N, hidden], the embeddings of its images.
        :param positions: of the prefill.
        """
        config, most = self._config.llama, self.most_tokens
        if not self._graphs.wanted:
            return KVCache.empty(config, like, positions + most)
        if self._memory is None:
            size = like.shape[1] + self._tokenizer.prompt_lengths[-1] + 2 * most
            size += -size % _CACHE_STEP
            self._memory = CacheMemory(config, self._rows, size, like.device, like.dtype)
        return self._memory.cache(len(like), positions)

    def _drafts(self, batch: Batch, steps: NDArray[np.int64], places: int) -> NDArray[np.int64]:
        """Return the tokens of the drafts that can save time: all but the last one.

        :returns: int64 [B, places], -1 after the end of each.
        :raises ValueError: if a draft has another shape, or ids that do not exist.
        """
        drafts = np.full((len(batch), places), -1)
        vocabulary = self._config.llama.vocab_size
        for row, (request, most) in enumerate(zip(batch.requests, steps.tolist(), strict=True)):
            draft = request.draft
            if draft is None:
                continue
            if draft.ndim != 1 or len(draft) > most or ((draft < 0) | (draft >= vocabulary)).any():
                raise ValueError(
                    f'draft is {draft.tolist()}; expected at most {most} token ids below '
                    f'{vocabulary}'
                )
            drafts[row, : min(len(draft), most - 1)] = draft[: most - 1]
        return drafts

    def _still(self, batch: Batch, drafts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens of actions that move nothing, for rows without a draft; none of codes.

        :param drafts: int64 [B, places]; what a draft leaves open is not guessed.
        :returns: int64 [B, places], -1 where nothing is guessed.
        """
        still = np.full(drafts.shape, -1)
        if self._model.code_decoder is not None:
            return still
        for row, statistics in enumerate(batch.statistics):
            if (drafts[row] < 0).all():
                values = statistics.normalize(np.zeros(statistics.action_dim))
                ids = self._config.action_tokenizer.encode(values)[:-1]
                still[row, : len(ids)] = ids
        return still

    def _padded(self, batch: Batch, guesses: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the prompts, each with its guesses behind it, padded.

        :param guesses: int64 [B, places]; there are as many places without a guess.
        :returns: int64 [B, padded T + places], and int64 [B]: T.
        """
        both = [
            torch.cat([prompt, torch.from_numpy(guess[guess >= 0])])
            for prompt, guess in zip(batch.prompts, guesses, strict=True)
        ]
        width = padded_width(batch, self._tokenizer) + guesses.shape[1]
        device = self._model.device
        input_ids, _ = padded(both, width, device, self._config.llama.pad_token_id)
        return input_ids, to_device(torch.from_numpy(batch.tokens), device)

    def _prediction(
        self,
        token_ids: NDArray[np.int64],
        logits: Tensor,
        draft: NDArray[np.int64],
        unnorm_key: str,
        statistics: ActionStatistics,
        shown: tuple[NDArray[np.uint8], ...],
        timings: Mapping[str, float],
        return_logits: bool,
        passes: int,
    ) -> Prediction:
        """Return the prediction of one request.

        :param token_ids: int64 [N]; the ones after an end-of-sequence token are cut off.
        :param logits: float32 [>=N, bins], of the action tokens, on the CPU.
        :param draft: int64 [<=N], that of the request; -1 where there is none.
        :param shown: of each camera, what the first vision tower was given.
        :param passes: of the language model after the prefill.
        """
        wanted = len(token_ids)
        draft = draft[: len(token_ids)]
        drafted = int((draft >= 0).sum())
        accepted = int((draft == token_ids[: len(draft)]).sum())
        eos = self._config.llama.eos_token_id
        ends = np.flatnonzero(token_ids == eos)
        token_ids = token_ids[: ends[0] + 1 if len(ends) else None]
        tokenizer = self._config.action_tokenizer
        logits = logits[: len(token_ids)]
        normalized = self._normalized(token_ids, statistics.action_dim)
        invalid = why_not_finite(logits)
        if invalid is None and token_ids[-1] == eos:
            step = len(token_ids) - 1
            invalid = InvalidReason(Invalid.ENDED_EARLY, step, step, str(wanted))
        counts = drafted, accepted, passes
        return Prediction(
            actions=statistics.unnormalize(normalized),
            unnorm_key=unnorm_key,
            normalized_actions=normalized.astype(np.float64),
            invalid=invalid or why_no_action(token_ids, tokenizer),
            model_images=dict(zip(self._config.cameras, shown, strict=True)),
            tokens=trace(token_ids, logits, tokenizer, wanted, return_logits, *counts),
            timings=timings,
        )

    def _normalized(
        self, token_ids: NDArray[np.int64], action_dim: int
    ) -> NDArray[np.float64] | NDArray[np.float32]:
        """Return the values [K, D] of tokens, NaN where no token was emitted.

        :param token_ids: int64 [<=N].
        """
        tokenizer, decoder = self._config.action_tokenizer, self._model.code_decoder
        if decoder is None:
            values = np.full((1, action_dim), np.nan)
            values[0, : len(token_ids)] = tokenizer.decode(token_ids)
            return values
        if len(token_ids) < len(decoder.codebooks):
            return np.full(decoder.shape, np.nan)
        return decoder(tokenizer.codes(token_ids))


def action_logits(logits: Tensor, tokenizer: ActionTokenizer) -> Tensor:
    """Return the logits of the action tokens, float32 [N, bins], of [N, vocab], as a copy."""
    return logits[:, tokenizer.first_id : tokenizer.vocab_size].clone()


def trace(
    token_ids: NDArray[np.int64],
    logits: Tensor,
    tokenizer: ActionTokenizer,
    values: int,
    return_logits: bool,
    drafted: int = 0,
    accepted: int = 0,
    passes: int = 0,
) -> TokenTrace:
    """Return the tokens of a prediction with their probabilities.

    :param token_ids: int64 [<=values].
    :param logits: float32 [len(token_ids), bins], from :func:`action_logits`.
    :param values: number of values of the actions; those without an action token have the
        probability 0.
    """
    probabilities = np.zeros(values, dtype=np.float32)
    steps = np.flatnonzero(tokenizer.is_action(token_ids))
    chosen = torch.from_numpy(token_ids[steps] - tokenizer.first_id)
    probabilities[steps] = logits.softmax(dim=1)[torch.from_numpy(steps), chosen].numpy()
    return TokenTrace(
        ids=token_ids,
        probabilities=probabilities,
        logits=logits.numpy() if return_logits else None,
        drafted=drafted,
        accepted=accepted,
        passes=passes,
    )


def why_not_finite(logits: Tensor) -> InvalidReason | None:
    """Return the first logit of [N, bins] that is not finite; None if all are."""
    finite = torch.isfinite(logits)
    if bool(finite.all()):
        return None
    step, column = (~finite).nonzero()[0].tolist()
    return InvalidReason(Invalid.NOT_FINITE, step, float(logits[step, column]), 'a logit of step')


def why_no_action(token_ids: NDArray[np.int64], tokenizer: ActionTokenizer) -> InvalidReason | None:
    """Return the first token that stands for no value; None if all do."""
    is_action = tokenizer.is_action(token_ids)
    if is_action.all():
        return None
    step = int(is_action.argmin())
    expected = f'{tokenizer.first_id} to {tokenizer.vocab_size - 1}'
    return InvalidReason(Invalid.TOKEN, step, int(token_ids[step]), expected)
