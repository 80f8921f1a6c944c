"""OpenVLA as a policy: one image and one instruction in, one action out.

Built, warmed and called by one thread, the only one that touches the model. Independent of ROS.
Checks for cancellation between layers.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.decoding import decode_greedy
from vla_ros.openvla.embedding_cache import EmbeddingCache
from vla_ros.openvla.errors import explained, known_failure
from vla_ros.openvla.files import WatchedFiles
from vla_ros.openvla.hub import resolve_model
from vla_ros.openvla.language import KVCache
from vla_ros.openvla.loading import load
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.normalization import ActionStatistics, select_statistics
from vla_ros.openvla.placement import Placement, empty_cache, synchronize
from vla_ros.openvla.plain import check_folder
from vla_ros.openvla.preprocessing import RAW, Preprocessing
from vla_ros.openvla.processor import ImageProcessor, PromptTokenizer, load_processors
from vla_ros.openvla.request import Request, check_type, rgb_array
from vla_ros.openvla.self_check import check, plan_trials
from vla_ros.openvla.session import OpenVLASession, own
from vla_ros.openvla.spec import spec_of
from vla_ros.types import (
    ONE_CAMERA,
    Cancel,
    Invalid,
    InvalidReason,
    Observation,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    Progress,
    ProgressCallback,
    Session,
    TokenTrace,
    WarmupTimes,
)

_PROMPTS_KEPT = 64  # those of the robots, and of the instructions before


class OpenVLAPolicy:
    """An OpenVLA model with its processors. Make it with :meth:`from_pretrained`."""

    def __init__(
        self,
        config: OpenVLAConfig,
        model: OpenVLAModel,
        image_processor: ImageProcessor,
        prompt_tokenizer: PromptTokenizer,
        info: PolicyInfo,
        files: WatchedFiles,
        max_batch_size: int = 1,
    ) -> None:
        self.config = config
        self.info = info
        self.max_batch_size = max_batch_size
        self._model = model
        self._image_processor = image_processor
        self._prompt_tokenizer = prompt_tokenizer
        self._files = files
        self._embeddings = EmbeddingCache()
        # An instruction is checked, and then predicted for again and again.
        self._prompt_ids = functools.lru_cache(_PROMPTS_KEPT)(
            lambda instruction: prompt_tokenizer(instruction)[0]
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of images before the released processor."""
        return self._image_processor.preprocessing

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
        preprocessing: Preprocessing = RAW,
        progress: ProgressCallback | None = None,
    ) -> OpenVLAPolicy:
        """Load a checkpoint in the released layout; runs no code that comes with it.

        :param path_or_repo_id: a folder, or a hub id such as ``openvla/openvla-7b``.
        :param device: ``auto``, ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.
        :param dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        :param quantization: ``none``, ``int8`` or ``int4``: weights of 8 or 4 bits.
        :param revision: branch, tag or commit of a hub id.
        :param compile: run through torch.compile: faster on a GPU; the warm-up takes minutes.
        :param max_batch_size: maximum number of requests in one batch.
        :param preprocessing: of images, before the released processor.
        :raises PlacementError: if device, dtype or quantization is not available here.
        :raises CheckpointError: if the checkpoint is not found, is not whole, or changes.
        """
        placement = Placement.choose(device, dtype, quantization, compile)
        directory = resolve_model(str(path_or_repo_id), revision, progress)
        check_folder(directory)
        files = WatchedFiles()
        config = OpenVLAConfig.from_directory(directory, files.remember)
        image_processor, prompt_tokenizer = load_processors(
            directory, config, preprocessing, files.remember
        )
        info = PolicyInfo(
            model=str(path_or_repo_id),
            revision=revision or '',
            device=str(placement.device),
            dtype=placement.dtype_name,
            quantization=quantization,
            compiled=compile,
        )
        with explained(info, 'loading'):
            model = load(Checkpoint(directory, files.remember), config, placement, progress)
        files.check()  # a file that was replaced while it was read gives parts of two files
        return cls(config, model, image_processor, prompt_tokenizer, info, files, max_batch_size)

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec; the key is optional if there is only one.

        :raises UnnormKeyError: if there are no such statistics.
        """
        return spec_of(self.config, unnorm_key)

    @property
    def _most_values(self) -> int:
        """Number of values of the longest action of all data sets."""
        return self.config.norm_stats[self.config.longest_key].action_dim

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Run every shape that can occur, then check that image and instruction affect the action.

        :raises SelfCheckError: if a check fails.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        started = time.monotonic()
        longest = self.config.longest_key
        two_or_all = min(2, self._most_values)
        trials = plan_trials(
            self._prompt_tokenizer,
            wrong_draft=np.full(two_or_all, self.config.llama.pad_token_id),
            max_batch_size=self.max_batch_size,
            compiled=self.info.compiled,
        )
        predictions: dict[str, Prediction] = {}
        seconds = []
        for done, (name, trial) in enumerate(trials.items()):
            if progress is not None:
                progress(Progress(trial.text, done, len(trials)))
            trial_started = time.monotonic()
            predictions[name] = self._attempt(
                trial.requests(longest), cancel, return_logits=True, always_block=True
            )[0]
            seconds.append(time.monotonic() - trial_started)
        check(predictions)
        return WarmupTimes(time.monotonic() - started, seconds[0], seconds[-1])

    def close(self) -> None:
        """Free the model. The policy must not be used afterwards."""
        device = self._model.device
        del self._model, self._embeddings
        gc.collect()  # a model has reference cycles
        empty_cache(device)

    def reset(self) -> None:
        """Forget the images of the last batch."""
        self._embeddings = EmbeddingCache()

    def check_files(self) -> None:
        """Check that the checkpoint's files are still those that were loaded.

        :raises CheckpointError: if one was overwritten, replaced, truncated or deleted.
        """
        self._files.check()

    def check_instruction(self, instruction: str) -> None:
        """Raise InstructionError if the instruction can't be used, TypeError if it is not text."""
        check_type(instruction)
        self._prompt_ids(instruction)

    def session(self, unnorm_key: str | None = None) -> OpenVLASession:
        """Begin the session of one robot; the key is optional if there is only one.

        :raises UnnormKeyError: if there are no such statistics.
        """
        key, _ = select_statistics(self.config.norm_stats, unnorm_key)
        return OpenVLASession(self.spec(key), key)

    def predict_action(
        self,
        image: NDArray[np.uint8] | Image.Image,
        instruction: str,
        unnorm_key: str | None = None,
        cancel: Cancel | None = None,
        return_logits: bool = False,
        draft: NDArray[np.int64] | None = None,
    ) -> Prediction:
        """Predict one action by greedy decoding over the whole vocabulary.

        :param image: uint8 [H, W, 3] RGB, or an image of PIL in mode RGB.
        :param instruction: without a template.
        :param unnorm_key: whose statistics scale the action; may be left out if there is one.
        :param cancel: looked at before every layer.
        :param return_logits: also keep the action tokens' logits.
        :param draft: int64 [<=D], a guess at the token ids; see Request.
        :raises TypeError: if the image has another type or dtype, or the instruction is not text.
        :raises ValueError: if the image has another shape, or the draft is none.
        :raises InstructionError: if the instruction can't be used.
        :raises UnnormKeyError: if there are no such statistics.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        check_type(instruction)
        request = Request(rgb_array(image), instruction, unnorm_key, draft)
        return self._attempt([request], cancel, return_logits)[0]

    def predict(
        self, batch: Sequence[tuple[Session, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        """Predict one action for each observation, all in one pass.

        Each is the one that :meth:`predict_action` gives, but for how the dtype rounds: products
        of more rows may be summed in another order. The last valid action of a session is the
        draft of its next one.

        :returns: in the same order; an error where an instruction can't be used or an image is
            missing.
        :raises ValueError: if there are none, or more than ``max_batch_size``; or a draft is none.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        if not 1 <= len(batch) <= self.max_batch_size:
            raise ValueError(f'{len(batch)} observations; allowed: 1 to {self.max_batch_size}')
        sessions = [own(session) for session, _ in batch]
        requests: dict[int, Request] = {}
        answers: dict[int, Prediction | PolicyError] = {}
        for row, (_, observation) in enumerate(batch):
            try:
                self.check_instruction(observation.instruction)
                requests[row] = sessions[row].request(observation)
            except PolicyError as error:
                answers[row] = error
        if requests:
            predictions = self._attempt(list(requests.values()), cancel)
            for row, prediction in zip(requests, predictions, strict=True):
                answers[row] = prediction
                sessions[row].remember(prediction)
        return [answers[row] for row in range(len(batch))]

    @torch.inference_mode()
    def _attempt(
        self,
        requests: Sequence[Request],
        cancel: Cancel | None,
        return_logits: bool = False,
        always_block: bool = False,
    ) -> list[Prediction]:
        """Predict; after a lack of memory the policy stays usable."""
        self._model.cancel_with(cancel)
        self._model.check_cancelled()
        try:
            with self._model.compiling():
                return self._predict(requests, return_logits, always_block)
        except (MemoryError, RuntimeError) as error:
            failure = known_failure(error, self.info, 'an inference')
            if failure is None:
                raise
        # The traceback kept the kv-cache until here.
        empty_cache(self._model.device)
        raise failure

    def _predict(
        self, requests: Sequence[Request], return_logits: bool, always_block: bool
    ) -> list[Prediction]:
        model, llama = self._model, self._model.language_model
        keyed = [select_statistics(self.config.norm_stats, one.unnorm_key) for one in requests]
        steps = np.array([statistics.action_dim for _, statistics in keyed])  # [B]
        most = self._most_values
        stages = _Stages(model.device)
        with stages('preprocess'):
            prompts = [self._prompt_ids(one.instruction) for one in requests]
            drafts = self._drafts(requests, steps, most - 1)
            input_ids, tokens = self._padded(prompts, drafts)
        image_embeds, shown = self._embeddings.get(
            [rgb_array(one.image) for one in requests], lambda images: self._embed(images, stages)
        )
        with stages('prefill'):
            inputs_embeds = model.embed(input_ids, image_embeds)
            lengths = tokens + image_embeds.shape[1]
            cache = KVCache.empty(llama.config, inputs_embeds, inputs_embeds.shape[1] + most)
            logits = llama.prefill(inputs_embeds, lengths, cache, rows=most)
        with stages('decode'):
            token_ids, logits = decode_greedy(
                llama, logits, lengths, cache, steps, drafts, always_block
            )
        with stages('postprocess'):
            return [
                self._prediction(
                    token_ids[row, : steps[row]],
                    logits[row],
                    drafts[row],
                    *keyed[row],
                    shown[row],
                    stages.seconds,
                    return_logits,
                )
                for row in range(len(requests))
            ]

    def _embed(
        self, images: Sequence[NDArray[np.uint8]], stages: _Stages
    ) -> tuple[Tensor, list[NDArray[np.uint8]]]:
        """Return the images' embeddings [N, patches, hidden], and what the first tower was given.

        :param images: N, each uint8 [H, W, 3].
        """
        model = self._model
        with stages('preprocess'):
            processor = self._image_processor
            model_images = [processor.model_images(image) for image in images]  # for each tower
            pixel_values = torch.cat([processor.pixel_values(each) for each in model_images])
            pixel_values = pixel_values.to(model.device, model.dtype)
        with stages('vision'):
            features = model.vision_backbone(pixel_values)
        with stages('projector'):
            return model.projector(features), [each[0] for each in model_images]

    def _drafts(
        self, requests: Sequence[Request], steps: NDArray[np.int64], places: int
    ) -> NDArray[np.int64]:
        """Return the tokens of the drafts that can save time: all but the last one.

        :returns: int64 [B, places], -1 after the end of each.
        :raises ValueError: if a draft has another shape, or ids that do not exist.
        """
        drafts = np.full((len(requests), places), -1)
        vocabulary = self.config.llama.vocab_size
        for row, (request, most) in enumerate(zip(requests, steps.tolist(), strict=True)):
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

    def _padded(
        self, prompts: Sequence[Tensor], drafts: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return prompts and drafts, padded on the CPU so that the device has few shapes.

        :param prompts: int64 [T] each.
        :param drafts: int64 [B, places], which follow the prompts; there are as many places without
            a draft.
        :returns: on the device, int64 [B, padded T + places], and int64 [B]: T.
        """
        tokens = torch.tensor([len(prompt) for prompt in prompts])
        width = self._prompt_tokenizer.padded_length(int(tokens.max())) + drafts.shape[1]
        padded = torch.full((len(prompts), width), self.config.llama.pad_token_id)
        for row, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True)):
            both = torch.cat([prompt, torch.from_numpy(draft[draft >= 0])])
            padded[row, : len(both)] = both
        return padded.to(self._model.device), tokens.to(self._model.device)

    def _prediction(
        self,
        token_ids: NDArray[np.int64],
        logits: Tensor,
        draft: NDArray[np.int64],
        unnorm_key: str,
        statistics: ActionStatistics,
        image: NDArray[np.uint8],
        timings: Mapping[str, float],
        return_logits: bool,
    ) -> Prediction:
        """Return the prediction of one request.

        :param token_ids: int64 [D]; the ones after an end-of-sequence token are cut off.
        :param logits: float32 [>=D, vocab], on the CPU.
        :param draft: int64 [<=D], -1 where there is none.
        :param image: as the first vision tower was given it.
        """
        draft = draft[: len(token_ids)]
        accepted = int((draft == token_ids[: len(draft)]).sum())
        ends = np.flatnonzero(token_ids == self.config.llama.eos_token_id)
        token_ids = token_ids[: ends[0] + 1 if len(ends) else None]
        tokenizer = self.config.action_tokenizer
        logits = logits[: len(token_ids), tokenizer.first_id : tokenizer.vocab_size].clone()
        normalized = np.full(statistics.action_dim, np.nan)  # NaN where no token was emitted
        normalized[: len(token_ids)] = tokenizer.decode(token_ids)
        is_action = tokenizer.is_action(token_ids)
        probabilities = np.zeros(statistics.action_dim, dtype=np.float32)
        steps = np.flatnonzero(is_action)
        chosen = torch.from_numpy(token_ids[steps] - tokenizer.first_id)
        probabilities[steps] = logits.softmax(dim=1)[torch.from_numpy(steps), chosen].numpy()
        tokens = TokenTrace(
            ids=token_ids,
            probabilities=probabilities,
            logits=logits.numpy() if return_logits else None,
            drafted=int((draft >= 0).sum()),
            accepted=accepted,
        )
        return Prediction(
            actions=statistics.unnormalize(normalized)[np.newaxis],
            unnorm_key=unnorm_key,
            normalized_actions=normalized[np.newaxis],
            invalid=self._invalid_reason(token_ids, is_action, logits, statistics.action_dim),
            model_images={ONE_CAMERA: image},
            tokens=tokens,
            timings=timings,
        )

    def _invalid_reason(
        self,
        token_ids: NDArray[np.int64],
        is_action: NDArray[np.bool_],
        logits: Tensor,
        action_dim: int,
    ) -> InvalidReason | None:
        """Return None if every token stands for a value of the action."""
        finite = torch.isfinite(logits)
        if not bool(finite.all()):
            step, column = (~finite).nonzero()[0].tolist()
            value = float(logits[step, column])
            return InvalidReason(Invalid.NOT_FINITE, step, value, 'a logit of step')
        if token_ids[-1] == self.config.llama.eos_token_id:
            step = len(token_ids) - 1
            return InvalidReason(Invalid.ENDED_EARLY, step, step, str(action_dim))
        if not is_action.all():
            step = int(is_action.argmin())
            tokenizer = self.config.action_tokenizer
            expected = f'{tokenizer.first_id} to {tokenizer.vocab_size - 1}'
            return InvalidReason(Invalid.TOKEN, step, int(token_ids[step]), expected)
        return None


class _Stages:
    """The durations of one inference's stages; waits for the device at the end of each."""

    _NAMES = ('preprocess', 'vision', 'projector', 'prefill', 'decode', 'postprocess')

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(self._NAMES, 0.0)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        with torch.profiler.record_function(name):
            yield
            synchronize(self._device)
        self.seconds[name] += time.monotonic() - started
