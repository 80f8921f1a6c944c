# SPDX-License-Identifier: Apache-2.0
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
from vla_ros.openvla.layout import Layout
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
    r'(^|[^a-z])(optim(izers?)?|sched(uler)?|lr|rng|random|scaler|train(ing|er)|args|logs?|'
    r'loss(es)?|metrics|history|events|wandb|tensorboard|profile|trace)([^a-z]|$)'
)
# The same weights in an older format: the reference takes safetensors if there are both.
_SAME_WEIGHTS = 'pytorch_model*'

_CLASSES = ('OpenVLAForActionPrediction', 'OpenVLAConfig')
# Keys of config.json that only other policies need; harmless if they are off, or the number 1.
_KEYS_OF_OTHERS = re.compile(
    r'proprio|state_dim|action_(head|expert|model|quer|horizon|window|tokenizer)|actions?_chunk|'
    r'chunk_(len|size$)|diffusion|flow_match|l1_regression|num_images|image_sequence|wrist|'
    r'(^|_)(film|lora|peft|adapters?|vq)(_|$)'
)
_QUANTIZATIONS = ('quantization_config', 'compression_config')
# Names that other tools give to the parts of a quantised weight: bitsandbytes, GPTQ, AWQ, FP8.
_QUANTIZED = re.compile(
    r'\.(qweight|qzeros|scales|g_idx|absmax|nested_absmax|quant_map|nested_quant_map|SCB|'
    r'weight_format|weight_scale|weight_scale_inv|weight_zero_point|weight_packed|input_scale|'
    r'quant_state\..*)$'
)
# Names of the modules that wrap a model while it is trained or compiled.
_WRAPPED = re.compile(r'(^|\.)(module|_orig_mod|_fsdp_wrapped_module|base_model\.model)\.')

_NO_PART = 'these weights alone are a part of its policy'
_UNQUANTIZED = 'take the weights from before the quantization, and set quantization to int8 or int4'
_MERGE = (
    'merge the adapter into the weights (merge_and_unload of peft), save them to a new folder, and '
    'name that; if they are merged already, move the adapter out of the folder'
)
_PRESETS = 'libero|aloha|bridge|calvin'  # of vla_convert


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
    check_names(names, str(directory), is_here=True)


def check_names(names: Iterable[str], where: str, is_here: bool = False) -> None:
    """Check the names of a checkpoint's files.

    :param names: of files and folders, relative, with slashes.
    :param where: the folder or the hub id, named in errors.
    :param is_here: ``where`` is a folder, which vla_convert can read.
    :raises CheckpointError: if a name belongs to another policy than plain OpenVLA.
    """
    names = set(names)
    _check_kind_of_folder(names, where)
    own = _without_other_checkpoints(names)
    heads = {name for name in own if _matches(name, _HEADS)}
    if heads:
        kind = 'a VLA-Adapter' if {'merges.txt', 'vocab.json'} & own else 'an OpenVLA-OFT'
        raise CheckpointError(
            f'{where} is {kind} folder: it has {listing(heads)}',
            f'{_NO_PART}: {_conversion(where, is_here, f"--preset {_PRESETS}")}',
        )
    adapters = {name for name in own if _matches(name, _ADAPTERS)}
    if adapters:
        raise CheckpointError(
            f'{where} has an adapter beside its weights: {listing(adapters)}',
            'without it the weights are another policy: '
            f'{_conversion(where, is_here, "--adapter merge")}; or {_MERGE}',
        )
    unknown = {name for name in own if _is_unknown_pickle(name)}
    if unknown and any(_suffix(name) == '.safetensors' and '/' not in name for name in own):
        raise CheckpointError(
            f'{where} has weights that plain OpenVLA does not have: {listing(unknown)}; if they '
            'are a part of the policy, vla_ros cannot run it',
            'if not, move them out of the folder',
        )


def _conversion(where: str, is_here: bool, options: str) -> str:
    """Return the command that makes a folder for the node."""
    if is_here:
        return f'convert it with vla_convert {where} {where.rstrip("/")}-converted {options}'
    return f'hf download {where} --local-dir FOLDER, then vla_convert FOLDER OUT {options}'


def _check_kind_of_folder(names: set[str], where: str) -> None:
    """Check that the folder itself is a checkpoint of this kind of files."""
    if {'snapshots', 'refs'} <= names or {'snapshots', 'blobs'} <= names:
        owner_and_name = PurePosixPath(where).name.removeprefix('models--').replace('--', '/', 1)
        commits = [name for name in names if name.startswith('snapshots/')]
        raise CheckpointError(
            f"{where} is a folder of the hub's cache, not a checkpoint: it has {listing(commits)}",
            f'set model to {owner_and_name}, or to one of these folders in it',
        )
    has_safetensors = any(_suffix(name) == '.safetensors' and '/' not in name for name in names)
    gguf = {name for name in names if _suffix(name) == '.gguf'}
    if gguf and not has_safetensors:
        raise CheckpointError(
            f'{where} has GGUF files, of llama.cpp: {listing(gguf)}',
            'take the safetensors that they were made of, and set quantization to int8 or int4',
        )
    if {'quantize_config.json', 'quant_config.json'} & names:
        raise CheckpointError(
            f'{where} has weights that GPTQ or AWQ quantised: there is a file of their settings',
            _UNQUANTIZED,
        )
    inside = {name.partition('/')[0] for name in names if fnmatchcase(name, '*/config.json')}
    if inside and 'config.json' not in names:
        raise CheckpointError(
            f'{where} has no config.json, but its folders have: {listing(inside)}',
            'name the folder of one checkpoint',
        )


