"""Whether a checkpoint is plain OpenVLA, by the names in its folder and by config.json.

Policies derived from OpenVLA have parts beside the language model's weights: an action head, a
projector of the robot's state, an adapter. Their weights alone load as plain OpenVLA, pass the
self-check, and move the robot wrongly. A checkpoint that is not known to be plain is rejected here,
before anything is loaded. Pure functions except :func:`check_folder`; no weight is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.text import quoted

PICKLE_SUFFIXES = ('.bin', '.pt', '.pth', '.ckpt')
_WEIGHT_SUFFIXES = ('.safetensors', *PICKLE_SUFFIXES)
# Suffixes of folders and files that may be a part of a policy; code, logs and images are not.
_PART_SUFFIXES = ('', '.json', '.yaml', '.yml', '.pkl', '.npz', *_WEIGHT_SUFFIXES)

# Names of the parts that OpenVLA-OFT, and VLA-Adapter after it, store beside the weights. Their
# loaders take every file with such a word and "checkpoint" in its name.
_HEADS = (
    '*action_head*',
    '*proprio_projector*',
    '*noisy_action_projector*',
    'vision_backbone--*',
    '*--*checkpoint*',
)
# Names that peft gives to adapters, and names of the folders that trainings put them into.
_ADAPTERS = (
    'adapter',
    'adapters',
    'adapter_*',
    '*lora_adapter*',
    'lora',
    'lora_*',
    '*_lora',
    'peft*',
)
# A word in the names of a training's state, which is not a part of the policy.
_TRAINING_STATE = re.compile(
    r'(^|[^a-z])(optim(izers?)?|sched(uler)?|lr|rng|random|scaler|train(ing|er)|args|logs?|loss(es)?|'
    r'metrics|history|events|wandb|tensorboard|profile|trace)([^a-z]|$)'
)
# The same weights in an older format: the reference takes safetensors if there are both.
_SAME_WEIGHTS = 'pytorch_model*'

_CLASSES = ('OpenVLAForActionPrediction', 'OpenVLAConfig')
# Keys of config.json that only other policies need; harmless if they are off, or the number 1.
_KEYS_OF_OTHERS = re.compile(
    r'proprio|state_dim|action_(head|expert|model|quer|horizon|window|tokenizer)|actions?_chunk|'
    r'chunk_(len|size$)|diffusion|flow_match|l1_regression|num_images|image_sequence|wrist|'
    r'quantization_config|compression_config|(^|_)(film|lora|peft|adapters?|vq)(_|$)'
)

_NO_PART = 'these weights alone are a part of its policy, and vla_ros runs plain OpenVLA only'
_MERGE = (
    'merge the adapter into the weights (merge_and_unload of peft), save them to a new folder, and '
    'name that; if they are merged already, move the adapter out of the folder'
)


def check_folder(directory: Path) -> None:
    """Check the names of the folder's files.

    :raises CheckpointError: if a name belongs to another policy than plain OpenVLA.
    """
    try:
        names = [entry.name for entry in os.scandir(directory)]
    except OSError as error:
        raise CheckpointError(f'{directory} cannot be listed: {error}') from error
    for name in list(names):
        try:
            names += [f'{name}/{entry.name}' for entry in os.scandir(directory / name)]
        except OSError:  # a file, or a folder without permission
            continue
    check_names(names, str(directory))


def check_names(names: Iterable[str], where: str) -> None:
    """Check the names of a checkpoint's files.

    :param names: of files and folders, relative, with slashes.
    :param where: the folder or the hub id, named in errors.
    :raises CheckpointError: if a name belongs to another policy than plain OpenVLA.
    """
    own = _without_other_checkpoints(names)
    heads = {name for name in own if _matches(name, _HEADS)}
    if heads:
        kind = 'a VLA-Adapter' if {'merges.txt', 'vocab.json'} & own else 'an OpenVLA-OFT'
        raise CheckpointError(
            f'{where} is {kind} folder: it has {listing(heads)}',
            f'{_NO_PART}: take a checkpoint of plain OpenVLA',
        )
    adapters = {name for name in own if _matches(name, _ADAPTERS)}
    if adapters:
        raise CheckpointError(
            f'{where} has an adapter beside its weights: {listing(adapters)}',
            f'without it the weights are another policy: {_MERGE}',
        )
    unknown = {name for name in own if _is_unknown_pickle(name)}
    if unknown and any(_suffix(name) == '.safetensors' and '/' not in name for name in own):
        raise CheckpointError(
            f'{where} has weights that plain OpenVLA does not have: {listing(unknown)}; if they '
            'are a part of the policy, vla_ros cannot run it',
            'if not, move them out of the folder',
        )


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Check the content of config.json.

    :raises CheckpointError: if it is of another model.
    """
    if 'vla' in config:
        raise CheckpointError(
            f'{path} is of a native Prismatic run folder (as of MiniVLA and openvla-7b-prismatic): '
            'it has the key vla',
            'take a checkpoint that was converted to the Hugging Face layout',
        )
    if config.get('model_type') != 'openvla':
        raise CheckpointError(
            f'{path} is the config of another model: model_type is '
            f'{quoted(config.get("model_type"))}',
            value=config.get('model_type'),
            expected="'openvla'",
        )
    llm = config.get('llm_backbone_id')
    if isinstance(llm, str) and llm.startswith('qwen'):
        raise CheckpointError(
            f'{path} is of a VLA-Adapter or MiniVLA: llm_backbone_id is {quoted(llm)}',
            f'{_NO_PART}: take a checkpoint of plain OpenVLA',
        )
    _check_classes(config, path)
    weights = config.get('transformers_weights')
    if weights not in (None, 'model.safetensors', 'model.safetensors.index.json'):
        raise CheckpointError(
            f'{path} says that the weights are in {quoted(weights)} (transformers_weights)',
            expected='model.safetensors or model.safetensors.index.json',
        )
    others = {key for key, value in config.items() if _is_of_others(key, value)}
    text_config = config.get('text_config')
    if isinstance(text_config, Mapping):
        others |= {
            f'text_config.{key}'
            for key, value in text_config.items()
            if _is_of_others(key, value) or (key == 'is_causal' and value is False)
        }
    if others:
        raise CheckpointError(
            f'{path} is of another policy than plain OpenVLA: it has {listing(others)}',
            'take a checkpoint of plain OpenVLA; for 8 or 4 bits take unquantised weights and set '
            'quantization',
        )


