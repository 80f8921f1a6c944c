# SPDX-License-Identifier: Apache-2.0
"""The chunks of VLA-Adapter and OpenVLA-OFT: all actions in one pass, without decoding.

Runs in the policy's thread.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.openvla.action_head import BridgeHead
from vla_ros.openvla.batches import Batch, ImageEmbedder, padded, padded_width
from vla_ros.openvla.chunks import bridge_inputs, parallel_hidden
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.graphs import Graphs
from vla_ros.openvla.layout import Layout
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.placement import to_device
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.openvla.stages import Stages
from vla_ros.openvla.token_batch import action_logits, trace, why_no_action, why_not_finite
from vla_ros.types import InvalidReason, Prediction, TokenTrace


class ChunkPredictor:
    """A chunk of the images of all cameras and of the robot's state."""

    stages = ('preprocess', 'vision', 'projector', 'prefill', 'head', 'postprocess')

    def __init__(
        self,
        config: OpenVLAConfig,
        layout: Layout,
        model: OpenVLAModel,
        tokenizer: PromptTokenizer,
        embedder: ImageEmbedder,
        graphs: Graphs,
    ) -> None:
        self._config = config
        self._layout = layout
        self._model = model
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._graphs = graphs

    def predict(
        self, batch: Batch, stages: Stages, return_logits: bool, trial: bool
    ) -> list[Prediction]:
        """Return a prediction for each request; see :class:`.Predictor`."""
        device = self._model.device
        with stages('preprocess'):
            width = padded_width(batch, self._tokenizer)
            pad = self._config.llama.pad_token_id
            input_ids, lengths = padded(batch.prompts, width, device, pad)
            state = self._states(batch)
        image_embeds, shown = self._embedder(batch, stages)
        outputs = self._outputs(input_ids, lengths, image_embeds, state, stages)
        with stages('postprocess'):
            return [
                self._prediction(batch, row, outputs[row], shown[row], stages, return_logits)
                for row in range(len(batch))
            ]

    def _states(self, batch: Batch) -> Tensor | None:
        """Return the normalised states [B, S]; None if the policy takes none.

        :raises ValueError: if a request has none.
        """
        if not self._layout.state_dim:
            return None
        states = []
        for request, statistics in zip(batch.requests, batch.statistics, strict=True):
            if request.state is None or statistics.state is None:
                raise ValueError('the request has no state')
            states.append(statistics.state.normalize(request.state))
        numbers = torch.from_numpy(np.stack(states))
        return to_device(numbers, self._model.device, self._model.dtype)

    def _outputs(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        image_embeds: Tensor,
        state: Tensor | None,
        stages: Stages,
    ) -> Tensor:
        """Return float32 on the CPU: normalised chunks [B, K, D], or logits [B, K * D, vocab].

        The same as :func:`.run_chunk`, in two stages.
        """
        head, run = self._model.action_head, self._graphs.run
        inputs = input_ids, lengths, image_embeds, *(() if state is None else (state,))
        with stages('prefill'):
            hidden = run('prefill', self._hidden, *inputs)
        with stages('head'):
            if isinstance(head, BridgeHead):
                (output,) = run('head', lambda *both: (_bridge(head, both),), *hidden)
            elif head is not None:
                (output,) = run('head', lambda x: (head(x),), *hidden)
            else:
                logits = self._model.language_model.logits
                (output,) = run('head', lambda x: (logits(x),), *hidden)
            return output.float().cpu()

    def _hidden(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        image_embeds: Tensor,
        state: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return what the head reads: for a bridge the task's rows and then the adapter's."""
        model, inputs = self._model, (input_ids, lengths, image_embeds, state)
        if not isinstance(model.action_head, BridgeHead):
            return (parallel_hidden(model, *inputs),)
        task, adapter = bridge_inputs(model, *inputs)
        return *task, *adapter

    def _prediction(
        self,
        batch: Batch,
        row: int,
        output: Tensor,
        shown: tuple[NDArray[np.uint8], ...],
        stages: Stages,
        return_logits: bool,
    ) -> Prediction:
        """Return the prediction of one request.

        :param output: float32 [K, D], or logits [K * D, vocab].
        :param shown: of each camera, what the first vision tower was given.
        """
        invalid, tokens = None, None
        normalized: NDArray[np.float32] | NDArray[np.float64] = output.numpy()
        if self._layout.emits_tokens:
            normalized, tokens, invalid = self._decoded(output, return_logits)
        return Prediction(
            actions=batch.statistics[row].unnormalize(normalized),
            unnorm_key=batch.keys[row],
            normalized_actions=normalized.astype(np.float64),
            invalid=invalid,
            model_images=dict(zip(self._layout.cameras, shown, strict=True)),
            tokens=tokens,
            timings=stages.seconds,
        )

    def _decoded(
        self, logits: Tensor, return_logits: bool
    ) -> tuple[NDArray[np.float64], TokenTrace, InvalidReason | None]:
        """Return the values of the most likely tokens, float64 [K, D], with the tokens.

        :param logits: float32 [K * D, vocab].
        """
        tokenizer, layout = self._config.action_tokenizer, self._layout
        token_ids: NDArray[np.int64] = logits.argmax(dim=1).numpy()
        of_actions = action_logits(logits, tokenizer)
        values = tokenizer.decode(token_ids).reshape(layout.horizon, layout.action_dim)
        tokens = trace(token_ids, of_actions, tokenizer, len(token_ids), return_logits)
        return values, tokens, why_not_finite(of_actions) or why_no_action(token_ids, tokenizer)


def _bridge(head: BridgeHead, hidden: tuple[Tensor, ...]) -> Tensor:
    """Return the output of a bridge for the task's rows and the adapter's, layer by layer."""
    layers = len(hidden) // 2
    return head(hidden[:layers], hidden[layers:])