def check_config(config: Mapping[str, Any], path: Path, layout: Layout | None = None) -> None:
    """Check the content of config.json.

    :param layout: of a policy that gives chunks; None for OpenVLA.
    :raises CheckpointError: if it is of another model.
    """
    _check_layout(config, path)
    if config.get('model_type') != 'openvla':
        raise CheckpointError(
            f'{path} is the config of another model: model_type is '
            f'{quoted(config.get("model_type"))}',
            value=config.get('model_type'),
            expected="'openvla'",
        )
    llm = config.get('llm_backbone_id')
    if layout is None and isinstance(llm, str) and llm.startswith('qwen'):
        raise CheckpointError(
            f'{path} is of a VLA-Adapter or MiniVLA: llm_backbone_id is {quoted(llm)}',
            f'{_NO_PART}: convert the folder of the training with vla_convert',
        )
    _check_quantization(config, path)
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
            'take a checkpoint of plain OpenVLA',
        )


def check_tensors(names: Iterable[str], directory: Path) -> None:
    """Check the names of the stored tensors.

    :raises CheckpointError: if there are adapters or quantised weights among them, or if they are
        of a model that was wrapped.
    """
    names = list(names)
    adapters = [name for name in names if 'lora_' in name]
    if adapters:
        raise CheckpointError(
            f'{directory} has {len(adapters)} tensors of an adapter that was never merged: '
            f'{listing(adapters)}',
            _MERGE,
        )
    quantized = [name for name in names if _QUANTIZED.search(name)]
    if quantized:
        raise CheckpointError(
            f'{directory} has weights that another tool quantised: {listing(quantized)}',
            _UNQUANTIZED,
        )
    wrapped = {match[2]: name for name in names for match in _WRAPPED.finditer(name)}
    if wrapped:
        raise CheckpointError(
            f'{directory} has the weights of a model inside {listing(wrapped)}: '
            f'{listing(wrapped.values())}',
            'save the model inside (model.module of DataParallel, model._orig_mod of '
            'torch.compile, merge_and_unload of peft), or take this out of the names',
        )


def is_training_state(name: str) -> bool:
    """Return whether the file is of an optimizer or a scheduler, or a log: not of the policy."""
    return bool(_TRAINING_STATE.search(name.lower()))


def _check_layout(config: Mapping[str, Any], path: Path) -> None:
    """Check that the config is not of a library with another layout: Prismatic, LeRobot."""
    vla, vlm = config.get('vla'), config.get('model')
    if 'vla' in config or (isinstance(vlm, Mapping) and 'model_id' in vlm):
        backbone = vla.get('base_vlm') if isinstance(vla, Mapping) else ''
        kind = 'MiniVLA' if 'qwen' in str(backbone).lower() else 'Prismatic model'
        folder = path.parent
        raise CheckpointError(
            f'{path} is of a {kind} in the native Prismatic layout (as of MiniVLA and '
            f'openvla-7b-prismatic): it has the key {"vla" if "vla" in config else "model"}',
            f'convert it with vla_convert {folder} {folder}-converted --language-model FOLDER'
            if kind == 'MiniVLA'
            else 'take a checkpoint in the Hugging Face layout, or convert this one with '
            "OpenVLA's convert_openvla_weights_to_hf.py",
        )
    if 'model_type' not in config and isinstance(config.get('type'), str):
        raise CheckpointError(
            f'{path} is of a LeRobot policy: type is {quoted(config["type"])}',
            'run it with LeRobot; vla_ros runs plain OpenVLA only',
        )


def _check_quantization(config: Mapping[str, Any], path: Path) -> None:
    """Check that no other tool quantised the weights."""
    text_config = config.get('text_config')
    parts = {'': config, 'text_config.': text_config if isinstance(text_config, Mapping) else {}}
    for where, part in parts.items():
        for key in _QUANTIZATIONS:
            settings = part.get(key)
            if not settings:
                continue
            method = settings.get('quant_method') if isinstance(settings, Mapping) else None
            raise CheckpointError(
                f'{path} is of weights that {quoted(method or "another tool")} quantised: it has '
                f'{where}{key}',
                _UNQUANTIZED,
            )


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
