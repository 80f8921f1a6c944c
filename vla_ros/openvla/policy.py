"""OpenVLA as a policy: one picture and one instruction in, one action out.

Built, warmed and called by one thread, which is also the only one to touch the model. Knows
nothing of ROS or of time limits; it stops between layers when told to.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.errors import known_failure
from vla_ros.openvla.hub import resolve_model
from vla_ros.openvla.language import Generation
from vla_ros.openvla.model import OpenVLAModel, load_model
from vla_ros.openvla.normalization import ActionStatistics, select_statistics
from vla_ros.openvla.placement import (
    check_quantization,
    choose_device,
    choose_dtype,
    empty_cache,
    synchronize,
)
from vla_ros.openvla.processor import ImageProcessor, PromptTokenizer, load_processors
from vla_ros.openvla.proof import plan_trials, prove
from vla_ros.types import (
    Cancel,
    PolicyError,
    PolicyInfo,
    Prediction,
    Progress,
    ProgressCallback,
    Request,
    WarmupTimes,
)


class OpenVLAPolicy:
    """Use :meth:`from_pretrained`."""

    def __init__(
        self,
        config: OpenVLAConfig,
        model: OpenVLAModel,
        image_processor: ImageProcessor,
        prompt_tokenizer: PromptTokenizer,
        info: PolicyInfo,
        max_batch_size: int = 1,
    ) -> None:
        self.config = config
        self.info = info
        self.max_batch_size = max_batch_size
        self._model = model
        self._image_processor = image_processor
        self._prompt_tokenizer = prompt_tokenizer

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        device: str = 'auto',
        dtype: str = 'auto',
        quantization: str = 'none',
        revision: str | None = None,
        compile: bool = False,
        max_batch_size: int = 1,
        progress: ProgressCallback | None = None,
    ) -> OpenVLAPolicy:
        """Load a checkpoint in the released layout; runs no code that comes with it.

        :param path_or_repo_id: a folder, or a hub id such as ``openvla/openvla-7b``.
        :param device: ``auto``, ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.
        :param dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        :param quantization: ``none``.
        :param revision: branch, tag or commit of a hub id.
        :param compile: run through torch.compile: faster where there is a GPU, and a warm-up of
            minutes.
        :param max_batch_size: how many requests may be predicted at once.
        :raises PlacementError: if device, dtype or quantization can't be had here.
        :raises CheckpointError: if the checkpoint can't be found or isn't whole.
        """
        check_quantization(quantization)
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device)
        directory = resolve_model(str(path_or_repo_id), revision, progress)
        config = OpenVLAConfig.from_directory(directory)
        image_processor, prompt_tokenizer = load_processors(directory, config)
        info = PolicyInfo(
            model=str(path_or_repo_id),
            revision=revision or '',
            device=str(chosen_device),
            dtype=str(chosen_dtype).removeprefix('torch.'),
            quantization=quantization,
            compiled=compile,
        )
        try:
            model = load_model(Checkpoint(directory), config, chosen_device, chosen_dtype, progress)
        except (MemoryError, RuntimeError) as error:
            reason = known_failure(error, info, 'loading')
            if not reason:
                raise
            raise PolicyError(reason) from error
        if compile:
            model.compile_layers()
        return cls(config, model, image_processor, prompt_tokenizer, info, max_batch_size)

    def action_dim(self, unnorm_key: str | None = None) -> int:
        """How many values an action has; the key may be left out if there is one.

        :raises UnnormKeyError: if there are no such statistics.
        """
        return select_statistics(self.config.norm_stats, unnorm_key)[1].action_dim

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Meet every shape that can occur later, then prove that picture and instruction count.

        :raises ProofError: if a proof fails.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        started = time.monotonic()
        longest = self.config.longest_key
        wrong = np.full(self.action_dim(longest), self.config.llama.pad_token_id)
        trials = plan_trials(self._prompt_tokenizer, wrong, self.info.compiled)
        predictions: dict[str, Prediction] = {}
        seconds = []
        for done, (name, trial) in enumerate(trials.items()):
            if progress is not None:
                progress(Progress(trial.text, done, len(trials)))
            trial_started = time.monotonic()
            predictions[name] = self.predict_action(
                trial.image, trial.instruction, longest, cancel, True, trial.draft
            )
            seconds.append(time.monotonic() - trial_started)
        prove(predictions)
        return WarmupTimes(time.monotonic() - started, seconds[0], seconds[-1])

    def close(self) -> None:
        """Give its memory back; nothing else may be asked of it afterwards."""
        device = self._model.device
        del self._model
        gc.collect()  # a model has reference cycles
        empty_cache(device)

    def check_instruction(self, instruction: str) -> None:
        """:raises InstructionError: if the instruction can't be used."""
        self._prompt_tokenizer(instruction)

    def predict_actions(
        self, requests: Sequence[Request], cancel: Cancel | None = None
    ) -> list[Prediction]:
        """Predict one action for each request.

        :raises ValueError: if there are none, or more than ``max_batch_size``.
        """
        if not 1 <= len(requests) <= self.max_batch_size:
            raise ValueError(f'{len(requests)} requests; allowed: 1 to {self.max_batch_size}')
        return [
            self.predict_action(one.image, one.instruction, one.unnorm_key, cancel, draft=one.draft)
            for one in requests
        ]

    @torch.inference_mode()
    def predict_action(
        self,
        image: NDArray[np.uint8],
        instruction: str,
        unnorm_key: str | None = None,
        cancel: Cancel | None = None,
        return_logits: bool = False,
        draft: NDArray[np.int64] | None = None,
    ) -> Prediction:
        """Predict one action by greedy decoding over the whole vocabulary.

        :param image: uint8 [H, W, 3] RGB.
        :param instruction: what a person said, without a template.
        :param unnorm_key: whose statistics scale the action; may be left out if there is one.
        :param cancel: looked at before every layer.
        :param return_logits: also keep the action tokens' logits.
        :param draft: int64 [<=D], a guess at the token ids; see Request.
        :raises ValueError: if the draft is none.
        :raises InstructionError: if the instruction can't be used.
        :raises UnnormKeyError: if there are no such statistics.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        unnorm_key, statistics = select_statistics(self.config.norm_stats, unnorm_key)
        self._model.cancel_with(cancel)
        self._model.check_cancelled()
        try:
            request = Request(image, instruction, unnorm_key, self._usable(draft, statistics))
            return self._predict(request, unnorm_key, statistics, return_logits)
        except (MemoryError, RuntimeError) as error:
            reason = known_failure(error, self.info, 'an inference')
            if not reason:
                raise
        # Only now that the traceback is gone is the kv_cache gone too.
        empty_cache(self._model.device)
        raise PolicyError(reason)

    def _usable(
        self, draft: NDArray[np.int64] | None, statistics: ActionStatistics
    ) -> NDArray[np.int64]:
        """What of a draft can save time: all but the last token, which nothing follows."""
        if draft is None:
            return np.empty(0, dtype=np.int64)
        most, vocabulary = statistics.action_dim, self.config.llama.vocab_size
        if draft.ndim != 1 or len(draft) > most or ((draft < 0) | (draft >= vocabulary)).any():
            raise ValueError(
                f'draft is {draft.tolist()}; expected at most {most} token ids below {vocabulary}'
            )
        return draft[: most - 1].astype(np.int64)

    def _predict(
        self,
        request: Request,
        unnorm_key: str,
        statistics: ActionStatistics,
        return_logits: bool,
    ) -> Prediction:
        """:param request: with a draft, empty if there is none."""
        model, draft = self._model, request.draft
        assert draft is not None
        most = self.action_dim(self.config.longest_key)
        stages = _Stages(model.device)
        with stages('preprocess'):
            input_ids, tokens = self._padded(
                self._prompt_tokenizer(request.instruction), draft, most - 1
            )
            pixel_values = self._image_processor(request.image).to(model.device, model.dtype)
        with stages('vision'):
            features = model.vision_backbone(pixel_values)
        with stages('projector'):
            image_embeds = model.projector(features)
        with stages('prefill'):
            inputs_embeds = model.embed(input_ids, image_embeds)
            batch_size, length, _ = inputs_embeds.shape
            lengths = tokens + image_embeds.shape[1]
            generation = Generation(model.language_model, batch_size, length, most)
            logits = generation.prefill(inputs_embeds, lengths, rows=most)
        with stages('decode'):
            token_ids, logits = generation.greedy(
                logits, lengths, statistics.action_dim, draft[np.newaxis]
            )
        with stages('postprocess'):
            prediction = self._prediction(
                token_ids[0], logits[0], unnorm_key, statistics, stages.seconds, return_logits
            )
            accepted = int((token_ids[0, : len(draft)] == draft).sum())
            return dataclasses.replace(prediction, drafted=len(draft), accepted=accepted)

    def _padded(
        self, input_ids: Tensor, draft: NDArray[np.int64], places: int
    ) -> tuple[Tensor, Tensor]:
        """Pad while it is on the CPU still: the device sees few shapes.

        :param input_ids: int64 [1, T].
        :param draft: int64 [<=places], goes behind the prompt.
        :param places: for a draft, always the same, whether there is one or not.
        :returns: on the device, int64 [1, padded T + places], and int64 [1]: T.
        """
        tokens = input_ids.shape[1]
        pads = self._prompt_tokenizer.padded_length(tokens) + places - tokens
        padded = F.pad(input_ids, (0, pads), value=self.config.llama.pad_token_id)
        padded[0, tokens : tokens + len(draft)] = torch.from_numpy(draft)
        return padded.to(self._model.device), torch.tensor([tokens], device=self._model.device)

    def _prediction(
        self,
        token_ids: NDArray[np.int64],
        logits: Tensor,
        unnorm_key: str,
        statistics: ActionStatistics,
        timings: Mapping[str, float],
        return_logits: bool,
    ) -> Prediction:
        """
        :param token_ids: [D]; what comes after an end-of-sequence token is cut off.
        :param logits: float32 [D, vocab], on the CPU.
        """
        tokenizer = self.config.action_tokenizer
        ends = np.flatnonzero(token_ids == self.config.llama.eos_token_id)
        token_ids = token_ids[: ends[0] + 1 if len(ends) else None]
        logits = logits[: len(token_ids), tokenizer.first_id : tokenizer.vocab_size].clone()
        normalized = np.full(statistics.action_dim, np.nan)  # NaN where no token was emitted
        normalized[: len(token_ids)] = tokenizer.decode(token_ids)
        is_action = tokenizer.is_action(token_ids)
        probabilities = np.zeros(statistics.action_dim, dtype=np.float32)
        steps = np.flatnonzero(is_action)
        chosen = torch.from_numpy(token_ids[steps] - tokenizer.first_id)
        probabilities[steps] = logits.softmax(dim=1)[torch.from_numpy(steps), chosen].numpy()
        reason = self._invalid_reason(token_ids, is_action, logits, statistics.action_dim)
        return Prediction(
            action=statistics.unnormalize(normalized),
            normalized_action=normalized,
            token_ids=token_ids,
            token_probabilities=probabilities,
            unnorm_key=unnorm_key,
            valid=not reason,
            invalid_reason=reason,
            timings=timings,
            logits=logits.numpy() if return_logits else None,
        )

    def _invalid_reason(
        self,
        token_ids: NDArray[np.int64],
        is_action: NDArray[np.bool_],
        logits: Tensor,
        action_dim: int,
    ) -> str:
        """Empty if every token stands for an action."""
        if not bool(torch.isfinite(logits).all()):
            return 'the logits are not finite'
        if token_ids[-1] == self.config.llama.eos_token_id:
            return f'the sequence ended after {len(token_ids) - 1} of {action_dim} action tokens'
        if not is_action.all():
            step = int(np.argmin(is_action))
            tokenizer = self.config.action_tokenizer
            return (
                f'token {token_ids[step]} at step {step} is no action token '
                f'({tokenizer.first_id} to {tokenizer.vocab_size - 1})'
            )
        return ''


class _Stages:
    """Times and names the stages of one inference; waits for the device at each end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        with torch.profiler.record_function(name):
            yield
            synchronize(self._device)
        self.seconds[name] = time.monotonic() - started
