# SPDX-License-Identifier: Apache-2.0
"""VLA-Adapter and OpenVLA-OFT against their references' outputs, case by case."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.family import write_family
from support.family_golden import CASES, COMMITTED, OFT_CASE, PRO_CASE, SHARED, Case
from support.mistakes import mask_forgotten
from vla_ros.openvla import (
    CheckpointError,
    OpenVLAPolicy,
    action_head,
    chunks,
    config,
    normalization,
)
from vla_ros.openvla.action_head import BridgeHead, L1Head, StateProjector, _BridgeBlock, _L1Block
from vla_ros.openvla.language import Llama
from vla_ros.openvla.layout import Layout
from vla_ros.openvla.normalization import ActionStatistics, Statistics, read_norm_stats
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.openvla.vision import FilmBlock

LAYERS = (1, 12, 24)  # hidden states that the goldens of VLA-Adapter have


def test_all_cases_are_there() -> None:
    assert len(COMMITTED) == 4
    if SHARED.is_dir():
        assert len(CASES) == 4 + 12 + 6


@pytest.mark.parametrize('name', CASES)
def test_prompt_and_input_ids(name: str) -> None:
    case = CASES[name]
    tokenizer = case.policy()._prompt_tokenizer
    assert tokenizer.prompt(case.instruction()) == case.facts['prompt']
    ends = [] if case.layout.prompt == 'qwen' else [29871]
    assert tokenizer(case.instruction())[0].tolist() == case.facts['input_ids'] + ends


@pytest.mark.parametrize(
    'name', [name for name, case in CASES.items() if not case.layout.is_bridge]
)
def test_pixel_values_are_exact(name: str) -> None:
    case = CASES[name]
    pixels = case.inputs(case.policy())[3].numpy()
    if 'pixel_values_0_sha256' in case.facts:
        digest = hashlib.sha256(np.ascontiguousarray(pixels[0]).tobytes()).hexdigest()
        assert digest == case.facts['pixel_values_0_sha256']
    for index, own in enumerate(pixels):
        if case.has(f'pixel_values_{index}'):
            np.testing.assert_array_equal(own, case.array(f'pixel_values_{index}'))


@pytest.mark.parametrize('name', CASES)
@torch.inference_mode()
def test_hidden_states(name: str) -> None:
    case = CASES[name]
    policy = case.policy()
    prompt, lengths, state, pixels = case.inputs(policy)
    if state is not None:
        expected = case.facts['proprio_normalized']
        np.testing.assert_array_equal(state[0].numpy(), np.array(expected, np.float32))
    film = None
    if case.layout.film:
        film = chunks.mean_embedding(policy._model, prompt, lengths).expand(len(pixels), -1)
    embeds = chunks.embed_images(policy._model, pixels, film).flatten(0, 1)[None]
    if case.has('projected'):
        close(embeds[0], case.array('projected'), max(2e-5, case.tolerance))
    inputs = policy._model, prompt, lengths, embeds, state
    if not case.layout.is_bridge:
        close(chunks.parallel_hidden(*inputs)[0], case.array('actions_hidden'), case.tolerance)
        return
    task, adapter = chunks.bridge_inputs(*inputs)
    queries = torch.stack([adapter[layer - 1][0, :64] for layer in LAYERS])
    close(queries, case.array('action_hidden_layer1_12_24'), case.tolerance)
    if case.has('h_t_layer1_12_24'):
        seen = torch.stack([task[layer - 1][0] for layer in LAYERS])
        close(seen, case.array('h_t_layer1_12_24'), case.tolerance)


def close(own: Tensor, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(own.numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', CASES)
def test_actions(name: str) -> None:
    case = CASES[name]
    prediction = case.predict()
    assert error(case) <= case.tolerance
    assert prediction.actions.shape == (case.layout.horizon, case.layout.action_dim)
    assert list(prediction.model_images) == list(case.layout.cameras)
    assert prediction.unnorm_key == case.facts['unnorm_key']
    if case.layout.emits_tokens:
        assert prediction.tokens.ids.tolist() == case.facts['tokens']
        np.testing.assert_array_equal(prediction.actions, case.array('actions'))
    else:
        assert prediction.tokens is None
    if case.has('normalized_actions'):
        expected = case.array('normalized_actions')
        np.testing.assert_allclose(prediction.normalized_actions, expected, rtol=0, atol=1e-5)
        # The reference's own values give its own actions, bit for bit.
        statistics = case.policy().config.norm_stats[case.facts['unnorm_key']]
        np.testing.assert_array_equal(statistics.unnormalize(expected), case.array('actions'))


def error(case: Case) -> float:
    """The worst difference of an action from the reference's."""
    return float(np.abs(case.predict().actions - case.array('actions')).max())


