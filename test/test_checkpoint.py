"""Checkpoints that are not whole: each is refused with one clear error before anything runs."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vla_ros.openvla import CheckpointError, OpenVLAPolicy, UnnormKeyError
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.openvla.random_checkpoint import SHAPES, write_random_checkpoint
from vla_ros.types import Progress

INDEX = 'model.safetensors.index.json'
SHARD = 'model-00001-of-00001.safetensors'
HEAD = 'language_model.lm_head.weight'


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / SHARD)
    change(tensors)
    save_file(tensors, folder / SHARD)
    edit_json(folder / INDEX, lambda c: c.update(weight_map=dict.fromkeys(tensors, SHARD)))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def to_pickle(folder: Path) -> None:
    (folder / SHARD).rename(folder / 'pytorch_model.bin')
    (folder / INDEX).unlink()


def set_text_config(folder: Path, name: str, value: object) -> None:
    edit_json(folder / 'config.json', lambda c: c['text_config'].update({name: value}))


FAULTS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    'config missing': (lambda d: (d / 'config.json').unlink(), ['config.json', 'missing']),
    'config no JSON': (lambda d: (d / 'config.json').write_text('{'), ['config.json', 'JSON']),
    'config a list': (lambda d: (d / 'config.json').write_text('[]'), ['config.json', 'list']),
    'config of another model': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(model_type='llava')),
        ["'llava'", "expected 'openvla'"],
    ),
    'language model of another kind': (
        lambda d: edit_json(d / 'config.json', lambda c: c['text_config'].update(model_type='phi')),
        ["'phi'", "'llama'"],
    ),
    'tower unknown to timm': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c.update(timm_model_ids=['vit_x', 'vit_y'])
        ),
        ["'vit_x'", 'timm'],
    ),
    'backbone unknown': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c.update(vision_backbone_id='eye', timm_model_ids=None)
        ),
        ["'eye'", 'dinosiglip-vit-so-224px'],
    ),
    'one tower for two': (
        lambda d: edit_json(d / 'config.json', lambda c: c['timm_model_ids'].pop()),
        ['use_fused_vision_backbone', 'lists 1'],
    ),
    **{
        f'text_config {name} is {value!r}': (
            partial(set_text_config, name=name, value=value),
            ['config.json'],
        )
        for name, value in [
            ('hidden_size', 0),
            ('hidden_size', '64'),
            ('hidden_size', 63),
            ('num_attention_heads', 0),
            ('num_hidden_layers', None),
            ('num_key_value_heads', 3),
            ('pad_token_id', -40000),
            ('vocab_size', 100),
            ('rope_parameters', {'rope_type': 'yarn'}),
        ]
    },
    'text_config a list': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(text_config=[])),
        ['config.json'],
    ),
    'padding more than the vocabulary': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(pad_to_multiple_of=-1)),
        ['config.json', 'pad_to_multiple_of'],
    ),
    'tower id a number': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(timm_model_ids=[1, 2])),
        ['config.json'],
    ),
    'preprocessor for another size': (
        lambda d: edit_json(
            d / 'preprocessor_config.json',
            lambda c: [p.update(output_size=[196, 196]) for p in c['tvf_crop_params']],
        ),
        ['preprocessor_config.json', '196', '224'],
    ),
    'preprocessor with a word for a list': (
        lambda d: edit_json(
            d / 'preprocessor_config.json', lambda c: c.update(tvf_resize_params='no')
        ),
        ['preprocessor_config.json', 'malformed'],
    ),
    'tokenizer without BOS': (
        lambda d: edit_json(d / 'tokenizer.json', lambda c: c.update(post_processor=None)),
        ['tokenizer.json', 'expected 1 first'],
    ),
    'tokenizer of a larger vocabulary': (
        lambda d: edit_json(
            d / 'tokenizer.json', lambda c: c['model']['vocab'].update({'▁pick': 40_000})
        ),
        ['tokenizer.json', '40000', 'below 32064'],
    ),
    'index of numbers': (
        lambda d: edit_json(d / INDEX, lambda c: c['weight_map'].update({HEAD: 3})),
        [INDEX, 'file names'],
    ),
    'norm_stats absent': (
        lambda d: edit_json(d / 'config.json', lambda c: c.pop('norm_stats')),
        ['config.json', 'no norm_stats', 'dataset_statistics.json'],
    ),
    'norm_stats without q99': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c['norm_stats']['random']['action'].pop('q99')
        ),
        ['random', 'q99'],
    ),
    'norm_stats of unequal lengths': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c['norm_stats']['random']['action']['q99'].pop()
        ),
        ['random', '(7,)', '(6,)'],
    ),
    'norm_stats not finite': (
        lambda d: edit_json(
            d / 'config.json',
            lambda c: c['norm_stats']['random']['action'].update(q99=[float('nan')] * 7),
        ),
        ['random', 'finite'],
    ),
    'preprocessor missing': (
        lambda d: (d / 'preprocessor_config.json').unlink(),
        ['preprocessor_config.json', 'missing'],
    ),
    'preprocessor without tvf': (
        lambda d: edit_json(
            d / 'preprocessor_config.json', lambda c: c.pop('tvf_normalize_params')
        ),
        ['preprocessor_config.json', 'tvf_normalize_params'],
    ),
    'tokenizer missing': (
        lambda d: (d / 'tokenizer.json').unlink(),
        ['tokenizer.json', 'missing'],
    ),
    'tokenizer damaged': (
        lambda d: (d / 'tokenizer.json').write_text('{}'),
        ['tokenizer.json', 'no tokenizer'],
    ),
    'no weights': (
        lambda d: [(d / INDEX).unlink(), (d / SHARD).unlink()],
        ['no weights', INDEX],
    ),
    'pickle weights': (to_pickle, ['pytorch_model.bin', 'pickle', 'safetensors']),
    'shard missing': (lambda d: (d / SHARD).unlink(), [SHARD, 'lacks']),
    'shard truncated': (lambda d: truncate(d / SHARD), [SHARD, 'truncated', 'bytes']),
    'shard empty': (lambda d: (d / SHARD).write_bytes(b''), [SHARD, '0 bytes']),
    'shard no safetensors': (
        lambda d: (d / SHARD).write_bytes(b'x' * 4096),
        [SHARD, 'no safetensors'],
    ),
    'index without weight_map': (
        lambda d: (d / INDEX).write_text('{}'),
        [INDEX, 'no weight_map'],
    ),
    'index of other weights': (
        lambda d: edit_json(d / INDEX, lambda c: c['weight_map'].pop(HEAD)),
        ['disagree', HEAD],
    ),
    'key missing': (
        lambda d: edit_weights(d, lambda t: t.pop(HEAD)),
        ['lacks 1 of', HEAD],
    ),
    'key surplus': (
        lambda d: edit_weights(d, lambda t: t.update(lora_A=torch.zeros(2, 2))),
        ['has 1 tensors', 'lora_A'],
    ),
    'wrong shape': (
        lambda d: edit_weights(d, lambda t: t.update({HEAD: t[HEAD][:-64].clone()})),
        [HEAD, '(32000, 64)', '(32064, 64)'],
    ),
    'integer weights': (
        lambda d: edit_weights(d, lambda t: t.update({HEAD: t[HEAD].to(torch.int8)})),
        [HEAD, 'I8', 'BF16'],
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_faulty_checkpoint_is_refused(fault: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    damage, words = FAULTS[fault]
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'faulty'))
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        OpenVLAPolicy.from_pretrained(folder, device='cpu')
    text = str(caught.value)
    assert not [word for word in words if word not in text], text
    assert str(folder) in text or 'config.json names the vision tower' in text, text
    assert '\n' not in text.strip() and len(text) < 700


def test_a_config_as_transformers_5_writes_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'saved'))
    rope = {'rope_type': 'default', 'rope_theta': 10000.0}
    set_text_config(folder, 'rope_parameters', rope)
    policies = [OpenVLAPolicy.from_pretrained(f, device='cpu') for f in (tiny_checkpoint, folder)]
    image = np.zeros((32, 32, 3), np.uint8)
    first, second = (policy.predict_action(image, 'go', return_logits=True) for policy in policies)
    assert first.logits is not None and second.logits is not None
    assert (first.logits == second.logits).all()


def test_the_tokenizer_neither_cuts_nor_pads(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'cutting'))
    cut = {'max_length': 10, 'strategy': 'LongestFirst', 'stride': 0, 'direction': 'Right'}
    pad = {'strategy': {'Fixed': 64}, 'direction': 'Right', 'pad_to_multiple_of': None}
    pad |= {'pad_id': 32000, 'pad_type_id': 0, 'pad_token': '<PAD>'}
    edit_json(folder / 'tokenizer.json', lambda c: c.update(truncation=cut, padding=pad))
    config = OpenVLAConfig.from_directory(folder)
    expected = PromptTokenizer(tiny_checkpoint, config)('pick up the red cup')
    assert PromptTokenizer(folder, config)('pick up the red cup').tolist() == expected.tolist()


def test_close_gives_the_model_back(tiny_checkpoint: Path) -> None:
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu')
    model = weakref.ref(policy._model)
    policy.close()
    assert model() is None


def test_a_single_file_without_index_will_do(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'single'))
    (folder / INDEX).unlink()
    (folder / SHARD).rename(folder / 'model.safetensors')
    assert OpenVLAPolicy.from_pretrained(folder, device='cpu').info.model == str(folder)


def test_statistics_of_a_fine_tuning_win(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'tuned'))
    statistics = {'own': {'action': {'q01': [0.0] * 3, 'q99': [2.0] * 3}}}
    (folder / 'dataset_statistics.json').write_text(json.dumps(statistics))
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu')
    assert policy.check_unnorm_key('') == 'own'
    with pytest.raises(UnnormKeyError, match=r"'random' is not in this checkpoint; it has: own"):
        policy.check_unnorm_key('random')


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux lists what is mapped')
def test_weights_are_mapped_not_copied(tiny_checkpoint: Path) -> None:
    """In the stored dtype on the CPU, a parameter is a view of the mapped file."""
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='bfloat16')
    maps = [line.split() for line in Path('/proc/self/maps').read_text().splitlines()]
    spans = [m[0].split('-') for m in maps if m[-1] == str(tiny_checkpoint / SHARD)]
    mapped = [(int(first, 16), int(last, 16)) for first, last in spans]
    for name, parameter in policy._model.named_parameters():
        address = parameter.data_ptr()
        assert any(first <= address < last for first, last in mapped), name
    with safe_open(tiny_checkpoint / SHARD, framework='pt') as file:
        unused = {key for key in file.keys() if 'attn_pool' in key}  # noqa: SIM118
    assert unused
    assert not [name for name, _ in policy._model.named_parameters() if 'attn_pool' in name]


def test_no_parameter_is_left_on_the_meta_device(tiny_checkpoint: Path) -> None:
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float16')
    tensors = [*policy._model.parameters(), *policy._model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {'cpu'}
    assert {parameter.dtype for parameter in policy._model.parameters()} == {torch.float16}
    assert not any(parameter.requires_grad for parameter in policy._model.parameters())


def test_loading_tells_its_progress(tiny_checkpoint: Path) -> None:
    told: list[Progress] = []
    OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', progress=told.append)
    assert told[-1].done == told[-1].total > 100
    assert [p.done for p in told] == sorted(p.done for p in told)


def test_random_checkpoints_are_deterministic(tiny_checkpoint: Path, tmp_path: Path) -> None:
    again = write_random_checkpoint(tmp_path / 'again')
    other = write_random_checkpoint(tmp_path / 'other', seed=1)
    for file in sorted(tiny_checkpoint.iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    assert (other / SHARD).read_bytes() != (tiny_checkpoint / SHARD).read_bytes()
    assert SHAPES == ('tiny', 'openvla-7b', 'openvla-v01-7b')
