# SPDX-License-Identifier: Apache-2.0
"""Merged adapters equal PEFT's own merge; adapters of another formula are rejected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from support.checkpoints import SHARD, edit_json
from support.trainings import HEAD, PROJECTOR, STATE
from vla_ros.cli.convert import main
from vla_ros.openvla import CheckpointError, OpenVLAPolicy
from vla_ros.openvla.layout import read_layout
from vla_ros.openvla.plain import check_folder

ADAPTER = 'adapter_model.safetensors'


class Model(nn.Module):
    """The modules of a checkpoint's weights that adapters change, under the same names."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            *path, last = name.removesuffix('.weight').split('.')
            parent: nn.Module = self
            for part in path:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, layer(weight))


def layer(weight: Tensor) -> nn.Module:
    outputs, inputs, *kernel = weight.shape
    made = (
        nn.Conv2d(inputs, outputs, kernel[0], stride=kernel[0], bias=False)
        if kernel
        else nn.Linear(inputs, outputs, bias=False)
    )
    made.weight.data = weight.clone()
    return made


def layers(folder: Path) -> dict[str, Tensor]:
    """Weights of linear layers and of the patches' convolutions, in float32."""
    ends = ('_proj.weight', 'qkv.weight', 'fc1.weight', 'fc2.weight', 'patch_embed.proj.weight')
    return {
        name: weight.float()
        for name, weight in load_file(folder / SHARD).items()
        if name.endswith(ends) and weight.dim() in (2, 4)
    }


def train(folder: Path, **settings: Any) -> peft.PeftModel:
    """Make an adapter with random weights in a folder."""
    torch.manual_seed(3)
    weights = layers(folder)
    names = [name.removesuffix('.weight') for name in weights]
    config = peft.LoraConfig(target_modules=names, **settings)
    model = peft.get_peft_model(Model(weights), config)
    for name, parameter in model.named_parameters():
        if 'lora_' in name:
            nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder / 'lora_adapter')
    return model


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / 'base'))


SETTINGS: dict[str, dict[str, Any]] = {
    'as OpenVLA trains': {'r': 32, 'lora_alpha': 16, 'init_lora_weights': 'gaussian'},
    'rank-stabilised': {'r': 8, 'lora_alpha': 20, 'use_rslora': True},
    'other ranks and alphas': {
        'r': 8,
        'lora_alpha': 4,
        'rank_pattern': {'q_proj': 2, 'layers.1.self_attn.v_proj': 3},
        'alpha_pattern': {'fc1': 7, 'layers.0.self_attn.q_proj': 1, 'patch_embed.proj': 2},
    },
}


@pytest.mark.parametrize('name', SETTINGS)
def test_a_merge_equals_pefts(name: str, base: Path, tmp_path: Path) -> None:
    merged = train(base, **SETTINGS[name]).merge_and_unload().state_dict()
    options = ['--adapter', 'merge', '--merged-dtype', 'float32']
    assert main([str(base), str(tmp_path / 'out'), *options]) == 0
    found, before = load_file(tmp_path / 'out' / SHARD), load_file(base / SHARD)
    assert found.keys() == before.keys() and len(merged) > 40
    for key, weight in found.items():
        if key in merged:
            assert weight.dtype == torch.float32
            torch.testing.assert_close(weight, merged[key], rtol=0, atol=1e-6)
            assert (weight - before[key].float()).abs().max() > 1e-3
        else:
            assert torch.equal(weight, before[key])
    assert read_layout(tmp_path / 'out') is None
    check_folder(tmp_path / 'out')
    OpenVLAPolicy.from_pretrained(tmp_path / 'out', device='cpu').close()


def test_bfloat16_is_rounded_once(base: Path, tmp_path: Path) -> None:
    merged = train(base, r=4, lora_alpha=8).merge_and_unload().state_dict()
    assert main([str(base), str(tmp_path / 'out'), '--adapter', 'merge']) == 0
    found = load_file(tmp_path / 'out' / SHARD)
    wrong = [key for key, weight in merged.items() if not rounded(found[key], weight)]
    assert not wrong


def rounded(weight: Tensor, exact: Tensor) -> bool:
    """Whether it is the nearest number, or the other of two that are almost equally near."""
    half = exact.abs() * 2.0**-8 + 1e-6
    return weight.dtype == torch.bfloat16 and bool(((weight.float() - exact).abs() <= half).all())


def alone(base: Path) -> Path:
    """The adapter's folder of a training that merged nothing: no weights."""
    folder = base.parent / 'run'
    shutil.move(base / 'lora_adapter', folder)
    return folder