def test_without_pro_all_rows_are_equal(caplog: pytest.LogCaptureFixture) -> None:
    plain = [case for case in CASES.values() if case.layout.action_head == 'bridge']
    if not plain:
        pytest.skip('the golden values of the plain head are not beside the repository')
    with caplog.at_level(logging.WARNING):
        policy = OpenVLAPolicy.from_pretrained(plain[0].folder(), device='cpu')
    assert 'all 8 are equal; take a Pro checkpoint' in caplog.text
    actions = plain[0].predict(policy).actions
    assert (actions == actions[0]).all()
    assert not (PRO_CASE.predict().actions == PRO_CASE.predict().action).all()


@pytest.mark.parametrize('cameras', [('image',), ('image', 'wrist_image', 'third')])
def test_a_vla_adapter_with_another_number_of_cameras_is_refused(
    cameras: tuple[str, ...], tmp_path: Path
) -> None:
    """The goldens ``quirk_one_image`` and ``quirk_three_images`` are what nobody should run."""
    folder = PRO_CASE.folder()
    copied = tmp_path / 'copy'
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).symlink_to(path)
    layout = json.loads((folder / 'vla_ros.json').read_text())
    (copied / 'vla_ros.json').unlink()
    (copied / 'vla_ros.json').write_text(json.dumps(layout | {'cameras': cameras}))
    with pytest.raises(CheckpointError, match='2 cameras with action_head bridge_pro'):
        OpenVLAPolicy.from_pretrained(copied, device='cpu')


# -- mistakes that others made, and that run without an error ------------------------------------


def rope_tables_in_float32(patch: pytest.MonkeyPatch) -> None:
    def tables(size: int, head_dim: int, device: torch.device) -> Tensor:
        frequencies = 1 / 10000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim)
        angles = (torch.arange(size).float()[:, None] * frequencies).repeat(1, 2)
        return torch.stack([angles.cos(), angles.sin()])

    patch.setattr(action_head, 'bridge_rotary_tables', tables)


def rope_of_halves(patch: pytest.MonkeyPatch) -> None:
    def rotate(x: Tensor, tables: Tensor) -> Tensor:
        cosines, sines = tables[:, : x.shape[2]]
        first, second = x.chunk(2, dim=-1)
        return x * cosines + torch.cat([-second, first], dim=-1) * sines

    patch.setattr(action_head, 'rotate_neighbours', rotate)


