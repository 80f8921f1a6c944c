# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints of other models and tools, each in its own layout, refused by its name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from support.checkpoints import INDEX, SHARD, edit_json, edit_weights, refused_unread
from support.hub import REPO, Hub
from support.inputs import rows
from support.places import HUB_HOME
from vla_ros.openvla import CheckpointError
from vla_ros.openvla.hub import resolve_model

TOKENIZER = ('tokenizer.json', 'preprocessor_config.json')


def put(folder: Path, *names: str, content: object = '') -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def keep(folder: Path, *names: str) -> None:
    """Leave these files only."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def configure(folder: Path, **changes: Any) -> None:
    edit_json(folder / 'config.json', lambda config: config.update(changes))


def oft_with_l1_head(folder: Path) -> None:
    put(folder, 'action_head--150000_checkpoint.pt', 'proprio_projector--150000_checkpoint.pt')
    put(folder, 'lora_adapter/adapter_config.json', 'lora_adapter/adapter_model.safetensors')
    put(folder, 'modeling_prismatic.py', 'README.md')


def oft_with_film(folder: Path) -> None:
    put(folder, 'action_head--50000_checkpoint.pt', 'vision_backbone--50000_checkpoint.pt')


def vla_adapter(folder: Path) -> None:
    configure(folder, llm_backbone_id='qwen25-0_5b-extra')
    put(folder, 'action_head--checkpoint.pt', 'vocab.json', 'merges.txt')


def unmerged_lora(folder: Path) -> None:
    put(folder, 'lora_adapter/adapter_config.json', content={'peft_type': 'LORA', 'r': 32})
    put(folder, 'lora_adapter/adapter_model.safetensors')


def an_adapter_alone(folder: Path) -> None:
    keep(folder, *TOKENIZER)
    put(folder, 'adapter_config.json', content={'peft_type': 'LORA', 'r': 32})
    put(folder, 'adapter_model.safetensors', 'README.md')


def prismatic(folder: Path, base_vlm: str) -> None:
    keep(folder)
    vla = {'vla_id': 'x', 'base_vlm': base_vlm, 'data_mix': 'bridge', 'expected_world_size': 8}
    put(folder, 'config.json', content={'vla': vla, 'run_id': 'x', 'seed': 7})
    put(folder, 'dataset_statistics.json', content={'bridge': {'action': {}}})
    put(folder, 'config.yaml', 'run-metrics.jsonl', 'checkpoints/step-122500-epoch-55-loss=0.1.pt')


def prismatic_vlm(folder: Path) -> None:
    keep(folder)
    put(folder, 'config.json', content={'model': {'model_id': 'prism-dinosiglip+7b'}, 'stage': 'x'})
    put(folder, 'config.yaml', 'checkpoints/latest-checkpoint.pt')


def bitsandbytes(folder: Path) -> None:
    configure(folder, quantization_config={'quant_method': 'bitsandbytes', 'load_in_4bit': True})
    pack(folder, 'weight.absmax', 'weight.quant_map', 'weight.quant_state.bitsandbytes__nf4')


def pack(folder: Path, *parts: str, dtype: torch.dtype = torch.uint8) -> None:
    """Take one weight apart, as tools that quantise do."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith('q_proj.weight'))
        tensors[name] = torch.zeros((8, 1), dtype=dtype)
        module = name.removesuffix('weight')
        tensors.update({module + part: torch.zeros(4, dtype=dtype) for part in parts})

    edit_weights(folder, change)


def gptq(folder: Path) -> None:
    configure(folder, quantization_config={'quant_method': 'gptq', 'bits': 4, 'group_size': 128})
    pack(folder, 'qweight', 'qzeros', 'scales', 'g_idx', dtype=torch.float16)


def gguf(folder: Path) -> None:
    keep(folder)
    put(folder, 'openvla-7b.Q4_K_M.gguf', 'README.md')


def lerobot(folder: Path, kind: str) -> None:
    keep(folder)
    put(folder, 'config.json', content={'type': kind, 'n_obs_steps': 1, 'device': 'cuda'})
    put(folder, 'model.safetensors', 'train_config.json', 'policy_preprocessor.json')


def renamed(folder: Path, name: Callable[[str], str]) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        new = {name(old): tensors.pop(old) for old in list(tensors)}
        tensors.update(new)

    edit_weights(folder, change)


def cache_folder(folder: Path) -> None:
    inside = folder / 'snapshots' / ('a' * 40)
    inside.mkdir(parents=True)
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(inside / path.name)
    put(folder, 'refs/main', 'blobs/0')


def run_folder(folder: Path) -> None:
    (folder / 'checkpoint-500').mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(folder / 'checkpoint-500' / path.name)


def without_index(folder: Path) -> None:
    (folder / INDEX).unlink()