def check_tensors(names: Iterable[str], directory: Path) -> None:
    """Check the names of the stored tensors.

    :raises CheckpointError: if there are adapters among them.
    """
    adapters = [name for name in names if 'lora_' in name]
    if adapters:
        raise CheckpointError(
            f'{directory} has {len(adapters)} tensors of an adapter that was never merged: '
            f'{listing(adapters)}',
            _MERGE,
        )


def is_training_state(name: str) -> bool:
    """Return whether the file is of an optimizer or a scheduler, or a log: not of the policy."""
    return bool(_TRAINING_STATE.search(name.lower()))


def _check_classes(config: Mapping[str, Any], path: Path) -> None:
    """Check the classes' names: the code is never run, but the names tell which model it is."""
    classes = list(config.get('architectures') or ())
    auto_map = config.get('auto_map')
    if isinstance(auto_map, Mapping):
        classes += [
            str(value).rpartition('.')[2]
            for key, value in auto_map.items()
            if str(key).startswith(('AutoModel', 'AutoConfig'))
        ]
    others = [name for name in classes if name not in _CLASSES]
    if others:
        raise CheckpointError(
            f'{path} is of another model: architectures and auto_map name {quoted(others)}',
            value=others,
            expected=' and '.join(_CLASSES),
        )


def _is_of_others(key: str, value: Any) -> bool:
    is_one = isinstance(value, int) and not isinstance(value, bool) and value == 1
    is_off = not value or is_one or value == 'action_tokenizer'  # the name of the plain one
    return not is_off and bool(_KEYS_OF_OTHERS.search(key.lower()))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    if _suffix(name) not in _PART_SUFFIXES:
        return False
    last = PurePosixPath(name.lower())
    return any(fnmatchcase(last.name, p) or fnmatchcase(last.stem, p) for p in patterns)


def _is_unknown_pickle(name: str) -> bool:
    return (
        '/' not in name
        and _suffix(name) in PICKLE_SUFFIXES
        and not fnmatchcase(name, _SAME_WEIGHTS)
        and not is_training_state(name)
    )


def _without_other_checkpoints(names: Iterable[str]) -> set[str]:
    """Return the names in the folder, and those in its folders that are not whole checkpoints.

    Hidden folders such as .git and .cache are left out.
    """
    inside: dict[str, set[str]] = {}
    for name in names:
        folder, _, rest = name.partition('/')
        inside.setdefault(folder, set()).update([rest] if rest else [])
    own = set(inside)
    for folder, contents in inside.items():
        weights = {name for name in contents if _suffix(name) in _WEIGHT_SUFFIXES}
        if not (weights and 'config.json' in contents) and not folder.startswith('.'):
            own |= {f'{folder}/{name}' for name in contents if '/' not in name}
    return own


def _suffix(name: str) -> str:
    return PurePosixPath(name.lower()).suffix