def rope_of_pairs(patch: pytest.MonkeyPatch) -> None:
    tables = action_head.bridge_rotary_tables

    def interleaved(size: int, head_dim: int, device: torch.device) -> Tensor:
        half = tables(size, head_dim, device)[..., : head_dim // 2]
        return half.repeat_interleave(2, dim=-1)

    patch.setattr(action_head, 'bridge_rotary_tables', interleaved)


def no_rope(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(action_head, 'rotate_neighbours', lambda x, tables: x)


def vla_adapter_sees_everything(patch: pytest.MonkeyPatch) -> None:
    def states(self: Llama, x: Tensor) -> list[Tensor]:
        everything = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool)
        outputs = [x]
        for layer in self.model.layers:
            outputs.append(layer(outputs[-1], self._rotary(x), mask=everything))
        return [*outputs[:-1], self.model.norm(outputs[-1])]

    patch.setattr(Llama, 'hidden_states', states)


def states_one_layer_early(patch: pytest.MonkeyPatch) -> None:
    states = Llama.hidden_states
    patch.setattr(Llama, 'hidden_states', lambda self, x: [x, *states(self, x)[:-1]])


def no_final_norm_of_states(patch: pytest.MonkeyPatch) -> None:
    def states(self: Llama, x: Tensor) -> list[Tensor]:
        outputs = [x]
        for layer in self.model.layers:
            outputs.append(layer(outputs[-1], self._rotary(x)))
        return outputs

    patch.setattr(Llama, 'hidden_states', states)


def head_one_position_late(patch: pytest.MonkeyPatch) -> None:
    """Queries or placeholders themselves, instead of the positions before them."""
    rows = chunks._rows
    patch.setattr(chunks, '_rows', lambda first, count: rows(first + 1, count))


def task_one_position_late(patch: pytest.MonkeyPatch) -> None:
    forward = BridgeHead.forward
    patch.setattr(
        BridgeHead,
        'forward',
        lambda self, task, adapter: forward(self, [one.roll(-1, 1) for one in task], adapter),
    )


def bridge_block(
    gate: Callable[[Tensor, Tensor, int], Tensor] | None = None, residual: bool = False
) -> Callable[..., Tensor]:
    """A block with its attention written out, and one thing wrong."""

    def forward(
        self: _BridgeBlock, x: Tensor, task: Tensor, adapter: Tensor, rotary: Tensor
    ) -> Tensor:
        heads, groups = action_head._heads, ('self', 'adapter', 'task')
        query = heads(self.q_proj(x), rotary)
        inputs = list(zip(groups, (x, adapter, task), strict=True))
        keys = [heads(self.get_submodule(f'k_{name}')(rows), rotary) for name, rows in inputs]
        values = [heads(self.get_submodule(f'v_{name}')(rows)) for name, rows in inputs]
        scores = query @ torch.cat(keys, 2).mT / math.sqrt(query.shape[3])
        factor, first = self.gating_factor.tanh(), -task.shape[1]
        if gate is None:
            scores[..., first:] *= factor
            weights = scores.softmax(-1)
        else:
            weights = gate(scores, factor, first)
        attended = (weights @ torch.cat(values, 2)).transpose(1, 2).flatten(2)
        inner = self.o_proj(attended) + x
        return self.ffn(inner) + (inner if residual else 0)

    return forward


def gate_after_the_softmax(patch: pytest.MonkeyPatch) -> None:
    def gate(scores: Tensor, factor: Tensor, first: int) -> Tensor:
        weights = scores.softmax(-1)
        weights[..., first:] *= factor
        return weights

    patch.setattr(_BridgeBlock, 'forward', bridge_block(gate))


def no_gate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_BridgeBlock, 'forward', bridge_block(lambda scores, *_: scores.softmax(-1)))


def residual_around_the_ffn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_BridgeBlock, 'forward', bridge_block(residual=True))


def nothing_wrong(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_BridgeBlock, 'forward', bridge_block())


def no_state(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        StateProjector,
        'forward',
        lambda self, state: state.new_zeros(1, 1, 64)[:, :, : self.fc2.out_features],
    )


def state_normalised_twice(patch: pytest.MonkeyPatch) -> None:
    normalize = Statistics.normalize
    patch.setattr(Statistics, 'normalize', lambda self, x: normalize(self, normalize(self, x)))


def state_not_clipped(patch: pytest.MonkeyPatch) -> None:
    def normalize(self: Statistics, values: np.ndarray) -> np.ndarray:
        return 2 * (values - self.low) / (self.high - self.low + self.epsilon) - 1

    patch.setattr(Statistics, 'normalize', normalize)


def raw_state(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Statistics, 'normalize', lambda self, values: values)


def actions_clipped(patch: pytest.MonkeyPatch) -> None:
    scale = Statistics.unnormalize
    patch.setattr(Statistics, 'unnormalize', lambda self, x: scale(self, x.clip(-1, 1)))


def last_token_missing(patch: pytest.MonkeyPatch) -> None:
    """The newline of ChatML; the space after ``Out:``."""
    encode = PromptTokenizer._encode
    patch.setattr(PromptTokenizer, '_encode', lambda self, text: encode(self, text)[:-1])


def oft_is_causal(patch: pytest.MonkeyPatch) -> None:
    """The usual one: 52 to 60 % instead of 98 % in LIBERO (openvla-oft issue 135)."""

    def attend(self: Llama, x: Tensor, visible: Tensor, keep: Tensor) -> Tensor:
        return self.hidden_states(x)[-1][:, keep[0]]

    patch.setattr(Llama, 'attend_all', attend)


