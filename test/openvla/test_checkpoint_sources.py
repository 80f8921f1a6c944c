# SPDX-License-Identifier: Apache-2.0
"""Two sources of one fact in a folder: the reference's precedence, or a refusal that names both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.checkpoints import INDEX, SHARD, edit_json, refused_unread
from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.processor import ImageProcessor

SINGLE = 'model.safetensors'
OLD, NEW = 'preprocessor_config.json', 'processor_config.json'
STATISTICS = {'bridge_orig': {'action': {'q01': [-1.0] * 7, 'q99': [2.0] * 7}}}


def copy(name: str, folder: Path, source: str = SHARD) -> None:
    shutil.copy(folder / source, folder / name)


def without_index(folder: Path, *names: str) -> None:
    """The shard under other names, and nothing that says which counts."""
    (folder / INDEX).unlink()
    for name in names:
        copy(name, folder)
    (folder / SHARD).unlink()


def link_nowhere(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to('/nowhere/of/old')


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def nest(folder: Path, **changes: object) -> None:
    """As transformers 5 writes the preprocessor."""
    config = json.loads((folder / OLD).read_text())
    write(folder, NEW, {'processor_class': 'X', 'image_processor': {**config, **changes}})


def double_key(folder: Path, name: str) -> None:
    """The first object's first key comes again, with another value."""
    text = (folder / name).read_text()
    key = next(iter(json.loads(text)))
    write(folder, name, text.rstrip()[:-1] + f', "{key}": "older"}}')


def set_value(folder: Path, name: str, **changes: object) -> None:
    edit_json(folder / name, lambda content: content.update(changes))


REFUSED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    'an index and a single file': (partial(copy, SINGLE), ['two sources', INDEX, SINGLE]),
    'an index and a link to a single file that is gone': (
        partial(link_nowhere, name=SINGLE),
        ['two sources', INDEX, SINGLE],
    ),
    'an index and shards that it does not name': (
        partial(copy, 'model-00001-of-00002.safetensors'),
        ['two sources', INDEX, 'model-00001-of-00002.safetensors'],
    ),
    'an index and weights of an unknown name': (
        partial(copy, 'ema.safetensors'),
        ['two sources', INDEX, 'ema.safetensors'],
    ),
    'a single file and shards without an index': (
        lambda folder: without_index(folder, SINGLE, f'old-{SHARD}'),
        ['two sources', SINGLE, f'old-{SHARD}'],
    ),
    'two indexes': (
        partial(copy, 'model.safetensors.index.fp16.json', source=INDEX),
        ['two sources', INDEX, 'model.safetensors.index.fp16.json'],
    ),
    'an index of another variant': (
        partial(copy, 'model.fp16.safetensors.index.json', source=INDEX),
        ['two sources', INDEX, 'model.fp16.safetensors.index.json'],
    ),
    'shards without an index': (
        lambda folder: (folder / INDEX).unlink(),
        ['no weights', INDEX, SINGLE, SHARD, 'interrupted'],
    ),
    'config.json that names other weights': (
        lambda folder: set_value(folder, 'config.json', transformers_weights='new.safetensors'),
        ['config.json', 'transformers_weights', 'new.safetensors'],
    ),
    'statistics behind a link that leads nowhere': (
        partial(link_nowhere, name='dataset_statistics.json'),
        ['dataset_statistics.json', 'missing', '/nowhere/of/old'],
    ),
    'statistics that are no JSON': (
        partial(write, name='dataset_statistics.json', content='{'),
        ['dataset_statistics.json', 'JSON'],
    ),
    'empty statistics': (
        partial(write, name='dataset_statistics.json', content={}),
        ['dataset_statistics.json', 'no norm_stats'],
    ),
    **{
        f'preprocessors that disagree about {key}': (
            lambda folder, key=key: nest(folder, **{key: None}),
            [OLD, NEW, 'disagree', key],
        )
        for key in ('tvf_resize_params', 'tvf_crop_params', 'tvf_normalize_params')
    },
    'preprocessors that disagree about a letterbox': (
        lambda folder: nest(folder, tvf_do_letterbox=True, tvf_letterbox_fill=[0, 0, 0]),
        [OLD, NEW, 'disagree', 'tvf_do_letterbox', 'tvf_letterbox_fill'],
    ),
    'a preprocessor beside a link that leads nowhere': (
        partial(link_nowhere, name=NEW),
        [NEW, 'missing', '/nowhere/of/old'],
    ),
    'a link that leads nowhere beside a preprocessor': (
        lambda folder: [nest(folder), link_nowhere(folder, OLD)],
        [OLD, 'missing', '/nowhere/of/old'],
    ),
    'a preprocessor that is a list': (
        partial(write, name=NEW, content={'image_processor': [1]}),
        [NEW, 'image_processor', '[1]'],
    ),
    'added tokens of another tokenizer': (
        partial(write, name='added_tokens.json', content={'<PAD>': 32001, 'other': 3}),
        ['added_tokens.json', 'tokenizer.json', 'disagree', '<PAD>', '32001'],
    ),
    'a tokenizer_config.json of another tokenizer': (
        partial(
            write,
            name='tokenizer_config.json',
            content={'added_tokens_decoder': {'7': {'content': '</s>'}, 'x': 3, '8': {}}},
        ),
        ['tokenizer_config.json', 'tokenizer.json', 'disagree', '</s>', '7'],
    ),
    'a tokenizer_config.json that ends prompts': (
        partial(write, name='tokenizer_config.json', content={'add_eos_token': True}),
        ['tokenizer_config.json', 'add_eos_token'],
    ),
    'a tokenizer_config.json that begins prompts otherwise': (
        partial(write, name='tokenizer_config.json', content={'add_bos_token': False}),
        ['tokenizer_config.json', 'add_bos_token'],
    ),
    **{
        f'{name} that has a key twice': (
            partial(double_key, name=name),
            [name, 'more than once'],
        )
        for name in ('config.json', OLD, INDEX)
    },
    **{
        f'{name} is a link that leads nowhere': (
            partial(link_nowhere, name=name),
            [name, 'missing', '/nowhere/of/old'],
        )
        for name in ('config.json', OLD, 'tokenizer.json', INDEX, 'tokenizer_config.json')
    },
}


