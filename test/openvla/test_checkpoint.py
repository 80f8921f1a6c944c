# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are not whole: each is refused with one clear error before anything runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from support.checkpoints import INDEX, SHARD, edit_json, edit_weights, set_text_config
from vla_ros.openvla import CheckpointError, OpenVLAPolicy, UnnormKeyError, hub
from vla_ros.openvla.checkpoint import _check_finite
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.processor import PromptTokenizer
from vla_ros.synthetic.own_folder import MARKER
from vla_ros.synthetic.random_checkpoint import write_random_checkpoint
from vla_ros.synthetic.shapes import SHAPES
from vla_ros.types import Progress

HEAD = 'language_model.lm_head.weight'


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def to_pickle(folder: Path) -> None:
    (folder / SHARD).rename(folder / 'pytorch_model.bin')
    (folder / INDEX).unlink()


def set_value(folder: Path, name: str, value: float, dtype: torch.dtype) -> None:
    """One value of one tensor, in the middle."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name].to(dtype)
        tensors[name].view(-1)[tensors[name].numel() // 2] = value

    edit_weights(folder, change)


def replace(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


def write_header(path: Path, header: object = None, length: int | None = None) -> None:
    """A safetensors file of that header and 8 bytes of tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text) if length is None else length) + text + bytes(8))


def write_sparse_header(path: Path, length: int) -> None:
    """It says the truth about its length, and takes no room on the disk."""
    path.write_bytes(struct.pack('<Q', length) + b'{}')
    os.truncate(path, 8 + length)


def entry(shape: list[int], first: int, last: int) -> dict[str, Any]:
    return {'dtype': 'F32', 'shape': shape, 'data_offsets': [first, last]}


HOSTILE_HEADERS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    'length beyond the file': (partial(write_header, header={}, length=2**62), ['truncated']),
    'length beyond 64 bits': (partial(write_header, header={}, length=2**64 - 1), ['truncated']),
    'length within the header': (partial(write_header, header={'a': 1}, length=4), ['truncated']),
    'length of 99 MB': (
        partial(write_sparse_header, length=99_000_000),
        ['header of 99000000 bytes', 'at most 16000000'],
    ),
    'length of 5 TB': (
        partial(write_sparse_header, length=5 * 10**12),
        ['header of 5000000000000 bytes', 'at most 16000000'],
    ),
    'no UTF-8': (partial(write_header, header=b'{"\xff": 1}'), ['UTF-8']),
    'nested': (partial(write_header, header=b'{"a":' + b'[' * 10**6), ['recursion']),
    'absurd shape': (
        partial(write_header, header={'a': entry([2**62, 4], 0, 8)}),
        ['overflow'],
    ),
    'negative shape': (partial(write_header, header={'a': entry([-2], 0, 8)}), ['-2']),
    'negative offset': (partial(write_header, header={'a': entry([2], -8, 0)}), ['-8']),
    'offset beyond the file': (
        partial(write_header, header={'a': entry([2], 2**62, 2**62 + 8)}),
        ['offset'],
    ),
    'overlap': (
        partial(write_header, header={'a': entry([2], 0, 8), 'b': entry([1], 4, 8)}),
        ['offset'],
    ),
    'hole': (partial(write_header, header={'a': entry([1], 4, 8)}), ['offset']),
    'surplus bytes': (partial(write_header, header={'a': entry([1], 0, 4)}), ['not fully covered']),
    'key twice': (
        partial(
            write_header,
            header=b'{"a":%b,"a":%b}'
            % tuple(json.dumps(entry([1], i, i + 4)).encode() for i in (0, 4)),
        ),
        ['offset'],
    ),
    'other tensors': (partial(write_header, header={'a': entry([2], 0, 8)}), ['disagree']),
}