def no_final_norm(patch: pytest.MonkeyPatch) -> None:
    def attend(self: Llama, x: Tensor, visible: Tensor, keep: Tensor) -> Tensor:
        for layer in self.model.layers:
            x = layer(x, self._rotary(x), mask=visible[:, None, None])
        return x[:, keep[0]]

    patch.setattr(Llama, 'attend_all', attend)


def no_stop_token(patch: pytest.MonkeyPatch) -> None:
    attend = Llama.attend_all

    def without(self: Llama, x: Tensor, visible: Tensor, keep: Tensor) -> Tensor:
        visible = visible.clone()
        visible[0, int(visible.sum()) - 1] = False
        return attend(self, x, visible, keep)

    patch.setattr(Llama, 'attend_all', without)


def placeholders_not_zeroed(patch: pytest.MonkeyPatch) -> None:
    fill = Tensor.masked_fill

    def unfilled(self: Tensor, mask: Tensor, value: float) -> Tensor:
        return self if self.is_floating_point() else fill(self, mask, value)

    patch.setattr(Tensor, 'masked_fill', unfilled)


def state_before_the_patches(patch: pytest.MonkeyPatch) -> None:
    merged = chunks._merged

    def swapped(text: Tensor, images: Tensor, state: Tensor | None) -> tuple[Tensor, int]:
        assert state is not None
        return merged(text, torch.cat([state, images], dim=1)[:, :-1], images[:, -1:])

    patch.setattr(chunks, '_merged', swapped)


def pads_are_seen(patch: pytest.MonkeyPatch) -> None:
    attend = Llama.attend_all
    patch.setattr(
        Llama,
        'attend_all',
        lambda self, x, visible, keep: attend(self, x, torch.ones_like(visible), keep),
    )


def no_residual_in_the_head(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_L1Block, 'forward', lambda self, x: self.ffn(x))


def values_before_rows(patch: pytest.MonkeyPatch) -> None:
    """The D positions of a row are successive; here those of a column are."""
    forward = L1Head.forward

    def transposed(self: L1Head, hidden: Tensor) -> Tensor:
        turned = hidden.unflatten(1, (self.action_dim, -1)).transpose(1, 2).flatten(1, 2)
        return forward(self, turned)

    patch.setattr(L1Head, 'forward', transposed)