@pytest.mark.parametrize('fault', REFUSED)
def test_two_sources_of_one_fact_are_refused(
    fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = REFUSED[fault]
    change(folder)
    refused_unread(folder, words, monkeypatch)


def test_the_statistics_of_a_fine_tuning_win_over_those_of_config_json(folder: Path) -> None:
    """As in the reference's scripts, wholesale: config.json's other data sets count no more."""
    write(folder, 'dataset_statistics.json', STATISTICS)
    assert OpenVLAConfig.from_directory(folder).norm_stats.keys() == STATISTICS.keys()


def test_what_is_no_second_source(folder: Path) -> None:
    """The reference takes safetensors before pickles, and tokenizer.json before the others."""
    write(folder, 'pytorch_model.bin.index.json', {'weight_map': {}})
    write(folder, 'pytorch_model-00001-of-00001.bin', 'older')
    write(folder, 'optimizer.safetensors', '')
    write(folder, 'tokenizer.model', 'sentencepiece')
    write(folder, 'added_tokens.json', {'<PAD>': 32000, '<unknown to tokenizer.json>': 32001})
    decoder = {'1': {'content': '<s>'}, '2': {'content': '</s>'}}
    tokenizer = {'add_bos_token': True, 'add_eos_token': False, 'added_tokens_decoder': decoder}
    write(folder, 'tokenizer_config.json', tokenizer)
    write(folder, NEW, {'processor_class': 'PrismaticProcessor'})
    OpenVLAPolicy.from_pretrained(folder, device='cpu')


def test_an_index_that_names_the_single_file(folder: Path) -> None:
    (folder / SHARD).rename(folder / SINGLE)
    edit_json(folder / INDEX, lambda c: c.update(weight_map=dict.fromkeys(c['weight_map'], SINGLE)))
    OpenVLAPolicy.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('both', [True, False])
@pytest.mark.parametrize('name', ['openvla_tiny', 'openvla_v01_tiny'])
def test_the_preprocessor_as_transformers_5_writes_it(
    name: str, both: bool, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    nest(folder, image_mean='not looked at')
    if not both:
        (folder / OLD).unlink()
    towers = OpenVLAConfig.from_directory(folder).towers
    expected = ImageProcessor.from_directory(GOLDEN / name, towers)
    processor = ImageProcessor.from_directory(folder, towers)
    for transform, other in zip(processor._transforms, expected._transforms, strict=True):
        assert transform.resize == other.resize
        assert transform.letterbox_fill == other.letterbox_fill
        assert (transform.pixel_table == other.pixel_table).all()