# What is done to the folder, or to one file of it, and what the error says.
FAULTS: dict[str, tuple[Any, ...]] = {
    'config missing': (lambda d: (d / 'config.json').unlink(), ['config.json', 'missing']),
    'config no JSON': (lambda d: (d / 'config.json').write_text('{'), ['config.json', 'JSON']),
    'config a list': (lambda d: (d / 'config.json').write_text('[]'), ['config.json', 'list']),
    'config of another model': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(model_type='llava')),
        ["'llava'", "expected 'openvla'"],
    ),
    'language model of another kind': (
        lambda d: edit_json(d / 'config.json', lambda c: c['text_config'].update(model_type='phi')),
        ["'phi'", "'llama'"],
    ),
    'tower unknown to timm': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c.update(timm_model_ids=['vit_x', 'vit_y'])
        ),
        ["'vit_x'", 'timm'],
    ),
    'backbone unknown': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c.update(vision_backbone_id='eye', timm_model_ids=None)
        ),
        ["'eye'", 'dinosiglip-vit-so-224px'],
    ),
    'one tower for two': (
        lambda d: edit_json(d / 'config.json', lambda c: c['timm_model_ids'].pop()),
        ['use_fused_vision_backbone', 'lists 1'],
    ),
    **{
        f'text_config {name} is {value!r}': (
            partial(set_text_config, name=name, value=value),
            ['config.json'],
        )
        for name, value in [
            ('hidden_size', 0),
            ('hidden_size', '64'),
            ('hidden_size', 63),
            ('num_attention_heads', 0),
            ('num_hidden_layers', None),
            ('num_key_value_heads', 3),
            ('pad_token_id', -40000),
            ('vocab_size', 100),
            ('rope_parameters', {'rope_type': 'yarn'}),
        ]
    },
    'text_config a list': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(text_config=[])),
        ['config.json'],
    ),
    'padding more than the vocabulary': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(pad_to_multiple_of=-1)),
        ['config.json', 'pad_to_multiple_of'],
    ),
    'tower id a number': (
        lambda d: edit_json(d / 'config.json', lambda c: c.update(timm_model_ids=[1, 2])),
        ['config.json'],
    ),
    'preprocessor for another size': (
        lambda d: edit_json(
            d / 'preprocessor_config.json',
            lambda c: [p.update(output_size=[196, 196]) for p in c['tvf_crop_params']],
        ),
        ['preprocessor_config.json', '196', '224'],
    ),
    'preprocessor with a word for a list': (
        lambda d: edit_json(
            d / 'preprocessor_config.json', lambda c: c.update(tvf_resize_params='no')
        ),
        ['preprocessor_config.json', 'malformed'],
    ),
    'tokenizer without BOS': (
        lambda d: edit_json(d / 'tokenizer.json', lambda c: c.update(post_processor=None)),
        ['tokenizer.json', 'expected 1 first'],
    ),
    'tokenizer of a larger vocabulary': (
        lambda d: edit_json(
            d / 'tokenizer.json', lambda c: c['model']['vocab'].update({'▁pick': 40_000})
        ),
        ['tokenizer.json', '40000', 'below 32064'],
    ),
    'index of numbers': (
        lambda d: edit_json(d / INDEX, lambda c: c['weight_map'].update({HEAD: 3})),
        [INDEX, 'file names'],
    ),
    'norm_stats absent': (
        lambda d: edit_json(d / 'config.json', lambda c: c.pop('norm_stats')),
        ['config.json', 'no norm_stats', 'dataset_statistics.json'],
    ),
    'norm_stats without q99': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c['norm_stats']['random']['action'].pop('q99')
        ),
        ['random', 'q99'],
    ),
    'norm_stats of unequal lengths': (
        lambda d: edit_json(
            d / 'config.json', lambda c: c['norm_stats']['random']['action']['q99'].pop()
        ),
        ['random', 'have 7, 6 and 7 values'],
    ),
    'norm_stats not finite': (
        lambda d: edit_json(
            d / 'config.json',
            lambda c: c['norm_stats']['random']['action'].update(q99=[float('nan')] * 7),
        ),
        ['random', 'finite'],
    ),
    'preprocessor missing': (
        lambda d: (d / 'preprocessor_config.json').unlink(),
        ['preprocessor_config.json', 'missing'],
    ),
    'preprocessor without tvf': (
        lambda d: edit_json(
            d / 'preprocessor_config.json', lambda c: c.pop('tvf_normalize_params')
        ),
        ['preprocessor_config.json', 'tvf_normalize_params'],
    ),
    'tokenizer missing': (
        lambda d: (d / 'tokenizer.json').unlink(),
        ['tokenizer.json', 'missing'],
    ),
    'tokenizer damaged': (
        lambda d: (d / 'tokenizer.json').write_text('{}'),
        ['tokenizer.json', 'no tokenizer'],
    ),
    'no weights': (
        lambda d: [(d / INDEX).unlink(), (d / SHARD).unlink()],
        ['no weights', INDEX],
    ),
    'pickle weights': (to_pickle, ['pytorch_model.bin', 'pickle', 'safetensors']),
    'shard missing': (lambda d: (d / SHARD).unlink(), [SHARD, 'lacks']),
    'shard truncated': (lambda d: truncate(d / SHARD), [SHARD, 'truncated', 'bytes']),
    'shard empty': (lambda d: (d / SHARD).write_bytes(b''), [SHARD, '0 bytes']),
    'shard no safetensors': (
        lambda d: (d / SHARD).write_bytes(b'x' * 4096),
        [SHARD, 'no safetensors'],
    ),
    'index without weight_map': (
        lambda d: (d / INDEX).write_text('{}'),
        [INDEX, 'no weight_map'],
    ),
    'index of other weights': (
        lambda d: edit_json(d / INDEX, lambda c: c['weight_map'].pop(HEAD)),
        ['disagree', HEAD],
    ),
    'key missing': (
        lambda d: edit_weights(d, lambda t: t.pop(HEAD)),
        ['lacks 1 of', HEAD],
    ),
    'key surplus': (
        lambda d: edit_weights(d, lambda t: t.update(lora_A=torch.zeros(2, 2))),
        ['has 1 tensors', 'lora_A'],
    ),
    'wrong shape': (
        lambda d: edit_weights(d, lambda t: t.update({HEAD: t[HEAD][:-64].clone()})),
        [HEAD, '(32000, 64)', '(32064, 64)'],
    ),
    'integer weights': (
        lambda d: edit_weights(d, lambda t: t.update({HEAD: t[HEAD].to(torch.int8)})),
        [HEAD, 'I8', 'BF16'],
    ),
    **{
        f'a {value} among the weights, {dtype}': (
            partial(set_value, name=HEAD, value=value, dtype=dtype),
            [SHARD, HEAD, '1 of 2052096 values'],
        )
        for value in (math.nan, math.inf, -math.inf)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    },
    **{
        f'index that names {name!r}': (
            partial(edit_json, change=lambda c, name=name: c['weight_map'].update({HEAD: name})),
            [INDEX, 'without a folder', repr(name)],
            INDEX,
        )
        for name in ('../x', '/etc/passwd', 'a/b', '..', '.', f'./{SHARD}', f'{SHARD}/')
    },
    **{
        f'index that names {name!r}': (
            partial(edit_json, change=lambda c, name=name: c['weight_map'].update({HEAD: name})),
            words,
            INDEX,
        )
        for name, words in {
            '': ['no regular file'],
            'a\0b': ['lacks'],
            'x' * 300: ['lacks'],
            'config.json': ['config.json', 'no safetensors'],
        }.items()
    },
    **{
        f'shard is {kind}': (partial(replace, make=make), [SHARD, 'no regular file'], SHARD)
        for kind, make in {
            'a named pipe': os.mkfifo,
            'a folder': os.mkdir,
            'a device': lambda path: path.symlink_to('/dev/zero'),
            'a dangling link': lambda path: path.symlink_to('nowhere'),
            'a loop': lambda path: path.symlink_to(path),
        }.items()
    },
    'single file is a dangling link': (
        lambda d: [(d / INDEX).unlink(), (d / 'model.safetensors').symlink_to('nowhere')],
        ['model.safetensors', 'no regular file'],
    ),
    'index is a dangling link': (
        partial(replace, make=lambda path: path.symlink_to('nowhere')),
        [INDEX, 'missing'],
        INDEX,
    ),
    'index is a loop': (
        partial(replace, make=lambda path: path.symlink_to(path)),
        [INDEX, 'cannot be read'],
        INDEX,
    ),
    **{
        f'{file} is {kind}': (partial(replace, make=make), [file, 'no regular file'], file)
        for file in ('config.json', 'preprocessor_config.json', 'tokenizer.json', INDEX)
        for kind, make in {
            'a named pipe': os.mkfifo,
            'a folder': os.mkdir,
            'a device': lambda path: path.symlink_to('/dev/zero'),
        }.items()
    },
    **{
        f'{file} of a terabyte': (
            lambda path: os.truncate(path, 10**12),
            [file, '1000000000000 bytes', 'at most 16000000'],
            file,
        )
        for file in ('config.json', 'preprocessor_config.json', 'tokenizer.json', INDEX)
    },
    'a billion layers': (
        partial(set_text_config, name='num_hidden_layers', value=10**9),
        ['num_hidden_layers 1000000000', 'at most 1000'],
    ),
    'a name of a megabyte': (
        lambda d: edit_weights(d, lambda t: t.update({'x\n' * 500_000: torch.zeros(2)})),
        ['has 1 tensors', 'x x x'],
    ),
    'many dimensions': (
        lambda d: edit_weights(d, lambda t: t.update({HEAD: torch.zeros([1] * 50)})),
        [HEAD, 'has shape (1, 1,'],
    ),
    **{
        f'header: {name}': (make, [SHARD, *words], SHARD)
        for name, (make, words) in HOSTILE_HEADERS.items()
    },
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_faulty_checkpoint_is_refused(fault: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    damage, words, *file = FAULTS[fault]
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'faulty'))
    damage(folder.joinpath(*file))
    with pytest.raises(CheckpointError) as caught:
        OpenVLAPolicy.from_pretrained(folder, device='cpu')
    text = str(caught.value)
    assert not [word for word in words if word not in text], text
    assert str(folder) in text or 'config.json names the vision tower' in text, text
    assert '\n' not in text.strip() and len(text) < 1100


