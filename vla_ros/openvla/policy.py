# SPDX-License-Identifier: Apache-2.0
"""OpenVLA and its family as a policy: images, an instruction and a state in, actions out.

The config names the parts; no model of the family has a class of its own.

Built, warmed and called by one thread, the only one that touches the model. Independent of ROS.
Checks for cancellation between layers.
"""

from __future__ import annotations

import functools
import gc
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vla_ros.openvla.batches import Batch, ImageEmbedder, Predictor
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.chunk_batch import ChunkPredictor
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.costs import BlockCosts
from vla_ros.openvla.errors import explained, known_failure
from vla_ros.openvla.files import WatchedFiles
from vla_ros.openvla.graphs import Graphs, Recorder, recorder_of
from vla_ros.openvla.hub import resolve_model
from vla_ros.openvla.kept_patches import PatchMemory, check_share
from vla_ros.openvla.loading import Weights, load
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.normalization import select_statistics
from vla_ros.openvla.placement import Placement, check_float32, empty_cache
from vla_ros.openvla.plain import check_folder
from vla_ros.openvla.preprocessing import RAW, Preprocessing
from vla_ros.openvla.processor import ImageProcessor, PromptTokenizer, load_processors
from vla_ros.openvla.request import Request, camera_images, check_type, checked_state, rgb_array
from vla_ros.openvla.self_check import check, plan_trials
from vla_ros.openvla.session import OpenVLASession, own
from vla_ros.openvla.spec import spec_of
from vla_ros.openvla.stages import Stages
from vla_ros.openvla.token_batch import TokenPredictor
from vla_ros.types import (
    Cancel,
    Observation,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    Progress,
    ProgressCallback,
    Session,
    WarmupTimes,
)

_LOG = logging.getLogger(__name__)
_PROMPTS_KEPT = 64  # those of the robots, and of the instructions before


