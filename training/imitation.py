# SPDX-License-Identifier: Apache-2.0
"""The loss: the cross entropy of the expert's action tokens, for every instruction.

The image comes before the words, so the keys and values of its patches are the same for all
instructions: the image goes through the layers once, and the words and actions of each instruction
follow. The forward is the one of inference, as for a prompt whose draft is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from training.frames import PLACES
from vla_ros.openvla.action_tokenizer import ActionTokenizer
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.language import KVCache
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.normalization import ActionStatistics
from vla_ros.openvla.processor import load_processors

_PLACE_QUERIES = 8
_GRIPPER_BLUR = 0.1  # bins
_NEAR_BINS, _ANYTHING = 3.0, 0.1
_ROW_SIGMA = 0.1
_VOCABULARY = ('language_model.model.embed_tokens.weight', 'language_model.lm_head.weight')


class Imitator(nn.Module):
    """The model in training, and the prompts of its instructions.

    :param directory: a checkpoint in the released layout; its weights are not used.
    """

    def __init__(self, directory: Path, instructions: Sequence[str]) -> None:
        super().__init__()
        config = OpenVLAConfig.from_directory(directory)
        self.tokenizer = config.action_tokenizer
        [self.statistics] = config.norm_stats.values()
        image_processor, prompts = load_processors(directory, config)
        black, white = (
            image_processor(np.full((224, 224, 3), level, np.uint8))[..., :1, :1]
            for level in (0, 255)
        )  # [1, 6, 1, 1]
        self._black, self._per_level = black, (white - black) / 255
        self._prompts = torch.cat([prompts(text) for text in instructions])  # [I, T]

        self.model = OpenVLAModel(config)
        for name, parameter in self.model.named_parameters():
            if name.endswith(('_embed', '_token')):
                nn.init.normal_(parameter, std=_ROW_SIGMA)
        self._complete = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.vision_backbone.prune()
        # The rows of the vocabulary that prompts and actions need; all others are zero.
        first, end = self.tokenizer.first_id, self.tokenizer.vocab_size
        hidden = config.llama.hidden_size
        self._used = torch.cat([self._prompts.unique(), torch.arange(first, end)])
        self._row_of = torch.zeros(config.llama.vocab_size, dtype=torch.int64)
        self._row_of[self._used] = torch.arange(len(self._used))
        self.embed_rows = nn.Parameter(_ROW_SIGMA * torch.randn(len(self._used), hidden))
        self.head_rows = nn.Parameter(_ROW_SIGMA * torch.randn(end - first, hidden))
        for name in _VOCABULARY:
            self.model.get_parameter(name).requires_grad_(False)
        # The share of the head's zero rows, whose logits are zero, in the sum of exponentials.
        self._other_logits = math.log(config.llama.vocab_size - (end - first))
        self.places = PlaceHead(hidden, PLACES)

    def learning(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name: all but the vocabulary's unused rows."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all weights of a checkpoint; those that never run have their initial values.

        :param state: the trained parameters, current or averaged.
        """
        weights = dict(self._complete)
        prefix = 'model.'
        weights |= {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        rows, head = (torch.zeros_like(self._complete[name]) for name in _VOCABULARY)
        rows[self._used] = state['embed_rows']
        head[self.tokenizer.first_id : self.tokenizer.vocab_size] = state['head_rows']
        return weights | dict(zip(_VOCABULARY, (rows, head), strict=True))

    def loss(
        self,
        images: NDArray[np.uint8],
        actions: NDArray[np.float32],
        places: NDArray[np.float32],
        blur: float,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of the action tokens, and the loss of the places.

        :param images: uint8 [B, 224, 224, 3].
        :param actions: float32 [B, I, 7], the expert's.
        :param places: float32 [B, PLACES].
        :param blur: width of the target distribution over the bins [bins].
        :param dtype: that the whole model computes in, as in the node; its weights keep theirs.
        :returns: the mean over all action tokens, in nats above the minimum for this blur; and the
            distance of the places from those that are predicted from the image.
        """
        token_ids, values = tokenize(actions, self.statistics, self.tokenizer)
        parameters = {name: value.to(dtype) for name, value in self.learning().items()}
        spoken = self._misspoken(torch.from_numpy(token_ids))
        logits, shown = functional_call(
            self, parameters, (self.pixel_values(images).to(dtype), spoken)
        )
        targets = _blurred(torch.from_numpy(values), self.tokenizer.bin_centers, blur)
        logits = torch.cat([logits, torch.full_like(logits[..., :1], self._other_logits)], dim=-1)
        likelihood = logits.log_softmax(dim=-1)[..., 1:-1].flip(-1)  # rising values
        loss = (targets * (targets.clamp(min=1e-9).log() - likelihood)).sum(-1).mean()
        seen = self.places(shown.float())
        return loss, F.smooth_l1_loss(seen, torch.from_numpy(places))

    def _misspoken(self, token_ids: Tensor) -> Tensor:
        """Return the tokens that the model gets as its own: near the right ones, or random ones.

        Otherwise the model learns to close the gripper by the exact tokens of a motion and not by
        the image, and a neighbouring token, which a rounding may choose, opens it.
        """
        first, last = self.tokenizer.first_id + 1, self.tokenizer.vocab_size - 1
        near = token_ids + (_NEAR_BINS * torch.randn(token_ids.shape)).round().long()
        anything = torch.randint(first, last + 1, token_ids.shape)
        return torch.where(torch.rand(token_ids.shape) < _ANYTHING, anything, near).clamp(
            first, last
        )

    @torch.no_grad()
    def errors(
        self, images: NDArray[np.uint8], actions: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the mean distance of the most likely values from the expert's.

        Each value is predicted from the expert's values before it.

        :param images: uint8 [B, 224, 224, 3].
        :param actions: float32 [B, I, 7].
        :returns: float64 [7], in the units of the actions.
        """
        tokenizer, far = self.tokenizer, []
        for start in range(0, len(images), 50):
            some = slice(start, start + 50)
            token_ids, _ = tokenize(actions[some], self.statistics, tokenizer)
            logits = self.logits(
                self.pixel_values(np.array(images[some])), torch.from_numpy(token_ids)
            )
            chosen = tokenizer.decode(tokenizer.first_id + logits.argmax(-1).numpy())
            far.append(np.abs(self.statistics.unnormalize(chosen) - actions[some]))
        return np.concatenate(far).mean(axis=(0, 1))

    def logits(self, pixel_values: Tensor, token_ids: Tensor) -> Tensor:
        """Return the logits of each action token, given the ones before it.

        :param pixel_values: float32 [B, 6, 224, 224].
        :param token_ids: int64 [B, I, 7].
        :returns: float32 [B, I, 7, n_action_bins], by rising token id.
        """
        logits: Tensor = self(pixel_values, token_ids)[0]
        return logits

    def forward(self, pixel_values: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the last layer's output for BOS and image: [B, 1 + N, hidden]."""
        language = self.model.language_model
        batch_size, instructions, dim = token_ids.shape
        prompts = self._prompts.expand(batch_size, -1, -1)
        words = torch.cat([prompts, token_ids[..., :-1]], dim=2).flatten(0, 1)  # [B I, T + 6]
        text = F.embedding(self._row_of[words], self.embed_rows)
        image_embeds = self.model.projector(self.model.vision_backbone(pixel_values))
        shown = torch.cat([text[::instructions, :1], image_embeds], dim=1)  # [B, 1 + N, hidden]
        said = text[:, 1:]  # [B I, T + 5, hidden]
        start, end = shown.shape[1], shown.shape[1] + said.shape[1]
        positions = torch.arange(start, end).expand(len(said), -1)
        cache = KVCache.empty(language.config, shown, end)
        shown = language(shown, None, cache)
        said = language(said, positions, cache.repeated(instructions))
        hidden = language.model.norm(said[:, -dim:])
        logits = (hidden @ self.head_rows.T).float()
        return logits.unflatten(0, (batch_size, instructions)), shown

    def pixel_values(self, images: NDArray[np.uint8]) -> Tensor:
        """Return the processor's pixel values for images of the towers' size: linear in the levels.

        :param images: uint8 [B, 224, 224, 3].
        :returns: float32 [B, 6, 224, 224].
        """
        levels = torch.from_numpy(images).permute(0, 3, 1, 2)  # [B, 3, 224, 224]
        return torch.addcmul(self._black, levels.repeat(1, 2, 1, 1).float(), self._per_level)


class PlaceHead(nn.Module):
    """Predicts from an image's embeddings where tool and blocks are.

    A second task, which makes the towers find them earlier. It is not part of the checkpoint.

    :param places: number of values to predict.
    """

    def __init__(self, hidden_size: int, places: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.attention = nn.Linear(hidden_size, _PLACE_QUERIES)
        self.head = nn.Sequential(
            nn.Linear(_PLACE_QUERIES * hidden_size, 128), nn.GELU(), nn.Linear(128, places)
        )

    def forward(self, shown: Tensor) -> Tensor:
        """Predict the places: [B, N, hidden] to [B, places]."""
        shown = self.norm(shown)
        weights = self.attention(shown).softmax(dim=1)  # [B, N, queries]
        return self.head((weights.transpose(1, 2) @ shown).flatten(1))


def tokenize(
    actions: NDArray[np.float32], statistics: ActionStatistics, tokenizer: ActionTokenizer
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the tokens of actions, and their normalised values: the inverse of decoding.

    :param actions: float32 [..., D].
    :returns: token ids int64 [..., D], and normalised values float64 [..., D] in [-1, 1].
    """
    low, high, mask = statistics.low, statistics.high, statistics.mask
    values = np.where(mask, 2 * (actions - low) / (high - low) - 1, actions).clip(-1, 1)
    return tokenizer.encode(values), values


def _blurred(values: Tensor, bin_centers: NDArray[np.float64], blur: float) -> Tensor:
    """Return a normal distribution over the bins around each value, equally high everywhere.

    At an end of the scale half of it is cut off: it is twice as wide there, not twice as high.
    Otherwise an action at the limit is chosen when it is half as likely as another one. For the
    gripper, the last value, it is a single bin: open or closed.

    :param values: float64 [..., D].
    :returns: float32 [..., D, bins], each adding up to 1.
    """
    width = bin_centers[1] - bin_centers[0]
    sigma = torch.full_like(values, blur * width)
    sigma[values.abs() > 1 - width] *= 2
    sigma[..., -1] = _GRIPPER_BLUR * width
    distance = (values[..., None] - torch.from_numpy(bin_centers)) / sigma[..., None]
    return (-0.5 * distance.square()).softmax(dim=-1).float()
