# SPDX-License-Identifier: Apache-2.0
"""Run folders of MiniVLA: converted ones give the reference's actions; others are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.checkpoints import edit_json
from support.minivla_golden import NAMES, TINY, TINY_VQ, arguments, tiny_towers, write_run
from support.places import GOLDEN
from vla_ros.cli.convert import main
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import SINGLE_NAME, Checkpoint
from vla_ros.openvla.layout import read_layout
from vla_ros.openvla.plain import check_folder


@pytest.mark.parametrize('name', NAMES)
def test_a_small_training(name: str, tmp_path: Path) -> None:
    run, language, vq = write_run(name, tmp_path)
    out = tmp_path / 'out'
    with tiny_towers():
        assert main(arguments(run, out, language, vq)) == 0
    expected = load_file(GOLDEN / name / SINGLE_NAME)
    found = {key: one for file in Checkpoint(out).files for key, one in load_file(file).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert read_layout(out) == read_layout(GOLDEN / name)
    for file in ('preprocessor_config.json', 'dataset_statistics.json', 'tokenizer.json'):
        own, committed = (json.loads((one / file).read_text()) for one in (out, GOLDEN / name))
        assert own == committed
    check_folder(out)
    case = TINY_VQ if vq else TINY
    policy = OpenVLAPolicy.from_pretrained(out, device='cpu', dtype='float32')
    prediction = case.predict(policy)
    assert prediction.tokens is not None
    assert prediction.tokens.ids.tolist() == case.facts['new_tokens']


def test_tokens_of_the_text_vocabulary(tmp_path: Path) -> None:
    """Without additional tokens actions are the last ones of the text, and none is added."""
    run, language, _ = write_run('minivla_tiny', tmp_path)
    set_vla(base_vlm='prism-qwen25-dinosiglip-224px+0_5b', action_tokenizer='action_tokenizer')(run)
    with tiny_towers():
        assert main(arguments(run, tmp_path / 'out', language, None)) == 0
    policy = OpenVLAPolicy.from_pretrained(tmp_path / 'out', device='cpu', dtype='float32')
    assert policy.config.action_tokenizer.vocab_size == 466  # behind these: 22 of ChatML
    assert 'extra' not in (tmp_path / 'out' / 'tokenizer.json').read_text()


def test_the_scale_of_codes_is_kept(tmp_path: Path) -> None:
    run, language, vq = write_run('minivla_wrist_vq_tiny', tmp_path)
    assert vq is not None
    edit_json(vq / 'config.json', lambda content: content.update(act_scale=2.0))
    with tiny_towers():
        assert main(arguments(run, tmp_path / 'out', language, vq)) == 0
    policy = OpenVLAPolicy.from_pretrained(tmp_path / 'out', device='cpu', dtype='float32')
    chunk = TINY_VQ.predict(policy).normalized_actions
    assert chunk is not None
    assert abs(chunk - 2 * TINY_VQ.array('normalized_chunk')).max() < 1e-5


def set_vla(**fields: Any) -> Callable[[Path], None]:
    return lambda run: edit_json(run / 'config.json', lambda content: content['vla'].update(fields))


def stored(path: Path) -> Path:
    return next((path / 'checkpoints').iterdir())


def rewrite(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def do(run: Path) -> None:
        content = torch.load(stored(run), weights_only=True)
        change(content['model'])
        torch.save(content, stored(run))

    return do


def of_vq(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda run: change(run.parent / 'vq')


MISTAKES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], list[str]]] = {
    'another Prismatic': (
        set_vla(base_vlm='prism-dinosiglip-224px+7b'),
        (),
        ['base_vlm', 'prism-dinosiglip-224px+7b', 'MiniVLA is supported'],
    ),
    'an unknown tokenizer': (set_vla(action_tokenizer='fast'), (), ["action_tokenizer 'fast'"]),
    'codes without the tokens': (
        set_vla(base_vlm='prism-qwen25-dinosiglip-224px+0_5b'),
        (),
        ['with base_vlm'],
    ),
    'a history': (set_vla(image_sequence_len=4), (), ['4 images of 2 cameras', 'history']),
    'a history of one camera': (set_vla(use_wrist_image=False), (), ['2 images of 1 cameras']),
    'one camera named': (lambda run: None, ('--cameras', 'image'), ['has 2 cameras', 'names 1']),
    'options of others': (lambda run: None, ('--preset', 'libero'), ['no other options']),
    'no codes': (set_vla(action_tokenizer='extra_action_tokenizer'), (), ['leave --vq out']),
    'two steps': (
        lambda run: shutil.copy(stored(run), run / 'checkpoints' / 'step-2.pt'),
        (),
        ['2 files step-*.pt', 'leave one'],
    ),
    'no step': (lambda run: stored(run).rename(run / 'checkpoints' / 'x'), (), ['0 files']),
    'frozen towers': (
        rewrite(lambda model: model.pop('vision_backbone')),
        (),
        ['lacks vision_backbone', 'all weights'],
    ),
    'another head': (
        rewrite(lambda model: model['llm_backbone']['llm.lm_head.weight'].add_(1)),
        (),
        ['lm_head', 'differs from the embedding'],
    ),
    'a tensor of others': (
        rewrite(lambda model: model['projector'].update(more=torch.ones(1))),
        (),
        ['model.projector.more'],
    ),
    'one group less': (
        of_vq(lambda vq: edit_json(vq / 'config.json', lambda c: c.update(vqvae_groups=8))),
        (),
        ['7 codebooks of 128 codes of 32 values', 'expected 8'],
    ),
    'codes of other actions': (
        of_vq(lambda vq: edit_json(vq / 'config.json', lambda c: c.update(input_dim_w=14))),
        (),
        ['input_dim_w is 14', 'expected 7'],
    ),
    'codes without a size': (
        of_vq(lambda vq: edit_json(vq / 'config.json', lambda c: c.pop('n_latent_dims'))),
        (),
        ['lacks n_latent_dims'],
    ),
    'codes without a network': (
        of_vq(lambda vq: torch.save({'decoder': {}, 'x': 1}, vq / 'checkpoints' / 'model.pt')),
        (),
        ['has no vq_embedding'],
    ),
    'no Qwen': (
        lambda run: edit_json(
            run.parent / 'qwen' / 'config.json', lambda c: c.update(model_type='llama')
        ),
        (),
        ["model_type 'llama'", 'Qwen2.5-0.5B'],
    ),
    'a tokenizer that lacks a token': (
        lambda run: edit_json(
            run.parent / 'qwen' / 'tokenizer.json', lambda c: c['added_tokens'].pop(3)
        ),
        (),
        ['has ids without a token'],
    ),
    'a broken tokenizer': (
        lambda run: (run.parent / 'qwen' / 'tokenizer.json').write_text('{}'),
        (),
        ['is no tokenizer'],
    ),
}


@pytest.fixture(scope='module')
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('native')
    write_run('minivla_wrist_vq_tiny', folder)
    return folder


@pytest.mark.parametrize('name', MISTAKES)
def test_what_does_not_fit_is_one_line(name: str, a_run: Path, tmp_path: Path, capsys: Any) -> None:
    change, options, words = MISTAKES[name]
    shutil.copytree(a_run, tmp_path / 'a')
    change(tmp_path / 'a' / 'run')
    run, language, vq = (tmp_path / 'a' / one for one in ('run', 'qwen', 'vq'))
    with tiny_towers():
        assert main([*arguments(run, tmp_path / 'out', language, vq), *options]) == 1
    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if ' reading ' not in line]
    assert len(errors) == 1 and not [word for word in words if word not in errors[0]], told.err
    assert [*tmp_path.iterdir()] == [tmp_path / 'a']


def test_the_language_model_and_the_codes_must_be_said(a_run: Path, capsys: Any) -> None:
    run, out = str(a_run / 'run'), str(a_run / 'out')
    assert main([run, out]) == 1
    assert 'add --language-model FOLDER; hf download Qwen' in capsys.readouterr().err
    assert main([run, out, '--language-model', str(a_run / 'qwen')]) == 1
    assert 'add --vq' in capsys.readouterr().err