# What the folder is, how it is made, and what the error says.
OTHERS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    'OFT with L1 head': (oft_with_l1_head, ['OpenVLA-OFT', 'action_head--150000_checkpoint.pt']),
    'OFT with FiLM': (oft_with_film, ['OpenVLA-OFT', 'vision_backbone--50000_checkpoint.pt']),
    'VLA-Adapter': (vla_adapter, ['VLA-Adapter', 'action_head--checkpoint.pt']),
    'unmerged LoRA': (unmerged_lora, ['an adapter beside its weights', 'merge_and_unload']),
    'an adapter alone': (an_adapter_alone, ['adapter_config.json', 'merge_and_unload']),
    'native Prismatic': (
        partial(prismatic, base_vlm='prism-dinosiglip-224px+7b'),
        ['native Prismatic', 'convert_openvla_weights_to_hf.py'],
    ),
    'MiniVLA': (
        partial(prismatic, base_vlm='prism-qwen25-extra-dinosiglip-224px+0_5b'),
        ['is of a MiniVLA', 'vla_convert', '--language-model'],
    ),
    'a Prismatic VLM': (prismatic_vlm, ['Prismatic', 'the key model']),
    'bitsandbytes': (bitsandbytes, ['bitsandbytes', 'quantised', 'set quantization']),
    'GPTQ': (gptq, ['gptq', 'quantised', 'set quantization']),
    'AWQ': (
        partial(configure, quantization_config={'quant_method': 'awq', 'bits': 4}),
        ['awq', 'quantised'],
    ),
    'FP8': (
        partial(configure, quantization_config={'quant_method': 'fp8'}),
        ['fp8', 'quantised', 'set quantization'],
    ),
    'GPTQ by a file of its own': (
        lambda folder: put(folder, 'quantize_config.json', content='{}'),
        ['GPTQ or AWQ', 'set quantization'],
    ),
    'bitsandbytes without a word in config.json': (
        pack,
        ['dtype U8', 'quantised', 'set quantization'],
    ),
    'GPTQ without a word in config.json': (
        lambda folder: pack(folder, 'qweight', 'qzeros', 'scales', dtype=torch.float16),
        ['another tool quantised', 'q_proj.qweight', 'set quantization'],
    ),
    'GGUF': (gguf, ['GGUF', 'openvla-7b.Q4_K_M.gguf', 'safetensors']),
    **{
        f'LeRobot: {kind}': (partial(lerobot, kind=kind), ['LeRobot policy', kind])
        for kind in ('pi0', 'act', 'diffusion', 'smolvla')
    },
    **{
        prefix: (
            partial(renamed, name=lambda old, prefix=prefix: prefix + old),
            [f'a model inside {prefix[:-1]}', 'out of the names'],
        )
        for prefix in ('module.', '_orig_mod.', 'base_model.model.', '_fsdp_wrapped_module.')
    },
    'a compiled language model': (
        partial(renamed, name=lambda old: old.replace('_model.', '_model._orig_mod.', 1)),
        ['a model inside _orig_mod', 'language_model._orig_mod.'],
    ),
    "the cache's folder": (cache_folder, ["of the hub's cache", f'snapshots/{"a" * 40}']),
    'a run folder with checkpoints': (run_folder, ['no config.json', 'checkpoint-500']),
    'shards without an index': (without_index, [INDEX, SHARD, 'interrupted']),
}


def test_the_table_of_checkpoints_has_each_of_them() -> None:
    told = {
        name: result
        for names, result in rows('Checkpoints')
        for name in re.findall('`([^`]+)`', names)
        if names.startswith('`')
    }
    assert set(told) == set(OTHERS)
    assert all(result.startswith('rejected: ') for result in told.values())


@pytest.mark.parametrize('other', OTHERS)
def test_another_model_is_refused_by_its_name(
    other: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = OTHERS[other]
    make(folder)
    text, found = refused_unread(folder, words, monkeypatch)
    assert found.text in text and found.advice


# These are told by names of tensors, or are no layouts of a hub.
NOT_ON_A_HUB = (
    "the cache's",
    'module.',
    '_orig_mod.',
    '_fsdp',
    'base_model.',
    'a compiled',
    'shards',
    'without a',
)


@pytest.mark.parametrize(
    'other', [name for name in OTHERS if not any(word in name for word in NOT_ON_A_HUB)]
)
def test_another_model_on_the_hub_is_refused_without_its_weights(
    other: str, hub: Hub, folder: Path, tmp_path: Path
) -> None:
    make, words = OTHERS[other]
    make(folder)
    shutil.rmtree(tmp_path / 'served')
    folder.rename(tmp_path / 'served')
    with pytest.raises(CheckpointError) as caught:
        resolve_model(REPO)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)
    assert not list(HUB_HOME.rglob('*.safetensors'))
    assert not [path for path in hub.asked if path.endswith('.safetensors')]


def test_the_caches_folder_is_named_by_its_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder(folder)
    refused_unread(folder, ['set model to someone/tiny, or'], monkeypatch)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('openvla.Q4_K_M.gguf', ['GGUF', 'llama.cpp']),
        ('model.safetensors', ['is a file', 'name the folder']),
        ('action_head--1_checkpoint.pt', ['OpenVLA-OFT']),
    ],
)
def test_a_file_in_place_of_a_folder(name: str, words: list[str], tmp_path: Path) -> None:
    put(tmp_path, name)
    with pytest.raises(CheckpointError) as caught:
        resolve_model(str(tmp_path / name))
    assert not [word for word in [name, *words] if word not in str(caught.value)]


@pytest.mark.parametrize('name', ['runs/openvla-7b+bridge_orig+b16', 'runs/no_such_run'])
@pytest.mark.usefixtures('hub')
def test_the_name_of_a_run_folder_that_is_not_here(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_model(name)
    assert f'if a folder is meant: {Path.cwd()} has none of this name' in str(caught.value)
