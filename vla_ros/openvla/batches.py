# SPDX-License-Identifier: Apache-2.0
"""What a batch of requests has in common, however its actions are made.

Runs in the policy's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.openvla.chunks import embed_images, mean_embedding
from vla_ros.openvla.embedding_cache import EmbeddingCache
from vla_ros.openvla.graphs import Graphs
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.normalization import ActionStatistics
from vla_ros.openvla.placement import to_device
from vla_ros.openvla.processor import ImageProcessor, PromptTokenizer
from vla_ros.openvla.request import Request
from vla_ros.openvla.stages import Stages
from vla_ros.types import Prediction


@dataclass(frozen=True)
class Batch:
    """Requests with what they need.

    :param requests: B.
    :param prompts: of each its input ids, int64 [T].
    :param keys: of each its unnorm_key.
    :param statistics: of each those of its key.
    """

    requests: Sequence[Request]
    prompts: Sequence[Tensor]
    keys: Sequence[str]
    statistics: Sequence[ActionStatistics]

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Number of tokens of each prompt, int64 [B]."""
        return np.array([len(prompt) for prompt in self.prompts])


class Predictor(Protocol):
    """One way from a batch to predictions."""

    @property
    def stages(self) -> Sequence[str]:
        """The names of its stages."""

    def predict(
        self, batch: Batch, stages: Stages, return_logits: bool, trial: bool
    ) -> list[Prediction]:
        """Return a prediction for each request.

        :param return_logits: whether predictions keep the logits of their tokens.
        :param trial: whether it is an inference of the warm-up: drafts run in blocks whatever that
            costs, and the passes depend on the drafts' lengths only.
        """


class ImageEmbedder:
    """Images to embeddings of the language model, each identical image once."""

    def __init__(
        self, model: OpenVLAModel, processor: ImageProcessor, cameras: int, graphs: Graphs
    ) -> None:
        self._model = model
        self._processor = processor
        self._cameras = cameras
        self._graphs = graphs
        self._cache = EmbeddingCache()

    def forget(self) -> None:
        """Forget the images of the last batch."""
        self._cache = EmbeddingCache()

    def __call__(
        self, batch: Batch, stages: Stages
    ) -> tuple[Tensor, list[tuple[NDArray[np.uint8], ...]]]:
        """Return the embeddings of a batch, and what the first tower was given.

        :returns: [B, N, hidden], those of all cameras in their order; for each request an image
            of each camera.
        """
        images = [image for request in batch.requests for image in request.images]
        words = None
        if self._model.vision_backbone.has_film:
            words = [one.instruction for one in batch.requests for _ in one.images]
        embeds, shown = self._cache.get(
            images, lambda new: self._embed(batch, images, new, stages), words
        )
        per_request = embeds.unflatten(0, (len(batch), -1)).flatten(1, 2)
        count = self._cameras
        return per_request, [
            tuple(shown[row * count : (row + 1) * count]) for row in range(len(batch))
        ]

    def _embed(
        self, batch: Batch, images: Sequence[NDArray[np.uint8]], new: list[int], stages: Stages
    ) -> tuple[Tensor, list[NDArray[np.uint8]]]:
        """Return the embeddings of the new images, and what the first tower was given.

        :param images: of all requests, those of one after those of the other.
        """
        model, processor = self._model, self._processor
        with stages('preprocess'):
            model_images = [processor.model_images(images[number]) for number in new]
            pixel_values = torch.cat([processor.pixel_values(each) for each in model_images])
            # So that a graph is there: the warm-up has whole requests.
            if model.is_compiled or self._graphs.wanted:
                pixel_values = _repeated(pixel_values, -len(new) % self._cameras)
            pixel_values = to_device(pixel_values, model.device, model.dtype)
        run = self._graphs.run
        if not model.vision_backbone.has_film:
            with stages('vision'):
                (features,) = run('vision', lambda x: (model.vision_backbone(x),), pixel_values)
            with stages('projector'):
                (embeds,) = run('projector', lambda x: (model.projector(x),), features)
            return embeds[: len(new)], [each[0] for each in model_images]
        with stages('vision'):
            rows = [number // self._cameras for number in new]
            input_ids, lengths = padded([batch.prompts[row] for row in rows], 0, model.device)
            instructions = mean_embedding(model, input_ids, lengths)
            instructions = _repeated(instructions, len(pixel_values) - len(new))
            (embeds,) = run(
                'vision', lambda *both: (embed_images(model, *both),), pixel_values, instructions
            )
        return embeds[: len(new)], [each[0] for each in model_images]


def padded(
    prompts: Sequence[Tensor], width: int, device: torch.device, pad: int = 0
) -> tuple[Tensor, Tensor]:
    """Return prompts, padded on the CPU so that the device has few shapes.

    :param prompts: int64 [T] each.
    :param width: at least; the longest prompt's if that is more.
    :returns: on the device, int64 [B, width], and int64 [B], their tokens.
    """
    tokens = torch.tensor([len(prompt) for prompt in prompts])
    input_ids = torch.full((len(prompts), max(width, int(tokens.max()))), pad)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = prompt
    return to_device(input_ids, device), to_device(tokens, device)


def padded_width(batch: Batch, tokenizer: PromptTokenizer) -> int:
    """Return the length to which the prompts of a batch are padded."""
    return tokenizer.padded_length(int(batch.tokens.max()))


def _repeated(x: Tensor, more: int) -> Tensor:
    """Return ``x`` with its last row repeated ``more`` times."""
    return torch.cat([x, x[-1:].expand(more, *x.shape[1:])]) if more else x
