# SPDX-License-Identifier: Apache-2.0
"""What is not plain OpenVLA is refused by name, before anything is loaded; what is, is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.checkpoints import edit_json, edit_weights, refused_unread, set_text_config
from support.places import GOLDEN, ROOT
from vla_ros.openvla import CheckpointError, OpenVLAPolicy
from vla_ros.openvla.plain import check_folder, check_names

OFT = 'is an OpenVLA-OFT folder'
ADAPTER = 'has an adapter beside its weights'
UNKNOWN = 'has weights that plain OpenVLA does not have'


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'')


def set_config(folder: Path, **changes: Any) -> None:
    edit_json(folder / 'config.json', lambda c: c.update(changes))


def link_elsewhere(folder: Path, name: str) -> None:
    (folder.parent / 'elsewhere').mkdir()
    put(folder.parent / 'elsewhere', 'adapter_model.safetensors')
    (folder / name).symlink_to(folder.parent / 'elsewhere')


# What is put beside plain weights, and what the error says.
RELATIVES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    **{
        name: (lambda folder, name=name: put(folder, name), [OFT, name])
        for name in (
            'action_head--150000_checkpoint.pt',
            'action_head--latest_checkpoint.pt',
            'action_head--checkpoint.pt',
            'Action_Head.safetensors',
            'my_action_head.bin',
            'proprio_projector--150000_checkpoint.pt',
            'noisy_action_projector--150000_checkpoint.pt',
            'vision_backbone--150000_checkpoint.pt',
            'state_encoder--150000_checkpoint.pt',
            'heads/action_head--150000_checkpoint.pt',
        )
    },
    'a VLA-Adapter': (
        lambda folder: put(folder, 'action_head--checkpoint.pt', 'vocab.json', 'merges.txt'),
        ['is a VLA-Adapter folder', 'action_head--checkpoint.pt'],
    ),
    **{
        name: (lambda folder, name=name: put(folder, name), [ADAPTER, name, 'merge_and_unload'])
        for name in (
            'lora_adapter/adapter_config.json',
            'lora_adapter/adapter_model.safetensors',
            'Lora_Adapter.old/adapter_model.bin',
            'adapter_config.json',
            'adapter_model.safetensors',
            'adapter_model.bin',
            'adapter_model-00001-of-00002.safetensors',
            'checkpoint-500/adapter_model.safetensors',
            'bridge_lora.pt',
            'peft_config.json',
        )
    },
    'a head in a folder': (lambda folder: put(folder, 'action_head/x.bin'), [OFT, 'action_head']),
    'an adapter in a folder': (lambda folder: put(folder, 'lora/x.bin'), [ADAPTER, 'lora']),
    'an empty lora_adapter': (
        lambda folder: (folder / 'lora_adapter').mkdir(),
        [ADAPTER, 'lora_adapter'],
    ),
    'an adapter with a config of its own': (
        lambda folder: put(folder, 'lora_adapter/config.json', 'lora_adapter/adapter_model.bin'),
        [ADAPTER, 'lora_adapter'],
    ),
    'an adapter behind a link': (
        partial(link_elsewhere, name='extra'),
        [ADAPTER, 'extra/adapter_model.safetensors'],
    ),
    **{
        name: (lambda folder, name=name: put(folder, name), [UNKNOWN, name])
        for name in (
            'diffusion.pt',
            'state_projector.pth',
            'film.bin',
            'vq.ckpt',
            'step-100000.pt',
            'ema.PT',
            'consolidated.00.pth',
        )
    },
    **{
        f'config.json: {key} is {value!r}': (
            lambda folder, key=key, value=value: set_config(folder, **{key: value}),
            ['config.json', key],
        )
        for key, value in {
            'quantization_config': {'quant_method': 'bitsandbytes', 'load_in_4bit': True},
            'compression_config': {'format': 'pack-quantized'},
            'use_proprio': True,
            'proprio_dim': 8,
            'use_film': True,
            'use_l1_regression': True,
            'use_diffusion': True,
            'num_images_in_input': 2,
            'num_actions_chunk': 8,
            'chunk_size': 25,
            'use_lora': True,
            'lora_rank': 32,
            'peft_type': 'LORA',
            'use_wrist_image': True,
            'image_sequence_len': 2,
            'future_action_window_size': 15,
            'action_horizon': 16,
            'action_tokenizer': 'extra_action_tokenizer',
            'vq_vae_path': 'vq/x',
            'state_dim': 8,
            'action_head_type': 'mlp',
            'vla': {'base_vlm': 'prism-qwen25-extra-dinosiglip-224px+0_5b'},
            'model_type': 'prismatic',
            'architectures': ['PrismaticForConditionalGeneration'],
            'auto_map': {'AutoModelForVision2Seq': 'modeling.OtherForActionPrediction'},
            'llm_backbone_id': 'qwen25-0_5b-extra',
        }.items()
    },
    'a config class of another model': (
        lambda folder: set_config(folder, auto_map={'AutoConfig': 'configuration.OtherConfig'}),
        ['config.json', 'auto_map', 'OtherConfig'],
    ),
    'a bidirectional language model': (
        partial(set_text_config, name='is_causal', value=False),
        ['config.json', 'text_config.is_causal'],
    ),
    'a quantized language model': (
        partial(set_text_config, name='quantization_config', value={'bits': 4}),
        ['config.json', 'text_config.quantization_config'],
    ),
    'adapters among the weights': (
        lambda folder: edit_weights(
            folder,
            lambda tensors: tensors.update(
                {
                    f'base_model.model.{name}.lora_A.default.weight': tensors.pop(name)
                    for name in list(tensors)
                }
            ),
        ),
        ['of an adapter that was never merged', 'lora_A', 'merge_and_unload'],
    ),
}


@pytest.mark.parametrize('relative', RELATIVES)
def test_a_relative_of_openvla_is_refused_by_name(
    relative: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = RELATIVES[relative]
    change(folder)
    text, found = refused_unread(folder, words, monkeypatch)
    assert text == (f'{found.text}; {found.advice}' if '; ' in text else found.text)


def as_released(folder: Path) -> None:
    put(folder, 'README.md', '.gitattributes', 'modeling_prismatic.py', 'tokenizer.model')
    put(folder, 'configuration_prismatic.py', 'processing_prismatic.py', '.git/lora_notes')
    code = {
        'AutoConfig': 'configuration_prismatic.OpenVLAConfig',
        'AutoModelForVision2Seq': 'a/b--modeling_prismatic.OpenVLAForActionPrediction',
    }
    set_config(folder, auto_map=code, transformers_version='4.40.1')
    (folder / 'generation_config.json').write_text('{}')
    (folder / 'processor_config.json').write_text('{"processor_class": "PrismaticProcessor"}')


def as_trained(folder: Path) -> None:
    """A run folder: what trainers leave, and older checkpoints in folders of their own."""
    shutil.copytree(folder, folder.parent / 'older')
    shutil.move(folder.parent / 'older', folder / 'checkpoint-500')
    put(folder, 'optimizer.pt', 'optimizer.bin', 'scheduler.pt', 'rng_state.pth', 'scaler.pt')
    put(folder, 'training_args.bin', 'random_states_0.pkl', 'rng_state_0.pth', 'wandb-log.pt')
    put(folder, 'optimizer.safetensors', 'lora_finetune.py', 'lora.log', 'adapter_notes.md')
    put(
        folder, 'events.out.tfevents.1700000000.lora', 'checkpoint-500/action_head--1_checkpoint.pt'
    )
    put(folder, 'global_step500/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt', 'latest')
    put(folder, 'wandb/run.wandb', 'exploration.json', 'pytorch_model.bin')
    (folder / 'trainer_state.json').write_text('{}')


def as_fully_written_out(folder: Path) -> None:
    """Keys of other policies that say no, and those of transformers that look like such."""
    off = {'use_proprio': False, 'num_images_in_input': 1, 'use_film': None, 'lora_rank': 0}
    off['action_tokenizer'] = 'action_tokenizer'
    set_config(folder, **off, chunk_size_feed_forward=0, output_projector_states=False)
    set_text_config(folder, 'is_causal', True)


@pytest.mark.parametrize('make', [as_released, as_trained, as_fully_written_out])
def test_what_is_plain_is_loaded(make: Callable[[Path], Any], folder: Path) -> None:
    make(folder)
    OpenVLAPolicy.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize(
    'sound', [GOLDEN / 'openvla_tiny', GOLDEN / 'openvla_v01_tiny', ROOT / 'models/blocks']
)
def test_our_own_folders_are_plain(sound: Path) -> None:
    check_folder(sound)


def test_a_list_of_names_is_enough() -> None:
    """As the hub gives it: files only, at any depth."""
    plain = ['config.json', 'model.safetensors', 'old/config.json', 'old/model.safetensors']
    check_names([*plain, 'old/action_head--1_checkpoint.pt', 'a/b/adapter_config.json'], 'x/y')
    with pytest.raises(CheckpointError, match=r'^x/y has an adapter.*: lora_adapter, lora_adap'):
        check_names([*plain, 'lora_adapter/adapter_model.safetensors'], 'x/y')


def test_pickles_alone_are_weights_of_unknown_kind(folder: Path) -> None:
    """They are refused as pickles, later."""
    check_names(['config.json', 'model.pt'], 'x/y')


def test_a_folder_that_can_not_be_looked_into(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='cannot be listed'):
        check_folder(tmp_path / 'nowhere')


def test_config_json_may_hold_anything(folder: Path) -> None:
    for changes in (
        {'architectures': 3},
        {'architectures': [[]]},
        {'auto_map': []},
        {'auto_map': {'AutoModel': [1]}},
        {'llm_backbone_id': 3, 'text_config': 'no'},
    ):
        (folder / 'config.json').write_text(json.dumps({'model_type': 'openvla', **changes}))
        with pytest.raises(CheckpointError, match=r'config\.json'):
            OpenVLAPolicy.from_pretrained(folder, device='cpu')
