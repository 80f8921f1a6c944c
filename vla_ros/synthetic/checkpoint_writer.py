"""Writer of checkpoints in the released layout, with weights that the caller gives.

For demonstrations, tests, and the training of models/blocks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor

from vla_ros.openvla.checkpoint import INDEX_NAME
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.model import OpenVLAModel, stored_key
from vla_ros.openvla.processor import SPACE_TOKEN_ID
from vla_ros.synthetic.own_folder import OwnFolder

_TINY_LLAMA = {
    'hidden_size': 64,
    'intermediate_size': 172,
    'num_attention_heads': 4,
    'num_hidden_layers': 3,
}
_FUSED = {
    'arch_specifier': 'no-align+fused-gelu-mlp',
    'llm_backbone_id': 'llama2-7b-pure',
    'vision_backbone_id': 'dinosiglip-vit-so-224px',
    'use_fused_vision_backbone': True,
    'image_resize_strategy': 'resize-naive',
}
_SHAPES: dict[str, dict[str, Any]] = {
    'tiny': {
        **_FUSED,
        'timm_model_ids': ['vit_vlatiny_patch14_reg4_dinov2', 'vit_vlatiny_patch14_siglip_224'],
        'text_config': _TINY_LLAMA,
    },
    'blocks': {  # trained by training/train.py
        **_FUSED,
        'timm_model_ids': ['vit_vlablocks_patch28_reg4_dinov2', 'vit_vlablocks_patch28_siglip_224'],
        'text_config': {**_TINY_LLAMA, 'num_hidden_layers': 4},
    },
    'openvla-7b': {
        **_FUSED,
        'timm_model_ids': [
            'vit_large_patch14_reg4_dinov2.lvd142m',
            'vit_so400m_patch14_siglip_224',
        ],
        'text_config': {},
    },
    'openvla-v01-7b': {
        'arch_specifier': 'no-align+gelu-mlp',
        'llm_backbone_id': 'vicuna-v15-7b',
        'vision_backbone_id': 'siglip-vit-so400m',
        'use_fused_vision_backbone': False,
        'image_resize_strategy': 'letterbox',
        'timm_model_ids': ['vit_so400m_patch14_siglip_224'],
        'text_config': {},
    },
}
SHAPES = tuple(_SHAPES)

_SHARD_BYTES = 5_000_000_000
# Ranges as wide as bridge_orig's. The actions have no meaning.
PLACEHOLDER_NORM_STATS = {
    'random': {
        'action': {
            'q01': [-0.03, -0.04, -0.03, -0.08, -0.09, -0.2, 0.0],
            'q99': [0.03, 0.04, 0.04, 0.08, 0.08, 0.2, 1.0],
            'mask': [True, True, True, True, True, True, False],
        },
        'num_trajectories': 0,
        'num_transitions': 0,
    }
}
# Words of one token each, so that prompts are about as long as with Llama's tokenizer.
_WORDS = """
In: What action should the robot take to A chat between curious user and an artificial intelligence
assistant. The assistant gives helpful, detailed, polite answers user's questions. USER: ASSISTANT:
pick up put place push pull open close lift move turn on in into left right front of behind red
green blue yellow small big cup bowl spoon drawer towel block plate
"""


def write_checkpoint(
    directory: Path,
    shape: str,
    norm_stats: Mapping[str, Any],
    weights: Callable[[str, torch.Size], Tensor],
    writer: str,
) -> Path:
    """Write a checkpoint, its index last; replace only what the same writer has written there.

    :param shape: one of ``SHAPES``.
    :param norm_stats: statistics for config.json:
        ``{unnorm_key: {'action': {'q01': [...], ...}}}``.
    :param weights: called for every parameter with its name in the model and its shape.
    :param writer: name of the writer, for the marker in the folder.
    :returns: ``directory``.
    :raises CheckpointError: if the folder has a file that this writer did not write.
    """
    folder = OwnFolder(directory, writer)
    config = _config(shape, norm_stats)
    folder.write('config.json', partial(_write_json, content=config))
    preprocessor = _preprocessor_config(config)
    folder.write('preprocessor_config.json', partial(_write_json, content=preprocessor))
    folder.write('tokenizer.json', lambda path: _tokenizer().save(str(path)))
    shapes = _shapes(directory)
    shards = _split(shapes)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        name = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
        tensors = {stored_key(key): weights(key, shapes[key]) for key in keys}
        folder.write(name, partial(save_file, tensors, metadata={'format': 'pt'}))
        weight_map.update(dict.fromkeys(tensors, name))
    index = {'metadata': {}, 'weight_map': weight_map}
    folder.write(INDEX_NAME, partial(_write_json, content=index))
    return directory


def checkpoint_bytes(shape: str) -> int:
    """Return the bytes on the disk of the weights of one of ``SHAPES``, in bfloat16."""
    with tempfile.TemporaryDirectory() as directory:
        _write_json(Path(directory) / 'config.json', _config(shape, PLACEHOLDER_NORM_STATS))
        return 2 * sum(size.numel() for size in _shapes(Path(directory)).values())


def _shapes(directory: Path) -> dict[str, torch.Size]:
    """Return the shapes of the model that config.json describes, by name in the model."""
    with torch.device('meta'):
        model = OpenVLAModel(OpenVLAConfig.from_directory(directory))
    return {key: value.shape for key, value in model.state_dict().items()}


def _split(shapes: Mapping[str, torch.Size]) -> list[list[str]]:
    """Return the keys of each shard, in order, each at most ``_SHARD_BYTES`` of bfloat16."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, shape in shapes.items():
        size += 2 * shape.numel()
        if size > _SHARD_BYTES:
            shards.append([])
            size = 2 * shape.numel()
        shards[-1].append(key)
    return shards


