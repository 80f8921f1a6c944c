# SPDX-License-Identifier: Apache-2.0
"""Our Llama computes what transformers' computes, and refuses to be one that it can't be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig as ReferenceConfig
from transformers import LlamaForCausalLM

from support.places import GOLDEN
from vla_ros.openvla.config import LlamaConfig, OpenVLAConfig
from vla_ros.openvla.decoding import Choices, Decoded, Generation, decode_greedy
from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.language import KVCache, Llama, _attend, _causal_masks

LENGTH, STEPS = 24, 5
LENGTHS = (24, 17, 1)
TOLERANCE = 2e-5

# heads, key and value heads, head_dim
KINDS = {'plain': (4, 4, 16), 'grouped': (4, 2, 16), 'one key': (8, 1, 8), 'wide heads': (4, 2, 32)}


def shape(kind: str) -> LlamaConfig:
    heads, key_value_heads, head_dim = KINDS[kind]
    return LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-3,
        rope_theta=500.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def reference(kind: str) -> LlamaForCausalLM:
    config = vars(shape(kind)).copy()
    rope = {'rope_type': 'default', 'rope_theta': config.pop('rope_theta')}
    torch.manual_seed(0)
    model = LlamaForCausalLM(ReferenceConfig(**config, rope_parameters=rope))
    for parameter in model.parameters():
        # Large enough for every part to count.
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    return model.eval().requires_grad_(False)


def ours(kind: str) -> Llama:
    model = Llama(shape(kind))
    model.load_state_dict(reference(kind).state_dict(), strict=True)
    return model.eval().requires_grad_(False)


def embeds() -> Tensor:
    return torch.randn(len(LENGTHS), LENGTH, 64, generator=torch.Generator().manual_seed(1))


def decoded_behind(model: Llama, first: Tensor, lengths: Tensor, cache: KVCache) -> Decoded:
    """What follows logits of a prefill; all of the vocabulary counts as actions."""

    def step(inputs: Tensor) -> Choices:
        logits = model.decode(inputs[0], lengths[:, None] + inputs[1], cache)
        return Choices.of(logits, slice(None))

    steps = Generation(np.full(len(lengths), STEPS))
    return decode_greedy(Choices.of(first, slice(None)), step, steps)


def generated(model: Llama, inputs_embeds: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids [B, STEPS] and logits [B, STEPS, vocab]."""
    cache = KVCache.empty(model.config, inputs_embeds, inputs_embeds.shape[1] + STEPS)
    first = model.prefill(inputs_embeds, lengths, cache)
    decoded = decoded_behind(model, first, lengths, cache)
    return torch.from_numpy(decoded.token_ids), decoded.logits


@pytest.mark.parametrize('kind', KINDS)
def test_logits_are_those_of_transformers(kind: str) -> None:
    """Of a padded batch; the reference sees each row alone, without pads and without a cache."""
    token_ids, logits = generated(ours(kind), embeds(), torch.tensor(LENGTHS))
    model = reference(kind)
    for row, length in enumerate(LENGTHS):
        emitted = model.get_input_embeddings()(token_ids[row, :-1])
        whole = torch.cat([embeds()[row, :length], emitted])[None]
        expected = model(inputs_embeds=whole).logits[0, length - 1 :]  # [STEPS, vocab]
        assert expected.std() > 0.5
        torch.testing.assert_close(logits[row], expected, rtol=0, atol=TOLERANCE)
        assert token_ids[row].tolist() == expected.argmax(dim=1).tolist()


@pytest.mark.parametrize('kind', KINDS)
def test_what_pads_hold_changes_nothing(kind: str) -> None:
    model, lengths = ours(kind), torch.tensor(LENGTHS)
    padded = embeds()
    first = generated(model, padded, lengths)[1]
    for row, length in enumerate(LENGTHS):
        padded[row, length:] = 1000.0
    assert torch.equal(generated(model, padded, lengths)[1], first)


@pytest.mark.parametrize('padding', [1, 8, 40])
def test_how_many_pads_there_are_changes_nothing(padding: int) -> None:
    model, lengths = ours('grouped'), torch.tensor(LENGTHS)
    padded = torch.nn.functional.pad(embeds(), (0, 0, 0, padding))
    first, second = generated(model, embeds(), lengths), generated(model, padded, lengths)
    torch.testing.assert_close(second[1], first[1], rtol=0, atol=TOLERANCE)
    assert torch.equal(first[0], second[0])


def test_half_precision_rounds_where_transformers_rounds() -> None:
    inputs_embeds = embeds()[:1].to(torch.bfloat16)
    lengths = torch.tensor([LENGTH])
    logits = generated(ours('plain').to(torch.bfloat16), inputs_embeds, lengths)[1][0, 0]
    model = reference('plain').to(torch.bfloat16)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its table in float32
    expected = model(inputs_embeds=inputs_embeds, logits_to_keep=1).logits[0, 0]
    assert torch.equal(logits, expected.float())


