# SPDX-License-Identifier: Apache-2.0
"""The golden cases of MiniVLA: those in test/golden, and where they are, all others.

The others are in the folder ``shared`` beside the repository (see test/golden/README.md).
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from support.family_golden import SHARED
from support.places import GOLDEN
from vla_ros.cli.convert import main
from vla_ros.convert import native
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import SINGLE_NAME
from vla_ros.types import Prediction

NAMES = ('minivla_tiny', 'minivla_wrist_vq_tiny')
RELEASED = SHARED / 'golden_family' / 'minivla'
_TINY_TOWERS = ['vit_vlatiny_patch14_reg4_dinov2', 'vit_vlatiny_patch14_siglip_224']


@dataclass(frozen=True)
class Case:
    """One golden case.

    :param root: the folder of the case's images and arrays.
    """

    name: str
    root: Path
    facts: Mapping[str, Any]

    @property
    def has_codes(self) -> bool:
        return 'vq' in self.name

    def folder(self) -> Path:
        """Return the checkpoint as vla_ros loads it."""
        return GOLDEN / self.name if self.root == GOLDEN else converted(self.name)

    def policy(self) -> OpenVLAPolicy:
        return _policy(self.folder())

    def pictures(self, policy: OpenVLAPolicy) -> dict[str, NDArray[np.uint8]]:
        pictures = {}
        for camera, path in zip(policy.config.cameras, self.facts['images'], strict=True):
            with Image.open(self.root / path) as image:
                pictures[camera] = np.asarray(image.convert('RGB'))
        return pictures

    def predict(self, policy: OpenVLAPolicy | None = None, **options: Any) -> Prediction:
        policy = policy or self.policy()
        words, key = self.facts['instruction'], self.facts['unnorm_key']
        return policy.predict_action(
            self.pictures(policy), words, key, return_logits=True, **options
        )

    def array(self, name: str) -> NDArray[Any]:
        with np.load(self.root / f'{self.name}.npz') as file:
            return file[f'{self.facts["name"]}/{name}']


def _cases() -> dict[str, Case]:
    cases = {}
    for root in (GOLDEN, RELEASED):
        for name in NAMES if root.is_dir() else ():
            for facts in json.loads((root / f'{name}.json').read_text())['cases']:
                end = '' if root == GOLDEN else '-shared'
                cases[f'{name}-{facts["name"]}{end}'] = Case(name, root, facts)
    return cases


CASES = _cases()
TINY, TINY_VQ = CASES['minivla_tiny-square'], CASES['minivla_wrist_vq_tiny-square']


@cache
def converted(name: str) -> Path:
    """Return a released run folder, converted."""
    out = _temporary() / name
    vq = next((RELEASED / 'vq').iterdir()) if 'vq' in name else None
    with tiny_towers():
        assert main(arguments(RELEASED / name, out, RELEASED / 'qwen_tiny', vq)) == 0
    return out


def arguments(folder: Path, out: Path, language: Path, vq: Path | None) -> list[str]:
    """Return those of vla_convert."""
    more = [] if vq is None else ['--vq', str(vq)]
    return [str(folder), str(out), '--language-model', str(language), *more]


@contextmanager
def tiny_towers() -> Iterator[None]:
    """Let vla_convert name the tiny towers, which no released folder has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, '_TOWERS', _TINY_TOWERS)
        yield


def write_run(name: str, directory: Path) -> tuple[Path, Path, Path | None]:
    """Write a committed checkpoint as its training would have left it.

    :returns: the run folder, that of the language model, and that of the codes' network.
    """
    source = GOLDEN / name
    run, language, vq = directory / 'run', directory / 'qwen', None
    for folder in (run / 'checkpoints', language):
        folder.mkdir(parents=True)
    tensors = load_file(source / SINGLE_NAME)
    _write_weights(tensors, run / 'checkpoints' / 'step-000100-epoch-01-loss=0.5000.pt')
    shutil.copyfile(source / 'dataset_statistics.json', run / 'dataset_statistics.json')
    with_codes = 'vq' in name
    vla = {
        'base_vlm': 'prism-qwen25-extra-dinosiglip-224px+0_5b',
        'action_tokenizer': f'{"libero_vq_" if with_codes else ""}extra_action_tokenizer',
        'image_sequence_len': 2 if with_codes else 1,
        'use_wrist_image': with_codes,
    }
    (run / 'config.json').write_text(json.dumps({'vla': vla, 'seed': 7}))
    text = json.loads((source / 'config.json').read_text())['text_config']
    (language / 'config.json').write_text(json.dumps(text))
    tokenizer = json.loads((source / 'tokenizer.json').read_text())
    tokenizer['added_tokens'] = [
        one for one in tokenizer['added_tokens'] if not one['content'].startswith('<|extra_')
    ]
    (language / 'tokenizer.json').write_text(json.dumps(tokenizer))
    if with_codes:
        vq = directory / 'vq'
        _write_codes(tensors, vq)
    return run, language, vq


def _write_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    renamed = {
        'vision_backbone.featurizer': ('vision_backbone', 'dino_featurizer'),
        'vision_backbone.fused_featurizer': ('vision_backbone', 'siglip_featurizer'),
        **{f'projector.fc{i + 1}': ('projector', f'projector.{2 * i}') for i in range(3)},
        'language_model': ('llm_backbone', 'llm'),
    }
    model: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for old, (part, new) in renamed.items():
            if name.startswith(f'{old}.'):
                own = tensor.clone()
                own.of_training = True  # as Prismatic's tensors carry an attribute
                key = new + name.removeprefix(old).replace('scale_factor', 'gamma')
                model.setdefault(part, {})[key] = own
    llm = model['llm_backbone']
    llm['llm.lm_head.weight'] = llm['llm.model.embed_tokens.weight'].clone()
    torch.save({'model': model}, path)


def _write_codes(tensors: Mapping[str, Tensor], directory: Path) -> None:
    (directory / 'checkpoints').mkdir(parents=True)
    config = {
        **{'input_dim_w': 7, 'input_dim_h': 8, 'n_latent_dims': 32, 'vqvae_n_embed': 128},
        **{'vqvae_groups': 7, 'act_scale': 1.0, 'eval': False, 'load_dir': None},
    }
    (directory / 'config.json').write_text(json.dumps(config))
    books = tensors['code_decoder.codebooks']
    embedding = {}
    for group, book in enumerate(books):
        embedding[f'layers.{group}._codebook.embed'] = book[None].clone()
        embedding[f'layers.{group}._codebook.embed_avg'] = 2 * book[None]
    decoder = {
        name.removeprefix('code_decoder.'): one
        for name, one in tensors.items()
        if name.startswith('code_decoder.') and 'codebooks' not in name
    }
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    content = {'decoder': decoder, 'vq_embedding': embedding, 'optimizer': optimizer.state_dict()}
    torch.save(content, directory / 'checkpoints' / 'model.pt')


@cache
def _policy(folder: Path) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(folder, device='cpu', dtype='float32')


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix='vla_ros_minivla_'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