def _config(shape: str, norm_stats: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(_SHAPES[shape])
    towers = len(own['timm_model_ids'])
    text_config = {
        'model_type': 'llama',
        'pad_token_id': 32000,
        'torch_dtype': 'bfloat16',
        'vocab_size': 32064,
        **own.pop('text_config'),
    }
    return {
        'architectures': ['OpenVLAForActionPrediction'],
        'model_type': 'openvla',
        'image_sizes': [224] * towers,
        'llm_max_length': 2048,
        'n_action_bins': 256,
        'norm_stats': norm_stats,
        'pad_to_multiple_of': 64,
        'pad_token_id': 32000,
        'text_config': text_config,
        'timm_override_act_layers': [None] * towers,
        'torch_dtype': 'bfloat16',
        **own,
    }


def _preprocessor_config(config: dict[str, Any]) -> dict[str, Any]:
    letterbox = config['image_resize_strategy'] == 'letterbox'
    siglip = {'inplace': False, 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}
    dinov2 = {  # ImageNet's, rounded to bfloat16 as in the released file
        'inplace': False,
        'mean': [0.484375, 0.455078125, 0.40625],
        'std': [0.228515625, 0.2236328125, 0.224609375],
    }
    normalize = [dinov2, siglip] if config['use_fused_vision_backbone'] else [siglip]
    resize = {'antialias': True, 'interpolation': 3, 'size': 224 if letterbox else [224, 224]}
    return {
        'image_processor_type': 'PrismaticImageProcessor',
        'image_resize_strategy': config['image_resize_strategy'],
        'tvf_crop_params': [{'output_size': [224, 224]}] * len(normalize),
        'tvf_do_letterbox': letterbox,
        'tvf_letterbox_fill': [127, 127, 127] if letterbox else None,
        'tvf_normalize_params': normalize,
        'tvf_resize_params': [resize] * len(normalize),
        'use_fused_vision_backbone': config['use_fused_vision_backbone'],
    }


def _tokenizer() -> Tokenizer:
    """Return a byte-fallback BPE with Llama's special ids and its single space at 29871."""
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256))]
    pieces += [chr(code) for code in range(33, 127)]
    merges = []
    for word in _WORDS.split():
        for end, character in enumerate(word):
            prefix, longer = '▁' + word[:end], '▁' + word[: end + 1]
            if longer not in pieces:
                pieces.append(longer)
                merges.append((prefix, character))
    pieces += [f'<unused{index}>' for index in range(len(pieces), SPACE_TOKEN_ID)]
    pieces.append('▁')
    pieces += [f'<unused{index}>' for index in range(len(pieces), 32000)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token='<unk>', fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<s> $A', special_tokens=[('<s>', 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(['<unk>', '<s>', '</s>', '<PAD>'])
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
