# SPDX-License-Identifier: Apache-2.0
"""The network: vision backbone, projector, language model, and what makes chunks.

Runs in the policy's thread. Independent of prompts, actions and ROS; :mod:`.loading` makes one of a
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vla_ros.openvla.action_head import BridgeHead, L1Head, StateProjector
from vla_ros.openvla.codes import CodeDecoder
from vla_ros.openvla.config import LlamaConfig, OpenVLAConfig
from vla_ros.openvla.language import Llama
from vla_ros.openvla.layout import Layout
from vla_ros.openvla.vision import Projector, VisionBackbone
from vla_ros.types import Cancel, InferenceCancelled

# Graphs of one kind of layer in one process: one for each prompt length, batch size, dtype and
# loaded model. torch's own limits, 8 and 256, are for shapes that vary without end.
_MOST_GRAPHS = 4096

ACTION_QUERIES = 64  # of VLA-Adapter, for a chunk of any size


class OpenVLAModel(nn.Module):
    """The network, of the parts that the config names.

    Its parameters have the checkpoint's names, except LayerScale's (:func:`stored_key`). What
    makes chunks is in :mod:`.chunks`.
    """

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        layout, hidden_size = config.layout, config.llama.hidden_size
        self.layout = layout
        self.vision_backbone = VisionBackbone(
            config.towers, hidden_size if layout is not None and layout.film else None
        )
        self.projector = Projector(
            self.vision_backbone.embed_dim, hidden_size, fused=len(config.towers) == 2
        )
        self.action_head = None if layout is None else _action_head(layout, config.llama)
        self.language_model = Llama(config.llama, has_logits=self.action_head is None)
        self.state_projector = (
            StateProjector(layout.state_dim, hidden_size)
            if layout is not None and layout.state_dim
            else None
        )
        self.action_queries = (
            nn.Embedding(ACTION_QUERIES, hidden_size)
            if layout is not None and layout.is_bridge
            else None
        )
        self.code_decoder = _code_decoder(config)
        # Called before every layer of an inference that is not cancelled.
        self.before_layer: Callable[[], None] | None = None
        self._cancel: Cancel | None = None
        self._is_compiled = False

    @property
    def device(self) -> torch.device:
        return self.language_model.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.model.embed_tokens.weight.dtype

    @property
    def is_compiled(self) -> bool:
        return self._is_compiled

    def embed(self, input_ids: Tensor, image_embeds: Tensor) -> Tensor:
        """Return the model's input: the first token (BOS), the patches, all other tokens.

        :param input_ids: int64 [B, T].
        :param image_embeds: [B, N, hidden].
        :returns: [B, T + N, hidden].
        """
        text = self.language_model.model.embed_tokens(input_ids)  # [B, T, hidden]
        return torch.cat([text[:, :1], image_embeds, text[:, 1:]], dim=1)

    def cancel_with(self, cancel: Cancel | None) -> None:
        """Stop before the next layer once ``cancel`` is set, in this and in later inferences."""
        self._cancel = cancel

    def check_cancelled(self) -> None:
        """Raise InferenceCancelled if ``cancel`` is set."""
        if self._cancel is not None and self._cancel.is_set():
            raise InferenceCancelled

    def _before_layer(self, *_: object) -> None:
        self.check_cancelled()
        if self.before_layer is not None:
            self.before_layer()

    def watch_layers(self) -> None:
        """Check for cancellation before every layer."""
        for layer in [*self._layers(), *self._head_blocks()]:
            layer.register_forward_pre_hook(self._before_layer)

    def compile_layers(self) -> None:
        """Compile each layer when it first runs with a shape; equal layers share one graph.

        Hooks run outside the graphs, so that compiled layers can be cancelled, too.
        """
        for layer in [*self._layers(), *self._head_blocks()]:
            layer.forward = torch.compile(layer.forward, fullgraph=True, dynamic=False)
        self._is_compiled = True

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Raise torch's limits of graphs within the block, if the model is compiled.

        Called by the thread that infers. The limits are a setting of each thread, so other models
        keep theirs.
        """
        if not self._is_compiled:
            yield
            return
        with torch._dynamo.config.patch(
            recompile_limit=_MOST_GRAPHS, accumulated_recompile_limit=_MOST_GRAPHS
        ):
            yield

    def stored_names(self) -> dict[str, str]:
        """Return the name of every tensor here, by its name in the checkpoint."""
        return {stored_key(key): key for key in self.state_dict()}

    def exact_names(self) -> set[str]:
        """Return the names of the tensors here that stay on the CPU in float32."""
        return {key for key in self.state_dict() if key.startswith('code_decoder.')}

    def unused_names(self) -> set[str]:
        """Return the checkpoint's names of tensors that never run here: logits, beside a head."""
        return set() if self.action_head is None else {'language_model.lm_head.weight'}

    def language_linears(self) -> dict[str, nn.Linear]:
        """Return the language model's linear layers by name, except its head."""
        return _linears(self.language_model.model, 'language_model.model')

    def head_linears(self) -> dict[str, nn.Linear]:
        """Return the linear layers of the blocks of VLA-Adapter's head by name.

        They are a seventh of its weights. Those of the other head are few.
        """
        if not isinstance(self.action_head, BridgeHead):
            return {}
        return _linears(self.action_head.mlp_resnet_blocks, 'action_head.mlp_resnet_blocks')

    def vision_linears(self) -> dict[str, nn.Linear]:
        """Return the linear layers of vision backbone and projector by name."""
        return _linears(self.vision_backbone, 'vision_backbone') | _linears(
            self.projector, 'projector'
        )

    def _layers(self) -> Iterator[nn.Module]:
        yield from self.vision_backbone.blocks()
        yield from self.language_model.model.layers

    def _head_blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks of the action head, if it has some."""
        if self.action_head is not None:
            yield from self.action_head.mlp_resnet_blocks


def _action_head(layout: Layout, language: LlamaConfig) -> L1Head | BridgeHead | None:
    """Return the head that the layout names; None if tokens make the chunk."""
    if layout.emits_tokens:
        return None
    if layout.action_head == 'l1':
        return L1Head(language.hidden_size, layout.action_dim)
    return BridgeHead(
        language.hidden_size,
        layout.action_dim,
        layout.horizon,
        language.num_hidden_layers,
        pro=layout.action_head == 'bridge_pro',
    )


def _code_decoder(config: OpenVLAConfig) -> CodeDecoder | None:
    layout = config.layout
    if layout is None or layout.codes is None:
        return None
    size = config.action_tokenizer.n_action_bins
    return CodeDecoder(layout.codes, size, layout.horizon, layout.action_dim)


def stored_key(key: str) -> str:
    """Return the checkpoint's name of a parameter.

    LayerScale's ``gamma`` has a different name, because old versions of transformers replaced that
    word in keys.
    """
    for branch in ('ls1', 'ls2'):
        if key.endswith(f'.{branch}.gamma'):
            return key.removesuffix('gamma') + 'scale_factor'
    return key


def _linears(module: nn.Module, prefix: str) -> dict[str, nn.Linear]:
    return {
        name: one for name, one in module.named_modules(prefix=prefix) if type(one) is nn.Linear
    }