def test_a_config_as_transformers_5_writes_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'saved'))
    rope = {'rope_type': 'default', 'rope_theta': 10000.0}
    set_text_config(folder, 'rope_parameters', rope)
    policies = [OpenVLAPolicy.from_pretrained(f, device='cpu') for f in (tiny_checkpoint, folder)]
    image = np.zeros((32, 32, 3), np.uint8)
    first, second = (policy.predict_action(image, 'go', return_logits=True) for policy in policies)
    assert first.tokens.logits is not None and second.tokens.logits is not None
    assert (first.tokens.logits == second.tokens.logits).all()


def test_the_tokenizer_neither_cuts_nor_pads(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'cutting'))
    cut = {'max_length': 10, 'strategy': 'LongestFirst', 'stride': 0, 'direction': 'Right'}
    pad = {'strategy': {'Fixed': 64}, 'direction': 'Right', 'pad_to_multiple_of': None}
    pad |= {'pad_id': 32000, 'pad_type_id': 0, 'pad_token': '<PAD>'}
    edit_json(folder / 'tokenizer.json', lambda c: c.update(truncation=cut, padding=pad))
    config = OpenVLAConfig.from_directory(folder)
    expected = PromptTokenizer(tiny_checkpoint, config)('pick up the red cup')
    assert PromptTokenizer(folder, config)('pick up the red cup').tolist() == expected.tolist()