class OpenVLAPolicy:
    """A model with its processors. Make it with :meth:`from_pretrained`."""

    def __init__(
        self,
        config: OpenVLAConfig,
        model: OpenVLAModel,
        image_processor: ImageProcessor,
        prompt_tokenizer: PromptTokenizer,
        info: PolicyInfo,
        files: WatchedFiles,
        max_batch_size: int = 1,
        repeatable: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        """Put the parts together.

        :param recorder: makes the graphs of the warm-up; None: there are none.
        """
        self.config = config
        self.info = info
        self.max_batch_size = max_batch_size
        self._model = model
        self._image_processor = image_processor
        self._prompt_tokenizer = prompt_tokenizer
        self._files = files
        self._graphs = Graphs(recorder, model.device, model.check_cancelled)
        model.before_layer = self._graphs.before_layer
        self._embedder = ImageEmbedder(model, image_processor, len(config.cameras), self._graphs)
        self._predictor = self._make_predictor(repeatable)
        # An instruction is checked, and then predicted for again and again.
        self._prompt_ids = functools.lru_cache(_PROMPTS_KEPT)(
            lambda instruction: prompt_tokenizer(instruction)[0]
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of images before the released processor."""
        return self._image_processor.preprocessing

    @property
    def _keeps_patches(self) -> bool:
        return self.info.recomputed_patches < 1

    @property
    def parts(self) -> tuple[OpenVLAModel, ImageProcessor, PromptTokenizer]:
        """The model and its processors, for another path through the same weights."""
        return self._model, self._image_processor, self._prompt_tokenizer

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
        repeatable: bool = False,
        weights: Weights | None = None,
        cuda_graphs: bool = True,
        recomputed_patches: float = 1.0,
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
        :param repeatable: whether equal inputs give equal bits in every process of this machine.
        :param weights: used in place of the folder's, which then needs none.
        :param cuda_graphs: whether the warm-up makes CUDA graphs; without effect on other devices.
        :param recomputed_patches: share of an image's patches that are not kept, see kept_patches.
        :raises PlacementError: if it can't run so here, or float32 is not exact in this process.
        :raises CheckpointError: if the checkpoint is not found, is not whole, or changes.
        """
        placement = Placement.choose(device, dtype, quantization, compile)
        directory = resolve_model(str(path_or_repo_id), revision, progress)
        check_folder(directory)
        files = WatchedFiles()
        config = OpenVLAConfig.from_directory(directory, files.remember)
        check_share(recomputed_patches, compile, config)
        processors = load_processors(directory, config, preprocessing, files.remember)
        how = str(placement.device), placement.dtype_name, quantization, compile, recomputed_patches
        info = PolicyInfo(str(path_or_repo_id), revision or '', *how)
        with explained(info, 'loading'):
            weights = weights or Checkpoint(directory, files.remember)
            model = load(weights, config, placement, progress)
        if config.layout is not None and config.layout.doubt:
            _LOG.warning('%s: %s', directory, config.layout.doubt)
        files.check()  # a file that was replaced while it was read gives parts of two files
        recorder = recorder_of(placement.device) if cuda_graphs else None
        return cls(config, model, *processors, info, files, max_batch_size, repeatable, recorder)

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec; the key is optional if there is only one.

        :raises UnnormKeyError: if there are no such statistics.
        """
        spec = spec_of(self.config, unnorm_key)
        # With kept patches an action depends on earlier images, too.
        return replace(spec, deterministic=False) if self._keeps_patches else spec

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Run every shape that can occur, then check that every input affects the action.

        :raises SelfCheckError: if a check fails.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        started = time.monotonic()
        longest = self.config.longest_key
        trials = plan_trials(
            self._prompt_tokenizer,
            self.config,
            self.max_batch_size,
            self.info.compiled,
            self._keeps_patches,
        )
        predictions: dict[str, Prediction] = {}
        seconds = []
        memories: list[PatchMemory] | None = None
        for done, (name, trial) in enumerate(trials.items()):
            if progress is not None:
                progress(Progress(trial.text, done, len(trials)))
            is_last = done == len(trials) - 1
            if is_last:
                self.reset()  # no embedding that was kept makes the last one fast
            if self._keeps_patches and not trial.keeps:
                memories = [PatchMemory() for _ in range(trial.batch_size)]
            trial_started = time.monotonic()
            with self._graphs.making(not is_last):
                predictions[name] = self._attempt(
                    trial.requests(longest, memories), cancel, return_logits=True, trial=True
                )[0]
            seconds.append(time.monotonic() - trial_started)
        check(predictions, self.spec(longest).cameras)
        total_s = time.monotonic() - started
        return WarmupTimes(total_s, seconds[0], seconds[-1], self._graphs.text)

    def close(self) -> None:
        """Free the model. The policy must not be used afterwards."""
        device = self._model.device
        self._graphs.drop()
        del self._model, self._embedder, self._predictor, self._graphs
        gc.collect()  # a model has reference cycles
        empty_cache(device)

    def reset(self) -> None:
        """Forget the images of the last batch."""
        self._embedder.forget()

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
        patches = PatchMemory() if self._keeps_patches else None
        return OpenVLASession(self.spec(key), key, self.config.decodes, patches)

    def predict_action(
        self,
        image: NDArray[np.uint8] | Image.Image | Mapping[str, NDArray[np.uint8] | Image.Image],
        instruction: str,
        unnorm_key: str | None = None,
        cancel: Cancel | None = None,
        return_logits: bool = False,
        draft: NDArray[np.int64] | None = None,
        state: NDArray[np.float64] | None = None,
    ) -> Prediction:
        """Predict one action, or one chunk. Tokens are the most likely of the whole vocabulary.

        :param image: uint8 [H, W, 3] RGB, or an image of PIL in mode RGB; if the policy has
            several cameras, one by the name of each.
        :param instruction: without a template.
        :param unnorm_key: whose statistics scale the action; may be left out if there is one.
        :param cancel: looked at before every layer.
        :param return_logits: also keep the action tokens' logits.
        :param draft: int64 [<=D], a guess at the token ids; see Request.
        :param state: [S], raw; only if the policy takes one.
        :raises TypeError: if the image has another type or dtype, or the instruction is not text.
        :raises ValueError: if the image has another shape, or the draft is none.
        :raises InstructionError: if the instruction can't be used.
        :raises PolicyError: if the image of a camera is missing, or the state is not usable.
        :raises UnnormKeyError: if there are no such statistics.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        check_type(instruction)
        spec = self.spec(unnorm_key)
        if not isinstance(image, Mapping):
            rgb_array(image)
            image = {spec.cameras[0]: image}
        request = Request(
            camera_images(image, spec), instruction, unnorm_key, draft, checked_state(state, spec)
        )
        return self._attempt([request], cancel, return_logits)[0]

    def predict(
        self, batch: Sequence[tuple[Session, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        """Predict one action or chunk for each observation, all in one pass.

        Each is the one that :meth:`predict_action` gives, but for how the dtype rounds: products
        of more rows may be summed in another order. The last valid action of a session is the
        draft of its next one.

        :returns: in the same order; an error where an instruction or a state can't be used, or an
            image is missing.
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
        trial: bool = False,
    ) -> list[Prediction]:
        """Predict; after a lack of memory the policy stays usable.

        :raises PlacementError: if float32 is not exact in this process any more.
        """
        check_float32(self._model.device, self._model.dtype)  # others may have changed it
        self._model.cancel_with(cancel)
        self._model.check_cancelled()
        try:
            with self._model.compiling():
                return self._predict(requests, return_logits, trial)
        except (MemoryError, RuntimeError) as error:
            failure = known_failure(error, self.info, 'an inference')
            if failure is None:
                raise
        # The traceback kept the kv-cache until here.
        empty_cache(self._model.device)
        raise failure

    def _predict(
        self, requests: Sequence[Request], return_logits: bool, trial: bool
    ) -> list[Prediction]:
        keyed = [select_statistics(self.config.norm_stats, one.unnorm_key) for one in requests]
        keys, statistics = zip(*keyed, strict=True)
        stages = Stages(self._model.device, self._predictor.stages)
        with stages('preprocess'):
            prompts = [self._prompt_ids(one.instruction) for one in requests]
        batch = Batch(requests, prompts, keys, statistics)
        predictions = self._predictor.predict(batch, stages, return_logits, trial)
        stages.finish()
        return predictions

    def _make_predictor(self, repeatable: bool) -> Predictor:
        config, graphs = self.config, self._graphs
        layout, parts = config.layout, (self._model, self._prompt_tokenizer, self._embedder)
        if layout is None or layout.decodes:
            costs = BlockCosts(not repeatable)
            share = self.info.recomputed_patches
            return TokenPredictor(config, *parts, costs, graphs, self.max_batch_size, share)
        return ChunkPredictor(config, layout, *parts, graphs)
