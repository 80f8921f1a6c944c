"""OpenVLA as a policy: one picture and one instruction in, one action out.

Built, warmed and called by one thread, which is also the only one to touch the model. Knows
nothing of ROS or of time limits; it stops between layers when told to.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
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
from vla_ros.types import Cancel, PolicyInfo, Prediction, Progress, ProgressCallback

_WARMUP_INSTRUCTIONS = ('lift', 'put the red block that lies on the left into the wooden drawer')


class OpenVLAPolicy:
    """Use :meth:`from_pretrained`."""

    def __init__(
        self,
        config: OpenVLAConfig,
        model: OpenVLAModel,
        image_processor: ImageProcessor,
        prompt_tokenizer: PromptTokenizer,
        info: PolicyInfo,
    ) -> None:
        self.config = config
        self.info = info
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
        progress: ProgressCallback | None = None,
    ) -> OpenVLAPolicy:
        """Load a checkpoint in the released layout; runs no code that comes with it.

        :param path_or_repo_id: a folder, or a hub id such as ``openvla/openvla-7b``.
        :param device: ``auto``, ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.
        :param dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        :param quantization: ``none``.
        :param revision: branch, tag or commit of a hub id.
        :raises PlacementError: if device, dtype or quantization can't be had here.
        :raises CheckpointError: if the checkpoint can't be found or isn't whole.
        """
        check_quantization(quantization)
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device)
        directory = resolve_model(str(path_or_repo_id), revision, progress)
        config = OpenVLAConfig.from_directory(directory)
        image_processor, prompt_tokenizer = load_processors(directory, config)
        model = load_model(Checkpoint(directory), config, chosen_device, chosen_dtype, progress)
        info = PolicyInfo(
            model=str(path_or_repo_id),
            revision=revision or '',
            device=str(chosen_device),
            dtype=str(chosen_dtype).removeprefix('torch.'),
            quantization=quantization,
        )
        return cls(config, model, image_processor, prompt_tokenizer, info)

    def check_unnorm_key(self, unnorm_key: str | None) -> str:
        """The key that will be used.

        :raises UnnormKeyError: if it is unknown, or left out where there are several.
        """
        return select_statistics(self.config.norm_stats, unnorm_key)[0]

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> float:
        """Run a short and a long instruction once; returns what it took, seconds.

        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        started = time.monotonic()
        image = np.zeros((480, 640, 3), dtype=np.uint8)
        unnorm_key = next(iter(self.config.norm_stats))
        for done, instruction in enumerate(_WARMUP_INSTRUCTIONS):
            if progress is not None:
                progress(Progress('warming up', done, len(_WARMUP_INSTRUCTIONS)))
            self.predict_action(image, instruction, unnorm_key, cancel)
        return time.monotonic() - started

    def close(self) -> None:
        """Give its memory back; nothing else may be asked of it afterwards."""
        device = self._model.device
        del self._model
        gc.collect()  # a model has reference cycles
        empty_cache(device)

    @torch.inference_mode()
    def predict_action(
        self,
        image: NDArray[np.uint8],
        instruction: str,
        unnorm_key: str | None = None,
        cancel: Cancel | None = None,
        return_logits: bool = False,
    ) -> Prediction:
        """Predict one action by greedy decoding over the whole vocabulary.

        :param image: uint8 [H, W, 3] RGB.
        :param instruction: what a person said, without a template.
        :param unnorm_key: whose statistics scale the action; may be left out if there is one.
        :param cancel: looked at before every layer.
        :param return_logits: also keep the action tokens' logits.
        :raises InstructionError: if the instruction can't be used.
        :raises UnnormKeyError: if there are no such statistics.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        unnorm_key, statistics = select_statistics(self.config.norm_stats, unnorm_key)
        stages = _Stages(self._model.device)
        self._model.cancel_with(cancel)
        self._model.check_cancelled()
        with stages('preprocess'):
            input_ids = self._prompt_tokenizer(instruction).to(self._model.device)
            pixel_values = self._image_processor(image).to(self._model.device, self._model.dtype)
        with stages('vision'):
            features = self._model.vision_backbone(pixel_values)
        with stages('projector'):
            image_embeds = self._model.projector(features)
        generation = Generation(self._model.language_model)
        with stages('prefill'):
            logits = generation.prefill(self._model.embed(input_ids, image_embeds))
        with stages('decode'):
            token_ids, logits = self._decode(generation, logits, statistics.action_dim)
        with stages('postprocess'):
            return self._prediction(
                token_ids, logits, unnorm_key, statistics, stages.seconds, return_logits
            )

    def _decode(
        self, generation: Generation, logits: Tensor, action_dim: int
    ) -> tuple[NDArray[np.int64], Tensor]:
        """Emit up to ``action_dim`` tokens; stop after an end-of-sequence token.

        :param logits: float32 [vocab], the prefill's.
        :returns: the token ids [<=D], and the action tokens' logits float32 [<=D, n_action_bins].
        """
        tokenizer = self.config.action_tokenizer
        token_ids: list[int] = []
        action_logits: list[Tensor] = []
        while True:
            token_ids.append(int(logits.argmax()))
            action_logits.append(logits[tokenizer.first_id : tokenizer.vocab_size])
            if len(token_ids) == action_dim or token_ids[-1] == self._eos_token_id:
                return np.array(token_ids, dtype=np.int64), torch.stack(action_logits).cpu()
            logits = generation.decode(token_ids[-1])

    def _prediction(
        self,
        token_ids: NDArray[np.int64],
        logits: Tensor,
        unnorm_key: str,
        statistics: ActionStatistics,
        timings: Mapping[str, float],
        return_logits: bool,
    ) -> Prediction:
        tokenizer = self.config.action_tokenizer
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
        if token_ids[-1] == self._eos_token_id:
            return f'the sequence ended after {len(token_ids) - 1} of {action_dim} action tokens'
        if not is_action.all():
            step = int(np.argmin(is_action))
            tokenizer = self.config.action_tokenizer
            return (
                f'token {token_ids[step]} at step {step} is no action token '
                f'({tokenizer.first_id} to {tokenizer.vocab_size - 1})'
            )
        return ''

    @property
    def _eos_token_id(self) -> int:
        return self.config.llama['eos_token_id']


class _Stages:
    """Times the stages of one inference; waits for the device at each end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        synchronize(self._device)
        self.seconds[name] = time.monotonic() - started