def test_the_cache_has_its_final_size_from_the_start() -> None:
    model, lengths = ours('grouped'), torch.tensor(LENGTHS)
    cache = KVCache.empty(model.config, embeds(), LENGTH + STEPS)
    first = model.prefill(embeds(), lengths, cache)
    decoded_behind(model, first, lengths, cache)
    assert len(cache.layers) == 3
    ends = torch.tensor(LENGTHS) + STEPS - 1
    for layer in cache.layers:
        assert layer.shape == (2, len(LENGTHS), 2, LENGTH + STEPS, 16)
        assert all(layer[:, row, :, : int(end)].any() for row, end in enumerate(ends))
        assert not layer[:, 0, :, int(ends[0]) :].any()


def test_a_repeated_cache_serves_several_continuations() -> None:
    """As training has it: each row's prefix is computed once, for all that follow it."""
    model, count = ours('grouped'), 2
    prefix, rest = embeds()[:, :10], embeds()[:, 10:]
    cache = KVCache.empty(model.config, prefix, LENGTH)
    model(prefix, None, cache)
    continuations = rest.repeat_interleave(count, dim=0)
    continuations[1::2] *= -1
    positions = torch.arange(10, LENGTH).expand(len(continuations), -1)
    hidden = model(continuations, positions, cache.repeated(count))
    for row, continuation in enumerate(continuations):
        whole = torch.cat([prefix[row // count], continuation])[None]
        expected = model(whole, None, KVCache.empty(model.config, whole, LENGTH))
        torch.testing.assert_close(hidden[row], expected[0, 10:], rtol=1e-5, atol=TOLERANCE)


def read(tmp_path: Path, text_config: dict[str, Any]) -> LlamaConfig:
    config = json.loads((GOLDEN / 'openvla_tiny' / 'config.json').read_text())
    config['text_config'].update(text_config)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    return OpenVLAConfig.from_directory(tmp_path).llama


@pytest.mark.parametrize(
    ('text_config', 'words'),
    [
        ({'hidden_act': 'gelu'}, "hidden_act 'gelu'; expected 'silu'"),
        ({'attention_bias': True}, 'attention_bias True; expected False'),
        ({'mlp_bias': True}, 'mlp_bias True; expected False'),
        ({'tie_word_embeddings': True}, 'tie_word_embeddings True; expected False'),
        (
            {'rope_scaling': {'type': 'linear', 'factor': 2.0}},
            "rope_type 'linear'; expected default",
        ),
        ({'rope_parameters': {'rope_type': 'llama3'}}, "rope_type 'llama3'; expected default"),
        ({'rope_theta': -1.0}, 'rope_theta -1.0; expected a number above 0'),
        ({'rms_norm_eps': '1e-6'}, "rms_norm_eps '1e-6'; expected a number above 0"),
        ({'hidden_size': 68}, 'hidden_size 68; expected an even number for each of 4 heads'),
        ({'head_dim': 7}, 'head_dim 7; expected an even number above 0'),
        ({'head_dim': 0}, 'head_dim 0; expected an even number above 0'),
        ({'num_key_value_heads': 3}, 'num_key_value_heads 3; expected a divisor of 4'),
        ({'num_attention_heads': True}, 'num_attention_heads True; expected a whole number'),
        ({'eos_token_id': [2]}, r'eos_token_id \[2\]; expected a token id below vocab_size 32064'),
        ({'pad_token_id': 32064}, 'pad_token_id 32064; expected a token id below vocab_size'),
    ],
)
def test_another_kind_of_llama_is_refused(
    text_config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f'config.json: text_config has {words}'):
        read(tmp_path, text_config)


def test_what_a_config_may_say_otherwise(tmp_path: Path) -> None:
    plain = read(tmp_path, {})
    assert (plain.num_key_value_heads, plain.head_dim) == (4, 16)
    unset = {'num_key_value_heads': None, 'head_dim': None, 'rope_scaling': None}
    assert read(tmp_path, unset) == plain
    other = read(tmp_path, {'num_key_value_heads': 2, 'head_dim': 32, 'rope_theta': 500})
    assert (other.num_key_value_heads, other.head_dim, other.rope_theta) == (2, 32, 500)
    rope = {'rope_type': 'default', 'rope_theta': 123.0}
    assert read(tmp_path, {'rope_parameters': rope}).rope_theta == 123.0


def test_the_runtime_does_without_transformers() -> None:
    code = 'import sys, vla_ros.openvla; sys.exit("transformers" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize('heads', [4, 2])
@pytest.mark.parametrize('rows', [1, 31, 32, 33, 63, 64, 65, 150])
def test_attention_in_parts_is_causal_attention(rows: int, heads: int) -> None:
    query, key, value = (
        torch.randn(2, count, rows, 16, generator=torch.Generator().manual_seed(seed))
        for seed, count in enumerate((4, heads, heads))
    )
    expected = F.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=heads != 4
    )
    masks = _causal_masks(rows, query.device)
    torch.testing.assert_close(_attend(query, key, value, masks, heads != 4), expected)
