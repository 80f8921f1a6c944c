# SPDX-License-Identifier: Apache-2.0
"""MiniVLA, from the run folders of its training.

The config of its language model and the tokenizer are not in them: they are those of Qwen.
Source of names and of what they mean: Stanford-ILIAD/openvla-mini, whose programs choose the parts
by the names in the section "vla" of config.json.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from tokenizers import Tokenizer

from vla_ros.convert.errors import ConvertError
from vla_ros.convert.layout import STATISTICS_NAME, action_dim_of
from vla_ros.convert.options import Options
from vla_ros.convert.plan import Plan
from vla_ros.convert.reading import tensors_to_safetensors
from vla_ros.convert.weights import Weight, opened_weights
from vla_ros.openvla.errors import listing
from vla_ros.openvla.json_files import read_json, read_text
from vla_ros.openvla.layout import Codes, Layout
from vla_ros.openvla.model import stored_key
from vla_ros.openvla.pages import release_pages
from vla_ros.openvla.preprocessor_config import preprocessor_config
from vla_ros.text import quoted

_BASE = re.compile(r'prism-qwen25(-extra)?-dinosiglip-224px\+(\w+)')
_TOWERS = ['vit_large_patch14_reg4_dinov2.lvd142m', 'vit_so400m_patch14_siglip_224']
_PLAIN, _EXTRA, _CODES = 'action_tokenizer', 'extra_action_tokenizer', 'vq_extra_action_tokenizer'
_EXTRA_TOKENS = [f'<|extra_{number}|>' for number in range(256)]
_CAMERAS = ('image', 'wrist_image')
_STEPS = re.compile(r'step-.*\.pt')
_LM_HEAD, _EMBEDDING = 'language_model.lm_head.weight', 'language_model.model.embed_tokens.weight'
_RENAMED = {
    'model.vision_backbone.dino_featurizer.': 'vision_backbone.featurizer.',
    'model.vision_backbone.siglip_featurizer.': 'vision_backbone.fused_featurizer.',
    'model.projector.projector.0.': 'projector.fc1.',
    'model.projector.projector.2.': 'projector.fc2.',
    'model.projector.projector.4.': 'projector.fc3.',
    'model.llm_backbone.llm.': 'language_model.',
}
_FILE, _CODES_FILE = 'model-main.safetensors', 'model-codes.safetensors'
_QWEN = 'hf download Qwen/Qwen2.5-0.5B config.json tokenizer.json --local-dir FOLDER'


def is_native(directory: Path) -> bool:
    """Return whether the folder is a run folder of Prismatic."""
    path = directory / 'config.json'
    return os.path.lexists(path) and 'vla' in read_json(path)


def read_native(directory: Path, options: Options, scratch: Path) -> Plan:
    """Return what the folder for the node has.

    :param scratch: folder for the safetensors that are read.
    :raises ConvertError: if it is no MiniVLA, or options are missing or contradict it.
    :raises CheckpointError: if a JSON file is damaged.
    """
    vla = read_json(directory / 'config.json').get('vla')
    vla = vla if isinstance(vla, dict) else {}
    base = _BASE.fullmatch(PurePosixPath(str(vla.get('base_vlm'))).name)
    if not base:
        raise ConvertError(
            f'{directory} is a run folder of Prismatic with base_vlm {quoted(vla.get("base_vlm"))}',
            'of these MiniVLA is supported (prism-qwen25-extra-dinosiglip-224px+0_5b)',
        )
    kind = _tokenizer_kind(vla, base, directory)
    cameras = _cameras(vla, options, directory)
    _check_options(options, kind, directory)
    language = options.language_model or Path()
    tokenizer, end = _tokenizer(language / 'tokenizer.json', kind, bool(base[1]))
    weights = _weights(directory, scratch)
    statistics = read_text(directory / STATISTICS_NAME)
    action_dim = action_dim_of(json.loads(statistics), directory)
    codes, bins, rows = None, 256, 1
    if kind == _CODES and options.vq:
        codes, bins, rows, network = _code_decoder(options.vq, scratch, action_dim)
        weights |= network
    llm = f'qwen25-{base[2]}{base[1] or ""}'
    config = _config(language, llm, weights[_EMBEDDING].shape[0], end, bins)
    layout = Layout(
        action_head='decoded_tokens',
        horizon=rows,
        action_dim=action_dim,
        cameras=cameras,
        state_dim=0,
        normalization='q01_q99',
        film=False,
        prompt='minivla',
        codes=codes,
    )
    texts = {
        'config.json': json.dumps(config, indent=2),
        'preprocessor_config.json': json.dumps(preprocessor_config(True, False, rounded=False)),
        'tokenizer.json': tokenizer,
        STATISTICS_NAME: statistics,
    }
    return Plan(weights, layout, {name: text.encode() for name, text in texts.items()})


def _tokenizer_kind(vla: Mapping[str, Any], base: re.Match[str], directory: Path) -> str:
    """Return the kind of action tokens: of text, additional ones, or codes."""
    name = str(vla.get('action_tokenizer'))
    kind = _CODES if name.endswith(f'_{_CODES}') else name
    if kind not in (_PLAIN, _EXTRA, _CODES) or (kind != _PLAIN and not base[1]):
        raise ConvertError(
            f'{directory} has the action_tokenizer {quoted(name)} with base_vlm {quoted(base[0])}',
            expected=f'{_PLAIN}, or {_EXTRA} or NAME_{_CODES} with a base_vlm of more tokens',
        )
    return kind


def _tokenizer(path: Path, kind: str, adds_tokens: bool) -> tuple[str, int]:
    """Return the content of tokenizer.json, and the id behind the last action token."""
    text = read_text(path)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise ConvertError(f'{path} is no tokenizer: {error}', _QWEN) from error
    added = json.loads(text).get('added_tokens') or ()
    # The library gives other ids to tokens behind an id without one.
    if any(tokenizer.token_to_id(one['content']) != one['id'] for one in added):
        raise ConvertError(f'{path} has ids without a token', f'take the original: {_QWEN}')
    if adds_tokens:
        tokenizer.add_tokens(_EXTRA_TOKENS)
    return tokenizer.to_str(), tokenizer.get_vocab_size(with_added_tokens=kind != _PLAIN)


def _cameras(vla: Mapping[str, Any], options: Options, directory: Path) -> tuple[str, ...]:
    count = 2 if vla.get('use_wrist_image') else 1
    images = vla.get('image_sequence_len', 1)
    if images != count:
        raise ConvertError(
            f'{directory} takes {quoted(images)} images of {count} cameras: earlier ones as well',
            'take a checkpoint with image_sequence_len 1, or 2 with use_wrist_image; a history of '
            'images is not supported',
        )
    cameras = options.cameras or _CAMERAS[:count]
    if len(cameras) != count:
        raise ConvertError(
            f'{directory} has {count} cameras, and --cameras names {len(cameras)}',
            'name the camera of the whole scene, then the one at the wrist if there are two',
        )
    return cameras


def _check_options(options: Options, kind: str, directory: Path) -> None:
    """Check that nothing is said that MiniVLA has not, and what it needs is said."""
    others = replace(options, language_model=None, vq=None, cameras=None)
    if others != Options():
        raise ConvertError(
            f'{directory} is of MiniVLA, whose folder says more than other trainings',
            'use no other options than --language-model, --vq and --cameras',
        )
    if options.language_model is None:
        raise ConvertError(
            f'{directory} has neither the config of its language model nor the tokenizer',
            f'add --language-model FOLDER; {_QWEN}',
        )
    if (options.vq is None) == (kind == _CODES):
        raise ConvertError(
            f'{directory} has {"codes for" if kind == _CODES else "no codes, but"} action tokens',
            'leave --vq out'
            if options.vq
            else 'add --vq with the folder of their network (of Stanford-ILIAD/pretrain_vq)',
        )


def _weights(directory: Path, scratch: Path) -> dict[str, Weight]:
    """Return the weights of towers, projector and language model, under the node's names."""
    folder = directory / 'checkpoints'
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    steps = [name for name in names if _STEPS.fullmatch(name)]
    if len(steps) != 1:
        raise ConvertError(
            f'{folder} has {len(steps)} files step-*.pt: {listing(steps)}',
            'leave one of them there, and no other',
        )
    path = folder / steps[0]
    found: dict[str, Weight] = {}
    for name, weight in _read(path, scratch, 'model').items():
        old = next((one for one in _RENAMED if name.startswith(one)), '')
        new = stored_key(_RENAMED[old] + name.removeprefix(old)) if old else ''
        if not new or new in found:
            raise ConvertError(f'{path} has the tensor {quoted(name)}', 'take a MiniVLA')
        found[new] = replace(weight, file=_FILE)
    missing = {'vision_backbone', 'projector', 'language_model'} - {
        name.partition('.')[0] for name in found
    }
    if missing or _EMBEDDING not in found:
        # Frozen towers are not stored: the program then downloads timm's.
        raise ConvertError(
            f'{path} lacks {listing(missing or {_EMBEDDING})}', 'take one with all weights'
        )
    head = found.pop(_LM_HEAD, None)
    if head is not None and not _equal(head, found[_EMBEDDING]):
        raise ConvertError(
            f'{path}: llm.lm_head.weight differs from the embedding', 'they are one in MiniVLA'
        )
    return found