def test_close_gives_the_model_back(tiny_checkpoint: Path) -> None:
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu')
    model = weakref.ref(policy._model)
    policy.close()
    assert model() is None


def test_a_single_file_without_index_will_do(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'single'))
    (folder / INDEX).unlink()
    (folder / SHARD).rename(folder / 'model.safetensors')
    assert OpenVLAPolicy.from_pretrained(folder, device='cpu').info.model == str(folder)


def test_a_folder_of_links_will_do(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As the hub's cache has them, from snapshots to blobs."""
    (tmp_path / 'blobs').mkdir()
    (tmp_path / 'snapshot').mkdir()
    for number, file in enumerate(sorted(tiny_checkpoint.iterdir())):
        shutil.copy(file, tmp_path / 'blobs' / str(number))
        (tmp_path / 'snapshot' / file.name).symlink_to(Path('../blobs', str(number)))
    OpenVLAPolicy.from_pretrained(tmp_path / 'snapshot', device='cpu')


def test_a_hub_that_names_files_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library sees to that; its error is told like all others."""

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Invalid filename '../x.json'")

    monkeypatch.setattr(hub, 'snapshot_download', refuse)
    with pytest.raises(CheckpointError, match=r"'someone/evil': Invalid filename '../x.json'"):
        hub.resolve_model('someone/evil')


def test_what_is_not_used_may_hold_anything(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'unused'))
    with safe_open(folder / SHARD, framework='pt') as file:
        unused = [key for key in file.keys() if 'attn_pool' in key]  # noqa: SIM118
    set_value(folder, unused[0], math.nan, torch.bfloat16)
    OpenVLAPolicy.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_no_value_that_is_not_finite_is_overlooked(dtype: torch.dtype) -> None:
    """At any place: reductions treat the ends of a tensor apart."""
    shard = Path('shard')
    largest = torch.finfo(dtype).max
    for size in (1, 2, 7, 17, 64, 1000, 32_769):
        weights = torch.full((size,), largest, dtype=dtype)
        weights[::2] *= -1
        _check_finite(weights, 'name', shard)
        for value in (math.nan, math.inf, -math.inf):
            for place in {0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size)):
                broken = weights.clone()
                broken[place] = value
                with pytest.raises(CheckpointError, match=f'name has 1 of {size} values'):
                    _check_finite(broken, 'name', shard)


def test_statistics_of_a_fine_tuning_win(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'tuned'))
    statistics = {'own': {'action': {'q01': [0.0] * 3, 'q99': [2.0] * 3}}}
    (folder / 'dataset_statistics.json').write_text(json.dumps(statistics))
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu')
    assert policy.spec('').action_dim == 3
    with pytest.raises(UnnormKeyError) as caught:
        policy.spec('random')
    assert caught.value.what == "unnorm_key 'random' is not in this checkpoint"
    assert (caught.value.value, caught.value.expected) == ("'random'", 'one of own')


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux lists what is mapped')
def test_weights_are_mapped_not_copied(tiny_checkpoint: Path) -> None:
    """In the stored dtype on the CPU, a parameter is a view of the mapped file."""
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='bfloat16')
    maps = [line.split() for line in Path('/proc/self/maps').read_text().splitlines()]
    spans = [m[0].split('-') for m in maps if m[-1] == str(tiny_checkpoint / SHARD)]
    mapped = [(int(first, 16), int(last, 16)) for first, last in spans]
    for name, parameter in policy._model.named_parameters():
        address = parameter.data_ptr()
        assert any(first <= address < last for first, last in mapped), name
    with safe_open(tiny_checkpoint / SHARD, framework='pt') as file:
        unused = {key for key in file.keys() if 'attn_pool' in key}  # noqa: SIM118
    assert unused
    assert not [name for name, _ in policy._model.named_parameters() if 'attn_pool' in name]


def test_no_parameter_is_left_on_the_meta_device(tiny_checkpoint: Path) -> None:
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float16')
    tensors = [*policy._model.parameters(), *policy._model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {'cpu'}
    assert {parameter.dtype for parameter in policy._model.parameters()} == {torch.float16}
    assert not any(parameter.requires_grad for parameter in policy._model.parameters())


def test_loading_tells_its_progress(tiny_checkpoint: Path) -> None:
    told: list[Progress] = []
    OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', progress=told.append)
    assert told[-1].done == told[-1].total > 100
    assert [p.done for p in told] == sorted(p.done for p in told)


def test_random_checkpoints_are_deterministic(tiny_checkpoint: Path, tmp_path: Path) -> None:
    again = write_random_checkpoint(tmp_path / 'again')
    other = write_random_checkpoint(tmp_path / 'other', seed=1)
    for file in sorted(tiny_checkpoint.iterdir()):
        if file.name == MARKER:
            continue  # it has dates
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    assert (other / SHARD).read_bytes() != (tiny_checkpoint / SHARD).read_bytes()
    assert (
        *('tiny', 'blocks', 'openvla-7b', 'openvla-v01-7b'),
        *('vla-adapter-pro', 'vla-adapter-pro-tiny', 'openvla-oft', 'openvla-oft-tiny'),
        *('minivla', 'minivla-vq', 'minivla-tiny', 'minivla-vq-tiny'),
    ) == SHAPES