def cameras_swapped(patch: pytest.MonkeyPatch) -> None:
    merged = chunks._merged

    def swapped(text: Tensor, images: Tensor, state: Tensor | None) -> tuple[Tensor, int]:
        return merged(text, images.roll(images.shape[1] // 2, 1), state)

    patch.setattr(chunks, '_merged', swapped)


def no_biases(patch: pytest.MonkeyPatch) -> None:
    forward = nn.Linear.forward

    def without(self: nn.Linear, x: Tensor) -> Tensor:
        qwen = self.out_features < self.in_features and self.bias is not None
        return F.linear(x, self.weight) if qwen and self.in_features == 32 else forward(self, x)

    patch.setattr(nn.Linear, 'forward', without)


def as_many_queries_as_values(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chunks, 'ACTION_QUERIES', 56)


def bounds_of_the_other_kind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(normalization, '_BOUNDS', {'q01_q99': ('min', 'max')})


def statistics_of_the_base_model(patch: pytest.MonkeyPatch) -> None:
    def read(
        directory: Path, content: dict[str, Any], layout: Layout, remember: object
    ) -> dict[str, ActionStatistics]:
        return read_norm_stats(content['norm_stats'], 'config.json', layout)

    patch.setattr(config, '_read_statistics', read)


VLA_ADAPTER = (
    *(rope_tables_in_float32, rope_of_halves, rope_of_pairs, no_rope, vla_adapter_sees_everything),
    *(states_one_layer_early, no_final_norm_of_states, head_one_position_late),
    *(task_one_position_late, gate_after_the_softmax, no_gate, residual_around_the_ffn, no_state),
    *(state_normalised_twice, state_not_clipped, raw_state, mask_forgotten),
    *(last_token_missing, cameras_swapped, no_biases, as_many_queries_as_values),
    *(bounds_of_the_other_kind, statistics_of_the_base_model),
)
OFT = (
    *(oft_is_causal, no_final_norm, no_stop_token, placeholders_not_zeroed, pads_are_seen),
    *(state_before_the_patches, head_one_position_late, no_residual_in_the_head),
    *(values_before_rows, state_not_clipped, raw_state, no_state, actions_clipped, mask_forgotten),
    *(last_token_missing, cameras_swapped, bounds_of_the_other_kind),
)


@pytest.mark.parametrize('mistake', VLA_ADAPTER, ids=lambda one: one.__name__)
def test_a_mistake_in_vla_adapter_is_noticed(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    assert fresh_error(PRO_CASE) > 10 * PRO_CASE.tolerance


@pytest.mark.parametrize('mistake', OFT, ids=lambda one: one.__name__)
def test_a_mistake_in_openvla_oft_is_noticed(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    assert fresh_error(OFT_CASE) > 2 * OFT_CASE.tolerance


def fresh_error(case: Case) -> float:
    policy = OpenVLAPolicy.from_pretrained(case.folder(), device='cpu', dtype='float32')
    return float(np.abs(case.predict(policy).actions - case.array('actions')).max())


def test_roundings_of_another_order_are_noticed() -> None:
    """Equal within any tolerance, but not bit for bit."""
    statistics = PRO_CASE.policy().config.norm_stats[PRO_CASE.facts['unnorm_key']]
    normalized, actions = PRO_CASE.array('normalized_actions'), PRO_CASE.array('actions')
    assert (statistics.unnormalize(normalized) == actions).all()
    assert (replace(statistics, epsilon=0.0).unnormalize(normalized) != actions).any()
    assert (statistics.unnormalize(normalized.astype(np.float64)) != actions).any()


def test_a_block_that_is_written_out_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_wrong(monkeypatch)
    assert fresh_error(PRO_CASE) <= PRO_CASE.tolerance


def test_rope_tables_in_float32_are_what_the_golden_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rope_tables_in_float32(monkeypatch)
    expected = PRO_CASE.array('normalized_actions_if_rope_tables_were_float32')
    np.testing.assert_allclose(PRO_CASE.predict().normalized_actions, expected, rtol=0, atol=1e-5)


# -- FiLM, where its golden values are -------------------------------------------------------------


def film_before_the_attention(patch: pytest.MonkeyPatch) -> None:
    def forward(self: FilmBlock, x: Tensor, words: Tensor) -> Tensor:
        x = x * (1 + self.scale(words)[:, None]) + self.shift(words)[:, None]
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))

    patch.setattr(FilmBlock, 'forward', forward)


def film_scale_without_one(patch: pytest.MonkeyPatch) -> None:
    def forward(self: FilmBlock, x: Tensor, words: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        x = x * self.scale(words)[:, None] + self.shift(words)[:, None]
        return x + self.ls2(self.mlp(self.norm2(x)))

    patch.setattr(FilmBlock, 'forward', forward)


def mean_of(change: Callable[[Tensor], Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    def mistake(patch: pytest.MonkeyPatch) -> None:
        from vla_ros.openvla import batches

        def mean(model: nn.Module, input_ids: Tensor, lengths: Tensor) -> Tensor:
            ids = torch.cat([input_ids[0, : lengths[0]], torch.tensor([2])])
            words = model.language_model.model.embed_tokens(change(ids))
            return words.mean(0).expand(len(input_ids), -1)

        patch.setattr(batches, 'mean_embedding', mean)

    return mistake


FILM = {
    'before the attention': film_before_the_attention,
    'scale without one': film_scale_without_one,
    'mean without the stop token': mean_of(lambda ids: ids[:-1]),
    'mean without BOS': mean_of(lambda ids: ids[1:]),
    'mean without the space token': mean_of(lambda ids: torch.cat([ids[:-2], ids[-1:]])),
}


@pytest.mark.parametrize('name', FILM)
def test_a_mistake_in_film_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES.get('aloha-o4_oneimg-shared')
    if case is None:
        pytest.skip('the golden values of FiLM are not beside the repository')
    FILM[name](monkeypatch)
    assert fresh_error(case) > 2 * case.tolerance


def test_a_lora_that_was_not_merged_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES.get('aloha-o4_oneimg-shared')
    if case is None:
        pytest.skip('the golden values of FiLM are not beside the repository')
    monkeypatch.setattr('support.family._LORA_FACTOR', 0.0)
    folder = write_family(case.checkpoint, tmp_path / 'unmerged', case.layout)
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu', dtype='float32')
    actions = case.predict(policy).actions
    assert np.abs(actions - case.array('actions')).max() > 2 * case.tolerance