def _equal(first: Weight, second: Weight) -> bool:
    if first.shape != second.shape:
        return False
    one, other = first.load(), second.load()
    equal = torch.equal(one, other)
    release_pages(one)
    release_pages(other)
    return equal


def _read(path: Path, scratch: Path, *parts: str) -> dict[str, Weight]:
    readable = scratch / f'{path.name}.safetensors'
    tensors_to_safetensors(path, readable, parts)
    return opened_weights(readable, path)


def _code_decoder(
    directory: Path, scratch: Path, action_dim: int
) -> tuple[Codes, int, int, dict[str, Weight]]:
    """Return the codes, their number in a group, the rows of a chunk, and the network's weights."""
    path = directory / 'config.json'
    config = read_json(path)
    if config.get('input_dim_w') != action_dim:
        raise ConvertError(
            f'{path}: input_dim_w is {quoted(config.get("input_dim_w"))}',
            expected=f'{action_dim}, the values of an action by {STATISTICS_NAME}',
        )
    needed = ('input_dim_h', 'vqvae_n_embed', 'vqvae_groups', 'n_latent_dims', 'act_scale')
    missing = set(needed) - config.keys()
    if missing:
        raise ConvertError(f'{path} lacks {listing(missing)}', 'take the folder of a VQ training')
    rows, bins, groups, latent_dim, scale = (config[name] for name in needed)
    path = directory / 'checkpoints' / 'model.pt'
    read = _read(path, scratch, 'decoder', 'vq_embedding')
    books = [read.get(f'vq_embedding.layers.{group}._codebook.embed') for group in range(groups)]
    found = [one for one in books if one is not None and one.shape == (1, bins, latent_dim)]
    first = read.get('decoder.encoder.0.weight')
    if len(found) != groups or first is None:
        raise ConvertError(
            f'{path} has {len(found)} codebooks of {bins} codes of {latent_dim} values',
            expected=f'{groups}, and a decoder',
        )
    name = 'code_decoder.codebooks'
    weights = {
        name: Weight(
            name,
            found[0].dtype,
            (groups, bins, latent_dim),
            _CODES_FILE,
            lambda: torch.cat([one.load() for one in found]),
        ),
        **{
            f'code_{name}': replace(one, file=_CODES_FILE)
            for name, one in read.items()
            if name.startswith('decoder.')
        },
    }
    return Codes(groups, latent_dim, first.shape[0], scale), bins, rows, weights


def _config(language: Path, llm: str, rows: int, end: int, bins: int) -> dict[str, Any]:
    """Return the content of config.json.

    :param rows: of the embedding.
    :param end: the id behind the last action token.
    """
    text = read_json(language / 'config.json')
    if text.get('model_type') != 'qwen2':
        raise ConvertError(
            f'{language / "config.json"} has model_type {quoted(text.get("model_type"))}',
            f"expected 'qwen2': {_QWEN}",
        )
    return {
        'model_type': 'openvla',
        'vision_backbone_id': 'dinosiglip-vit-so-224px',
        'timm_model_ids': _TOWERS,
        'image_sizes': [224, 224],
        'use_fused_vision_backbone': True,
        'image_resize_strategy': 'resize-naive',
        'llm_backbone_id': llm,
        'n_action_bins': bins,
        'pad_to_multiple_of': rows - end,
        'pad_token_id': text.get('eos_token_id'),
        'text_config': text | {'vocab_size': rows},
    }
