"""What is minimised: the cross entropy of the expert's action tokens, for every instruction.

The picture comes before the words, so what the language model makes of it is the same for all
instructions: it goes through the layers once, and the words and actions of each instruction follow
it, by the very layers and in the very order of an inference whose draft is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.language import rotary_tables
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.normalization import ActionStatistics
from vla_ros.openvla.processor import load_processors


class Imitator(nn.Module):
    """The model that learns, and the words of its instructions.

    ``idle`` are the parameters that a checkpoint has and that never run.

    :param directory: a checkpoint in the released layout; its weights don't count.
    """

    def __init__(self, directory: Path, instructions: Sequence[str]) -> None:
        super().__init__()
        config = OpenVLAConfig.from_directory(directory)
        self.model = OpenVLAModel(config)
        self.tokenizer = config.action_tokenizer
        [self.statistics] = config.norm_stats.values()
        image_processor, prompts = load_processors(directory, config)
        black, white = (
            image_processor(np.full((224, 224, 3), level, np.uint8))[..., :1, :1]
            for level in (0, 255)
        )  # [1, 6, 1, 1]
        self._black, self._per_level = black, (white - black) / 255
        self.prompts = torch.cat([prompts(text) for text in instructions])  # [I, T]
        first, last = self.tokenizer.first_id, self.tokenizer.vocab_size
        _initialize(self.model, torch.cat([self.prompts.unique(), torch.arange(first, last)]))
        complete = dict(self.model.state_dict())
        self.model.vision_backbone.prune()
        used = self.model.state_dict()
        self.idle = {name: value for name, value in complete.items() if name not in used}
        # All rows of the head but the action tokens' stay zero, and so do their logits.
        other_rows = config.llama.vocab_size - self.tokenizer.n_action_bins
        self._other_logits = math.log(other_rows)

    def loss(self, images: NDArray[np.uint8], actions: NDArray[np.float32], blur: float) -> Tensor:
        """
        :param images: uint8 [B, 224, 224, 3].
        :param actions: float32 [B, I, 7], the expert's.
        :param blur: bins; how far from the right bin a token is still partly right.
        :returns: the mean over all tokens, in nats over the best that this blur allows.
        """
        token_ids, values = tokenize(actions, self.statistics, self.tokenizer.vocab_size)
        logits = self.logits(self.pixel_values(images), torch.from_numpy(token_ids))
        targets = _blurred(torch.from_numpy(values), self.tokenizer.bin_centers, blur)
        logits = torch.cat([logits, torch.full_like(logits[..., :1], self._other_logits)], dim=-1)
        likelihood = logits.log_softmax(dim=-1)[..., 1:-1].flip(-1)  # rising values
        return (targets * (targets.clamp(min=1e-9).log() - likelihood)).sum(-1).mean()

    @torch.no_grad()
    def errors(
        self, images: NDArray[np.uint8], actions: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Mean distance of the likeliest value from the expert's, given those before it.

        :param images: uint8 [B, 224, 224, 3].
        :param actions: float32 [B, I, 7].
        :returns: float64 [7], in the units of the actions.
        """
        tokenizer, far = self.tokenizer, []
        for start in range(0, len(images), 50):
            some = slice(start, start + 50)
            token_ids, _ = tokenize(actions[some], self.statistics, tokenizer.vocab_size)
            logits = self.logits(self.pixel_values(images[some]), torch.from_numpy(token_ids))
            chosen = tokenizer.decode(tokenizer.first_id + logits.argmax(-1).numpy())
            far.append(np.abs(self.statistics.unnormalize(chosen) - actions[some]))
        return np.concatenate(far).mean(axis=(0, 1))

    def logits(self, pixel_values: Tensor, token_ids: Tensor) -> Tensor:
        """Of each action token, given the ones before it.

        :param pixel_values: float32 [B, 6, 224, 224].
        :param token_ids: int64 [B, I, 7].
        :returns: float32 [B, I, 7, n_action_bins], by rising token id.
        """
        language, prompts = self.model.language_model, self.prompts
        batch_size, instructions, dim = token_ids.shape
        words = torch.cat([prompts.expand(batch_size, -1, -1), token_ids[..., :-1]], dim=2).flatten(
            0, 1
        )  # [B I, T + 6]
        image_embeds = self.model.projector(self.model.vision_backbone(pixel_values))
        shown = self.model.embed(words[::instructions, :1], image_embeds)  # [B, 1 + N, hidden]
        said = language.model.embed_tokens(words[:, 1:])  # [B I, T + 5, hidden]
        start, end = shown.shape[1], shown.shape[1] + said.shape[1]
        positions = torch.arange(start, end).expand(len(said), -1)
        config = language.config
        rotary = rotary_tables(config, end, shown.device)[:, None, None]
        heads = (config.num_key_value_heads, end, config.head_dim)
        for layer in language.model.layers:
            kv_cache = shown.new_zeros((2, batch_size, *heads))
            shown = layer(shown, rotary[..., :start, :], kv_cache, None)
            kv_cache = kv_cache.repeat_interleave(instructions, dim=1)
            said = layer(said, rotary[..., start:, :], kv_cache, positions)
        hidden = language.model.norm(said[:, -dim:])
        first = self.tokenizer.first_id
        head = language.lm_head.weight[first : self.tokenizer.vocab_size]
        return (hidden @ head.T).unflatten(0, (batch_size, instructions))

    def pixel_values(self, images: NDArray[np.uint8]) -> Tensor:
        """As the processor makes them of pictures that have the towers' size: linear in the levels.

        :param images: uint8 [B, 224, 224, 3].
        :returns: float32 [B, 6, 224, 224].
        """
        levels = torch.from_numpy(images).permute(0, 3, 1, 2)  # [B, 3, 224, 224]
        return torch.addcmul(self._black, levels.repeat(1, 2, 1, 1).float(), self._per_level)


def tokenize(
    actions: NDArray[np.float32], statistics: ActionStatistics, vocab_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The inverse of decoding.

    As OpenVLA's ActionTokenizer has it in training, but that the highest of all values does not
    have a token of its own: it would stand for the same value as the one next to it.

    :param actions: float32 [..., D].
    :returns: token ids int64 [..., D], and normalised values float64 [..., D] in [-1, 1].
    """
    q01, q99, mask = statistics.q01, statistics.q99, statistics.mask
    values = np.where(mask, 2 * (actions - q01) / (q99 - q01) - 1, actions).clip(-1, 1)
    bins = np.digitize(values, np.linspace(-1, 1, 256)).clip(max=255)
    return vocab_size - bins, values


def _blurred(values: Tensor, bin_centers: NDArray[np.float64], blur: float) -> Tensor:
    """A normal distribution over the bins, about the value.

    :returns: float32 [..., bins], each adding up to 1.
    """
    width = bin_centers[1] - bin_centers[0]
    distance = (values[..., None] - torch.from_numpy(bin_centers)) / (blur * width)
    return (-0.5 * distance.square()).softmax(dim=-1).float()


def _initialize(model: OpenVLAModel, used_tokens: Tensor) -> None:
    """Weights to begin with; of the vocabulary only the rows of tokens that occur are not zero."""
    for name, parameter in model.named_parameters():
        if name.endswith(('embed_tokens.weight', 'lm_head.weight')):
            rows = torch.zeros_like(parameter)
            rows[used_tokens] = torch.randn(len(used_tokens), rows.shape[1]) * 0.1
            parameter.data = rows
        elif name.endswith('_embed') or name.endswith('_token'):
            nn.init.normal_(parameter, std=0.1)
