# SPDX-License-Identifier: Apache-2.0
"""A conversion: from a training's folder to one that the node loads.

The new folder is written beside its place and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch

from vla_ros.console import Say
from vla_ros.convert.adapters import CONFIG_NAME, merge_adapter
from vla_ros.convert.errors import ConvertError
from vla_ros.convert.layout import STATISTICS_NAME, layout_of
from vla_ros.convert.native import is_native, read_native
from vla_ros.convert.options import ADAPTERS, Options, chosen
from vla_ros.convert.parts import read_part, read_towers
from vla_ros.convert.plan import Plan
from vla_ros.convert.source import Source, read_source
from vla_ros.convert.weights import Weight, opened_weights, write_weights
from vla_ros.files import read_bytes
from vla_ros.openvla.checkpoint import INDEX_NAME, Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.json_files import read_json
from vla_ros.openvla.kind import OpenVLAInspection
from vla_ros.openvla.layout import Layout, write_layout
from vla_ros.text import quoted

# Files of the model that are copied as they are, from the folder, else from the adapter's base.
_COPIED = (
    *('config.json', 'preprocessor_config.json', 'tokenizer.json', 'tokenizer_config.json'),
    *('added_tokens.json', 'special_tokens_map.json', 'generation_config.json', STATISTICS_NAME),
)
_MAX_TEXT_BYTES = 16_000_000
_MARGIN_BYTES = 32_000_000  # of the disk: JSON files and headers
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


def convert(folder: Path, out: Path, options: Options, say: Say) -> str:
    """Write the folder ``out``, and return a description of its policy.

    :param out: must not exist, and its parent must.
    :raises ConvertError: if the folder can't be converted, or options are missing.
    :raises CheckpointError: if the folder's checkpoint is damaged.
    :raises OSError: if ``out`` can't be written.
    """
    options.check()
    _check_place(out)
    with _folder_beside(out) as partial:
        scratch = partial / 'reading'
        scratch.mkdir()
        if is_native(folder):
            say(f'reading {folder}')
            plan = read_native(folder, options, scratch)
        else:
            plan = _plan_of(folder, options, scratch)
        _check_space(plan, partial, out)
        say(f'writing {out}')
        shards = write_weights(partial, plan.weights)
        shutil.rmtree(scratch)
        for name, content in plan.texts.items():
            (partial / name).write_bytes(content)
        _write_json(partial / INDEX_NAME, {'metadata': {}, 'weight_map': shards})
        if plan.layout is not None:
            write_layout(partial, plan.layout)
        _check_loads(partial, folder)
        _check_place(out)
        partial.rename(out)
    return _described(plan.layout)


def _plan_of(folder: Path, options: Options, scratch: Path) -> Plan:
    if options.language_model or options.vq:
        raise ConvertError(
            f'{folder} is no run folder of MiniVLA', 'leave --language-model and --vq out'
        )
    source = read_source(folder)
    base = _base(source, options)
    is_plain = not (source.head or source.state or source.vision or options.says_layout)
    if is_plain and source.adapter is None:
        raise ConvertError(
            f'{source.directory} needs no conversion: it is plain OpenVLA',
            'set model to it; for actions in chunks without a head add --tokens',
        )
    if not is_plain:
        chosen(options, source.directory)  # before anything large is read
    weights: dict[str, Weight] = {}
    for file in Checkpoint(base).files:
        weights.update(opened_weights(file))
    dtype = _DTYPES[options.merged_dtype]
    if source.adapter and options.adapter != 'merged':
        weights = merge_adapter(weights, source.adapter, dtype)
    texts = _texts(source, base)
    if is_plain:
        return Plan(weights, None, texts)
    parts = _parts(source, options, scratch)
    if source.vision:
        weights = read_towers(source.vision, scratch, weights, dtype)
    layout = layout_of(source, base, options, parts)
    return Plan(weights | parts, layout, texts)


def _check_loads(written: Path, folder: Path) -> None:
    """Check the written files as the loader does, up to the values of the weights.

    :param folder: the training's, which errors name: each file was copied or made of it.
    :raises ConvertError: if the loader would not take them.
    """
    try:
        OpenVLAInspection(written, OpenVLAConfig.from_directory(written)).check()
    except CheckpointError as error:
        what = error.what.replace(str(written), str(folder))
        raise ConvertError(what, error.advice, expected=error.expected) from error


def _parts(source: Source, options: Options, scratch: Path) -> dict[str, Weight]:
    """Return the tensors of the head and of the state's projector."""
    parts: dict[str, Weight] = {}
    if source.head and not options.tokens:
        parts |= read_part(source.head, scratch, 'action_head', 'head')
    elif not options.tokens:
        raise ConvertError(
            f'{source.directory} has no file of action_head',
            'add --tokens if its actions are tokens that one pass decodes; otherwise copy the '
            'file of its head into it',
        )
    if source.state and not options.no_state:
        parts |= read_part(source.state, scratch, 'state_projector', 'state')
    return parts


def _base(source: Source, options: Options) -> Path:
    """Return the folder of the whole weights.

    :raises ConvertError: if it is not clear which weights are meant.
    """
    if source.adapter is None:
        if options.base:
            raise ConvertError(
                f'{source.directory} has no adapter that --base could be the base of',
                f'name the folder with {CONFIG_NAME}, or leave --base out',
            )
        return source.directory
    if source.has_weights:
        if options.base or options.adapter not in ADAPTERS:
            raise ConvertError(
                f'{source.directory} has whole weights and an adapter, {source.adapter}',
                'add --adapter merged if the weights contain it already (OpenVLA-OFT and '
                'VLA-Adapter write both), or --adapter merge if they do not',
            )
        return source.directory
    if options.base is None or options.adapter == 'merged':
        name = read_json(source.adapter / CONFIG_NAME).get('base_model_name_or_path')
        raise ConvertError(
            f'{source.directory} has an adapter and no weights',
            f'add --base with the folder of its base, {quoted(name)}',
        )
    return options.base


def _texts(source: Source, base: Path) -> dict[str, bytes]:
    texts = {}
    for name in _COPIED:
        for folder in (source.directory, base):
            if os.path.lexists(folder / name):
                texts[name] = read_bytes(folder / name, _MAX_TEXT_BYTES)
                break
    return texts


def _check_place(out: Path) -> None:
    if os.path.lexists(out):
        raise ConvertError(f'{out} exists', 'name a new folder: nothing is written over')
    if not out.parent.is_dir():
        raise ConvertError(f'{out.parent} is not a folder', 'make it, or name another')


def _check_space(plan: Plan, partial: Path, out: Path) -> None:
    needed = _MARGIN_BYTES + sum(
        prod(weight.shape) * weight.dtype.itemsize for weight in plan.weights.values()
    )
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise ConvertError(
            f'{out} would take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free',
            'make room, or name a folder on another disk',
        )


@contextlib.contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """Give a new folder beside ``out``; it is deleted at the end if it has not been renamed."""
    partial = Path(tempfile.mkdtemp(prefix=f'{out.name[:100]}.partial-', dir=out.parent))
    partial.chmod(0o777 & ~_umask())
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    """Return the mask of new files' modes, which can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def _described(layout: Layout | None) -> str:
    if layout is None:
        return 'plain OpenVLA'
    state = f'a state of {layout.state_dim} values' if layout.state_dim else 'no state'
    return (
        f'{layout.horizon} x {layout.action_dim} actions ({layout.action_head}), cameras '
        f'{", ".join(layout.cameras)}, {state}, {layout.normalization}'
        f'{", FiLM" if layout.film else ""}'
    )