def test_an_adapter_alone_is_merged_into_its_base(base: Path, tmp_path: Path, capsys: Any) -> None:
    merged = train(base, r=4, lora_alpha=8).merge_and_unload().state_dict()
    folder = alone(base)
    edit_json(folder / 'adapter_config.json', lambda c: c.update(base_model_name_or_path='x/y'))
    assert main([str(folder), str(tmp_path / 'out')]) == 1
    told = capsys.readouterr().err
    assert "add --base with the folder of its base, 'x/y'" in told
    options = ['--base', str(base), '--merged-dtype', 'float32']
    assert main([str(folder), str(tmp_path / 'out'), *options]) == 0
    found = load_file(tmp_path / 'out' / SHARD)
    assert all(torch.allclose(found[key], merged[key], rtol=0, atol=1e-6) for key in merged)
    assert (tmp_path / 'out' / 'config.json').read_bytes() == (base / 'config.json').read_bytes()


def test_a_run_of_oft_with_an_adapter_and_a_head(
    base: Path, oft_tiny: Path, tmp_path: Path
) -> None:
    train(base, r=4, lora_alpha=8)
    folder = alone(base)
    for name in (HEAD, PROJECTOR, 'dataset_statistics.json'):
        shutil.copy(oft_tiny / name, folder)
    options = ['--base', str(base), '--preset', 'libero']
    assert main([str(folder), str(tmp_path / 'out'), *options]) == 0
    layout = read_layout(tmp_path / 'out')
    assert layout is not None and (layout.action_head, layout.state_dim) == ('l1', STATE)


def test_weights_beside_an_adapter_are_not_guessed(base: Path, tmp_path: Path, capsys: Any) -> None:
    train(base, r=4, lora_alpha=8)
    with pytest.raises(CheckpointError) as caught:
        check_folder(base)
    assert f'vla_convert {base} {base}-converted --adapter merge' in str(caught.value)
    assert main([str(base), str(tmp_path / 'out')]) == 1
    assert '--adapter merged if the weights contain it already' in capsys.readouterr().err
    assert main([str(base), str(tmp_path / 'out'), '--adapter', 'merged']) == 0
    found, before = load_file(tmp_path / 'out' / SHARD), load_file(base / SHARD)
    assert all(torch.equal(found[name], before[name]) for name in before)


def settings(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / 'adapter_config.json', lambda c: c.update(changes))


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        content = load_file(folder / ADAPTER)
        change(content)
        save_file(content, folder / ADAPTER)

    return do


KEY = 'base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight'
MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    'DoRA': (settings(use_dora=True), 'use_dora'),
    'trained biases': (settings(bias='all'), 'bias'),
    'whole modules': (settings(modules_to_save=['lm_head']), 'modules_to_save'),
    'PiSSA': (settings(init_lora_weights='pissa'), 'init_lora_weights'),
    'a setting of the future': (settings(use_new_formula=True), 'use_new_formula'),
    'another method': (settings(peft_type='IA3'), "peft_type 'IA3'"),
    'no alpha': (settings(lora_alpha=None), 'lora_alpha'),
    'an alpha that is text': (settings(lora_alpha='16'), 'lora_alpha'),
    'an infinite alpha': (settings(lora_alpha=float('inf')), 'lora_alpha'),
    'an endless pattern': (settings(alpha_pattern={'(a+)+': 1}), 'alpha_pattern'),
    'one half': (tensors(lambda c: c.pop(KEY)), 'only one half'),
    'another rank': (tensors(lambda c: c.update({KEY: torch.ones(3, 64)})), 'shapes'),
    'another base': (tensors(lambda c: c.update({KEY: torch.ones(4, 65)})), 'shapes'),
    'a layer that is missing': (
        tensors(lambda c: c.update({KEY.replace('q_proj', 'x_proj'): torch.ones(4, 64)})),
        'another base',
    ),
    'an embedding': (
        tensors(lambda c: c.update({'base_model.model.x.lora_embedding_A': torch.ones(4, 64)})),
        'lora_embedding_A',
    ),
    'a value that is NaN': (
        tensors(lambda c: c.update({KEY: torch.full((4, 64), torch.nan)})),
        'NaN',
    ),
    'no config': (lambda folder: (folder / 'adapter_config.json').unlink(), 'adapter_config.json'),
    'pickled weights': (
        lambda folder: (folder / ADAPTER).rename(folder / 'adapter_model.bin'),
        ADAPTER,
    ),
}


@pytest.fixture(scope='module')
def adapter(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp('adapter') / 'base')
    train(folder, r=4, lora_alpha=8)
    return folder / 'lora_adapter'


@pytest.mark.parametrize('name', MISTAKES)
def test_what_is_not_this_formula_is_rejected(
    name: str, adapter: Path, base: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(adapter, base / 'lora_adapter')
    change, word = MISTAKES[name]
    change(base / 'lora_adapter')
    assert main([str(base), str(tmp_path / 'out'), '--adapter', 'merge']) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert word in told and told.startswith('vla_convert: '), told
    assert [*tmp_path.iterdir()] == [base]
