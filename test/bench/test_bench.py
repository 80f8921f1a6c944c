# SPDX-License-Identifier: Apache-2.0
"""vla_bench: what it reports fits together. Nothing in here says how long anything may take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from support.places import GOLDEN
from vla_ros.bench import ceilings as limits
from vla_ros.bench import measure, memory, random_weights
from vla_ros.bench.combinations import Combination, combine, locate
from vla_ros.bench.plain import PlainPath
from vla_ros.cli import bench
from vla_ros.measure.images import noise_images
from vla_ros.measure.observations import make_observations
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import INDEX_NAME, Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.costs import count_costs
from vla_ros.openvla.placement import DTYPES
from vla_ros.openvla.quantization import choose_linear
from vla_ros.policy_request import PolicyRequest
from vla_ros.synthetic.checkpoint_writer import checkpoint_bytes
from vla_ros.synthetic.random_model import cached_random_checkpoint
from vla_ros.types import Observation, PolicyError, Prediction, Session, WarmupTimes

STAGES = ['preprocess', 'vision', 'projector', 'prefill', 'decode', 'postprocess']
TINY_PARAMETERS_PER_LAYER = 4 * 64 * 64 + 3 * 64 * 172  # of the products
VOCABULARY = 32064


@pytest.fixture(autouse=True)
def _quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, '_MIN_SECONDS', 0.0)
    monkeypatch.setattr(limits, '_MIN_RUNS', 1)
    monkeypatch.setattr(limits, '_STREAMED_BYTES', {'cpu': 1_000_000})
    monkeypatch.setattr(limits, '_SQUARE', {'cpu': 64})
    monkeypatch.setattr(limits, '_RUN_S', 0.0)
    monkeypatch.setattr(limits, '_LAUNCHES', 1)
    monkeypatch.setattr(limits, '_HIDDEN', 128)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, dict[str, Any]]:
    """What it printed, and its last line."""
    assert bench.main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    return printed, json.loads(printed.splitlines()[-1])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that it ends with, when it could not do as it was told."""
    assert bench.main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ''
    return captured.err.splitlines()[-1]


def test_the_report_fits_together(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    arguments = (tiny_checkpoint, '--device', 'cpu', '--dtype', 'float32,bfloat16', '--threads', 1)
    printed, report = run(capsys, *arguments, '--repeats', 3)
    assert torch.get_num_threads() == threads
    assert report['took_turns'] and 'NOT in turns' not in printed
    assert report['command'] == 'vla_bench ' + ' '.join(map(str, (*arguments, '--repeats', 3)))
    assert report['command'] in printed and report['machine']['torch'] == torch.__version__
    first, second = report['combinations']
    assert (first['dtype'], second['dtype']) == ('float32', 'bfloat16')
    assert first['beside_first'] == {
        'actions': 3,
        'equal_actions': 3,
        'equal_bins': 1.0,
        'largest_bin_distance': 0,
    }
    assert 0 <= second['beside_first']['equal_bins'] <= 1
    for one in (first, second):
        _check_combination(one)
        assert one['name'] in printed
        assert one['action_s'] == one['latency_s']['p50']
        ratio = first['latency_s']['p50'] / one['latency_s']['p50']
        assert one['speedup_over_first'] == pytest.approx(ratio)
    in_float32, in_bfloat16 = (one['weight_bytes'] for one in (first, second))
    assert in_float32 == {stage: 2 * count for stage, count in in_bfloat16.items()}


def _check_combination(one: dict[str, Any]) -> None:
    assert one['repeats'] == len(one['latencies_s']) == one['valid_actions'] == 3
    assert one['latency_s']['p50'] == sorted(one['latencies_s'])[1]
    assert one['latency_s']['p50'] <= one['latency_s']['p95'] <= one['latency_s']['p99']
    assert list(one['stages_s']) == STAGES
    in_stages = [
        sum(stages_s.values()) / seconds
        for seconds, stages_s in zip(one['latencies_s'], one['timings_s'], strict=True)
    ]
    assert 0.8 < max(in_stages) <= 1
    decode_s = one['stages_s']['decode']['p50']
    assert 0 < one['decode_steps'] <= 6  # a guess may be right
    assert one['decode_step_s'] == pytest.approx(decode_s / one['decode_steps'])
    loading = one['loading']
    assert 0 < loading['first_s'] < loading['warmup_s'] and loading['load_s'] > 0
    assert loading['peak_resident_bytes'] > loading['added_resident_bytes'] > 0
    assert loading['added_device_bytes'] is None
    rate = one['flops']['prefill'] / one['stages_s']['prefill']['p50'] / 1e9
    ceilings, reached = one['ceilings'], one['reached']
    assert reached['gflop_per_s']['prefill'] == pytest.approx(rate)
    fraction = reached['fraction_of_gemm']['prefill']
    assert fraction == pytest.approx(rate / ceilings['gemm_gflop_per_s'])
    read = one['weight_bytes']['decode_step'] / one['decode_step_s'] / 1e9
    for name in ('row', 'stream'):
        fraction = reached[f'decode_fraction_of_{name}']
        assert fraction == pytest.approx(read / ceilings[f'{name}_gb_per_s'])


@pytest.mark.parametrize('fit', [True, False])
def test_combinations_take_turns_if_they_fit(
    fit: bool, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, int]] = []
    pictures: list[int] = []
    predict = OpenVLAPolicy.predict

    def recorded(
        self: OpenVLAPolicy, batch: Sequence[tuple[Session, Observation]], *rest: object
    ) -> list[Prediction | PolicyError]:
        called.append((self.info.dtype, torch.get_num_threads()))
        images = [observation.image for _, observation in batch]
        pictures.extend(int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for image in images)
        return predict(self, batch, *rest)

    monkeypatch.setattr(OpenVLAPolicy, 'warmup', lambda self, *_: WarmupTimes(2.0, 1.0, 1.0))
    monkeypatch.setattr(OpenVLAPolicy, 'predict', recorded)
    if not fit:
        monkeypatch.setattr(memory, 'available_bytes', lambda device: 0)
    threads = [1, 2]
    combinations = combine(['cpu'], ['float32', 'bfloat16'], ['none'], [False], [1], threads)
    combinations = locate(combinations, str(tiny_checkpoint))
    task = measure.Task('pick up the cup', repeats=2)
    measurements, took_turns = measure.measure(task, combinations, lambda text: None)
    assert took_turns == fit
    assert [one.combination for one in measurements] == combinations
    first, second = [[(dtype, count) for count in threads] for dtype in ('float32', 'bfloat16')]
    # One each that is not counted, then two rounds.
    assert called == (3 * (first + second) if fit else 3 * first + 3 * second)
    assert len(set(pictures)) == 3
    loaded = [one.loading is not None for one in measurements]
    assert loaded == [True, False, True, False]


def test_the_report_says_when_they_did_not_take_turns(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, 'available_bytes', lambda device: 0)
    arguments = ('--device', 'cpu', '--dtype', 'float32,bfloat16', '--repeats', 1)
    printed, report = run(capsys, tiny_checkpoint, *arguments)
    assert not report['took_turns'] and 'NOT in turns' in printed
    assert [one['dtype'] for one in report['combinations']] == ['float32', 'bfloat16']


def test_a_policy_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has latencies, and no columns of what only a model has."""
    model, plot = 'scripted:cameras=2,state=8,chunk=8,tokens=0', tmp_path / 'plot.png'
    printed, report = run(
        capsys, model, '--repeats', 3, '--batch-size', '1,2', '--threads', 1, '--plot', plot
    )
    assert report['model'] == model and report['took_turns']
    first, second = report['combinations']
    assert first['name'] == 'cpu float64 1 thread'
    assert second['name'] == 'cpu float64 batch 2 1 thread'
    for one in (first, second):
        assert one['rows'] == 8
        assert one['row_s'] == one['action_s'] / 8
        assert one['valid_actions'] == 3 * one['batch_size']
        assert one['latency_s']['p50'] == sorted(one['latencies_s'])[1]
        assert one['stages_s'] == {} and one['timings_s'] == [{}, {}, {}]
        unknown = ('decode_step_s', 'acceptance', 'beside_first', 'positions', 'flops', 'ceilings')
        assert [one[name] for name in unknown] == [None] * len(unknown)
    text = printed.rpartition('\n\n')[0]
    assert re.findall('^(seconds|actions|milliseconds|reached)', text, re.M) == [
        'seconds',
        'actions',
    ]
    assert 'ms per row' in text
    assert not re.search('equal bins|draft accepted|GEMM', text)
    with Image.open(plot) as image:
        image.load()


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['scripted', '--draft', 'right'], "model 'scripted' takes no drafts; leave --draft out"),
        (['scripted', '--device', 'cuda'], "model 'scripted' has no device, dtype"),
        (['scripted:chunk=0'], "'chunk=0': chunk= needs a whole number from 1 to 1000"),
    ],
)
def test_what_a_policy_without_a_model_does_not_have(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, *arguments)


def test_the_keys_of_a_report_are_the_same_for_every_policy(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = [run(capsys, model, '--repeats', 1)[1] for model in (tiny_checkpoint, 'scripted')]
    tiny, scripted = reports
    assert list(tiny) == list(scripted)
    assert list(tiny['combinations'][0]) == list(scripted['combinations'][0])


def test_what_fits_into_memory(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tiny_checkpoint)
    config = OpenVLAConfig.from_directory(tiny_checkpoint)
    assert checkpoint.dtypes == {torch.bfloat16}
    whole = count_costs(config, torch.float32, 38).model_bytes
    available = round(1.1 * whole) + 1
    monkeypatch.setattr(memory, 'available_bytes', lambda device: available)

    def fit(*dtypes: str, compiles: Sequence[bool] = (False,), quantization: str = 'none') -> bool:
        combinations = [
            Combination(PolicyRequest('', '', 'cpu', dtype, quantization, compiled), size, count)
            for dtype in dtypes
            for compiled in compiles
            for size in (1, 2)
            for count in range(1, 9)
        ]
        each = {dtype: count_costs(config, DTYPES[dtype], 38, 1, quantization) for dtype in dtypes}
        costs = [each[one.policy.dtype] for one in combinations]
        return memory.loaded_together(combinations, costs, checkpoint.dtypes)

    assert fit('float32')
    assert fit('bfloat16', compiles=(False, True))  # both are the mapped file
    assert not fit('float16', 'bfloat16', 'float32')
    assert not fit('float32', compiles=(False, True))
    # Embedding and head, the largest part of a tiny model, are float32 and bfloat16.
    assert not fit('float32', 'bfloat16', quantization='int8')


def test_costs_of_the_tiny_shape(tiny_checkpoint: Path) -> None:
    config = OpenVLAConfig.from_directory(tiny_checkpoint)
    costs = count_costs(config, torch.bfloat16, prompt_tokens=32)
    assert costs.positions == 256 + 32
    attention = 2 * 2 * 288 * 288 * 64  # queries by keys, weights by values
    layer = 2 * 288 * TINY_PARAMETERS_PER_LAYER + attention
    keys_and_values = 2 * 64 * 64  # all that the last layer makes of positions before the last
    last = 2 * (287 * keys_and_values + TINY_PARAMETERS_PER_LAYER) + attention // 288
    assert costs.flops['prefill'] == 2 * layer + last + 2 * 64 * VOCABULARY
    # The position after the prefill sees all of the cache: 289.
    step = 2 * TINY_PARAMETERS_PER_LAYER + 2 * 2 * 289 * 64
    assert costs.flops['decode_step'] == 3 * step + 2 * 64 * VOCABULARY
    norms = 7 * 64
    parameters = 3 * TINY_PARAMETERS_PER_LAYER + norms + 64 * VOCABULARY
    assert costs.decode_step_bytes == costs.weight_bytes['prefill'] == 2 * parameters
    assert list(costs.weight_bytes) == list(costs.flops)
    embedding = 2 * 64 * VOCABULARY
    once = {**costs.weight_bytes, 'decode_step': 0}
    assert sum(once.values()) == costs.model_bytes - embedding
    fc1, fc2, fc3 = 144 * 576, 576 * 64, 64 * 64
    assert costs.flops['projector'] == 2 * 256 * (fc1 + fc2 + fc3)
    # DINOv2: 3 of 4 blocks, a class token and 4 registers; SigLIP: 4 of 5 blocks.
    towers = _tower_flops(3, 256 + 5, 64, 256) + _tower_flops(4, 256, 80, 298)
    assert costs.flops['vision'] == towers


def _tower_flops(blocks: int, tokens: int, width: int, mlp_width: int) -> int:
    patches = 2 * 256 * (3 * 14 * 14) * width
    products = 2 * tokens * (4 * width * width + 2 * width * mlp_width)
    return patches + blocks * (products + 2 * 2 * tokens * tokens * width)


def test_costs_of_a_batch(tiny_checkpoint: Path) -> None:
    config = OpenVLAConfig.from_directory(tiny_checkpoint)
    one, four = (count_costs(config, torch.float32, 64, batch_size) for batch_size in (1, 4))
    assert four.flops == {stage: 4 * flops for stage, flops in one.flops.items()}
    assert four.decode_step_bytes == one.decode_step_bytes


@pytest.mark.parametrize(('quantization', 'bits'), [('int8', 8), ('int4', 4)])
def test_costs_of_quantised_weights(tiny_checkpoint: Path, quantization: str, bits: int) -> None:
    config = OpenVLAConfig.from_directory(tiny_checkpoint)
    plain = count_costs(config, torch.bfloat16, 38)
    costs = count_costs(config, torch.bfloat16, 38, quantization=quantization)
    assert costs.flops == plain.flops
    kept = 2 * (7 * 64 + 64 * VOCABULARY)  # norms and head
    linear = nn.Linear(64, 64, bias=False, device='meta')
    row_bytes = choose_linear(quantization, torch.device('cpu'), linear).weight_bytes // 64
    assert 0 < row_bytes - 64 * bits // 8 <= 10  # scales, of int4 also of groups
    attention = 3 * 4 * 64 * row_bytes
    mlp = 3 * (3 * 64 * 172 + 4 * (2 * 172 + 64))  # 172 is no number of rows or inputs for int4
    assert costs.decode_step_bytes == kept + attention + mlp
    assert costs.model_bytes < plain.model_bytes - (
        plain.decode_step_bytes - costs.decode_step_bytes
    )


def test_ceilings_are_measured_once_for_each_device_dtype_and_threads() -> None:
    combinations = combine(['cpu'], ['float32', 'bfloat16'], ['none'], [False, True], [1], [1])
    said: list[str] = []
    ceilings = limits.measure_ceilings(combinations, said.append)
    assert [text.rpartition('of ')[2] for text in said] == [
        'cpu float32 none, threads 1',
        'cpu bfloat16 none, threads 1',
    ]
    assert ceilings[0] is ceilings[1] and ceilings[2] is ceilings[3]
    assert all(math.isfinite(one.gemm_gflop_per_s) and one.row_gb_per_s > 0 for one in ceilings)


def test_batches_drafts_and_quantisation_in_one_report(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, report = run(
        capsys,
        *(tiny_checkpoint, '--device', 'cpu', '--dtype', 'float32', '--repeats', 2),
        *('--quantization', 'none,int8', '--batch-size', '1,2', '--draft', 'none,right,wrong'),
    )
    by_name = {one['name'].removesuffix(' draft'): one for one in report['combinations']}
    threads = f'{torch.get_num_threads()} thread{"s" if torch.get_num_threads() > 1 else ""}'
    assert len(by_name) == 12
    for one in report['combinations']:
        assert one['valid_actions'] == 2 * one['batch_size']
        assert one['action_s'] == one['latency_s']['p50'] / one['batch_size']
        drafted = 0 if one['draft'] == 'none' else 2 * 6 * one['batch_size']
        assert one['drafted'] == drafted
        assert one['accepted'] == (drafted if one['draft'] == 'right' else 0)
        assert 0 < one['decode_steps'] <= 6 if one['draft'] != 'right' else not one['decode_steps']
        assert (one['decode_step_s'] is None) == (one['draft'] == 'right')
        assert one['name'] in printed
    plain, batch = by_name[f'cpu float32 {threads}'], by_name[f'cpu float32 batch 2 {threads}']
    assert batch['flops']['prefill'] == 2 * plain['flops']['prefill']
    for kind in ('right', 'wrong'):  # never another action, in a batch or with a draft
        other = by_name[f'cpu float32 batch 2 {threads} {kind}']
        assert other['beside_first']['equal_actions'] == other['beside_first']['actions'] == 2
    int8 = [one for one in report['combinations'] if one['quantization'] == 'int8']
    assert len({json.dumps(one['beside_first']) for one in int8}) == 1
    assert int8[0]['model_bytes'] < plain['model_bytes']


def test_pictures_of_ones_own(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for level in (0, 255):
        pictures.append(tmp_path / f'{level}.png')
        Image.new('RGB', (64, 48), (level,) * 3).save(pictures[-1])
    arguments = (tiny_checkpoint, '--device', 'cpu', '--repeats', 4, '--draft', 'right')
    _, report = run(capsys, *arguments, '--images', *pictures)
    assert report['combinations'][0]['acceptance'] == 1
    few = (tiny_checkpoint, '--device', 'cpu', '--batch-size', '1,3', '--images', *pictures)
    assert '2 images for batches of 3' in refused(capsys, *few)


def test_profile_and_plot(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, plot = tmp_path / 'trace.json', tmp_path / 'plot.png'
    printed, report = run(
        capsys,
        *(tiny_checkpoint, '--device', 'cpu', '--threads', '1,1', '--repeats', 1),
        *('--profile', trace, '--plot', plot),
    )
    events = {event.get('name') for event in json.loads(trace.read_text())['traceEvents']}
    assert {*STAGES, 'aten::mm'} <= events
    operators = report['operators']
    assert 0 < sum(operator['share'] for operator in operators) <= 1
    assert [one['self_s'] for one in operators] == sorted(
        (one['self_s'] for one in operators), reverse=True
    )
    assert operators[0]['name'][:48] in printed
    with Image.open(plot) as picture:
        picture.load()
        assert picture.format == 'PNG'
        assert len(picture.getcolors(picture.width * picture.height)) > len(STAGES)


def test_a_random_model_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    directory = cached_random_checkpoint('tiny', tmp_path, said.append)
    size = sum(file.stat().st_size for file in directory.glob('*.safetensors'))
    assert checkpoint_bytes('tiny') == pytest.approx(size, rel=0.01)
    assert said == [
        f'writing {directory}: {size / 1e9:.2f} GB of random weights, kept for the next run'
    ]
    written = (directory / INDEX_NAME).stat().st_mtime_ns
    assert cached_random_checkpoint('tiny', tmp_path, said.append) == directory
    assert (directory / INDEX_NAME).stat().st_mtime_ns == written


def test_random_weights_need_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of one shape are the same in every policy; a model that does not fit is not drawn."""
    options = ['--random', 'tiny', '--cache', tmp_path, '--device', 'cpu', '--repeats', 2]
    printed, report = run(
        capsys, *options, '--dtype', 'float32', '--plain', '--quantization', 'none,int8'
    )
    assert report['model'] == 'tiny, random weights' and not list(tmp_path.iterdir())
    plain, exact, _ = report['combinations']
    assert (plain['is_plain'], plain['quantization']) == (True, 'none')
    assert plain['decode_steps'] == 6
    assert exact['beside_first'] == {
        'actions': 2,
        'equal_actions': 2,
        'equal_bins': 1.0,
        'largest_bin_distance': 0,
    }
    for one in report['combinations']:
        assert one['name'] in printed
        _check_limits(one)


def _check_limits(one: dict[str, Any]) -> None:
    ceilings, limits_of = one['ceilings'], one['limits']
    rate = max(ceilings['gemm_gflop_per_s'], ceilings['square_gflop_per_s'])
    speed = max(ceilings[f'{name}_gb_per_s'] for name in ('row', 'stream', 'copy'))
    counts = {'vision': 1, 'projector': 1, 'prefill': 1, 'decode_step': one['decode_steps']}
    for stage, count in counts.items():
        least_s = max(one['flops'][stage] / rate, one['weight_bytes'][stage] / speed) / 1e9
        name = stage.removesuffix('_step')
        assert limits_of['s'][name] == pytest.approx(count * least_s)
        share = count * least_s / one['stages_s'][name]['p50']
        assert limits_of['share'][name] == pytest.approx(share)
    whole_s = sum(limits_of['s'].values())
    assert limits_of['whole_share'] == pytest.approx(whole_s / one['latency_s']['p50'])


def test_a_random_model_that_does_not_fit_is_not_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, 'available_bytes', lambda device: 0)
    told = refused(capsys, '--random', 'tiny', '--device', 'cpu', '--dtype', 'bfloat16')
    assert 'tiny in bfloat16 takes 1.2 GB on cpu, and 0.0 GB are free' in told


@pytest.mark.parametrize(
    'name', ['openvla_tiny', 'minivla_tiny', 'minivla_wrist_vq_tiny', 'openvla_oft_libero_tiny']
)
def test_the_plain_path_gives_the_same_actions(name: str) -> None:
    policy = OpenVLAPolicy.from_pretrained(GOLDEN / name, device='cpu', dtype='float32')
    key = next(iter(policy.config.norm_stats))
    session = policy.session(key)
    images = noise_images(len(session.spec.cameras))
    [observation] = make_observations(session.spec, images, 'pick up the cup')
    [ours] = policy.predict([(session, observation)])
    [plain] = PlainPath(policy).predict([(session, observation)])
    assert isinstance(ours, Prediction)
    np.testing.assert_allclose(plain.actions, ours.actions, rtol=0, atol=1e-5)
    if ours.tokens is not None and plain.tokens is not None:
        assert plain.tokens.ids.tolist() == ours.tokens.ids.tolist()
    assert {'preprocess', 'vision', 'projector', 'prefill', 'postprocess'} <= set(plain.timings)


@pytest.mark.parametrize('shape', ['vla-adapter-pro-tiny', 'openvla-oft-tiny'])
def test_a_random_model_of_chunks(
    shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ['--random', shape, '--cache', tmp_path, '--repeats', 1, '--device', 'cpu']
    printed, report = run(capsys, *options, '--dtype', 'float32', '--batch-size', '1,2')
    for one in report['combinations']:
        assert (one['rows'], one['valid_actions']) == (8, one['batch_size'])
        assert list(one['stages_s']) == [
            *('preprocess', 'vision', 'projector', 'prefill', 'head', 'postprocess')
        ]
        assert all(times['p50'] > 0 for times in one['stages_s'].values())
        assert one['decode_steps'] is one['decode_step_s'] is one['beside_first'] is None
        assert one['flops']['head'] > 0
    assert 'decode' not in printed.partition('\n\nload, warm-up')[0]
    refusal = refused(capsys, *options, '--draft', 'right')
    assert 'takes no drafts' in refusal


@pytest.mark.parametrize('shape', ['minivla-tiny', 'minivla-vq-tiny'])
def test_a_random_minivla(shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ['--random', shape, '--cache', tmp_path, '--repeats', 1, '--device', 'cpu']
    _, report = run(capsys, *options, '--dtype', 'float32', '--draft', 'none,right,wrong')
    plain, right, wrong = report['combinations']
    for one in (plain, right, wrong):
        assert (one['rows'], one['valid_actions']) == (8 if '-vq' in shape else 1, 1)
        assert one['flops']['decode_step'] > 0 and one['beside_first']['equal_actions'] == 1
    assert 0 < plain['decode_steps'] <= 6
    assert (right['accepted'], wrong['accepted']) == (6, 0)


def test_no_room_for_a_random_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('shutil.disk_usage', lambda path: type('Usage', (), {'free': 1_000_000}))
    with pytest.raises(PolicyError, match=r'would take 0.0\d GB, and 0.00 GB are free; make room'):
        cached_random_checkpoint('tiny', tmp_path, lambda text: None)


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (
            ['--quantization', 'none,int3'],
            "'int3' is unknown; expected one of none, int8",
        ),
        (['--draft', 'none,left'], "draft 'left' is unknown; allowed: none, right, wrong"),
        (['--images', '/nowhere.png'], 'image /nowhere.png does not exist'),
        (['--images', '/dev/zero'], 'image /dev/zero is a device; expected a regular file'),
        (['--images', __file__], 'cannot be read as an image: cannot identify image file'),
        (['--dtype', 'float32,float8'], "dtype 'float8' is unknown; expected one of auto, float32"),
        (['--device', 'cpu,tpu'], "device 'tpu' is unknown; expected one of auto"),
        (['--threads', '1,1000000'], 'threads is 1000000; allowed: 1 to '),
        (['--instruction', ' '], 'instruction is empty'),
        (['--plot', '/nowhere/plot.png'], 'No such file or directory'),
        (['--profile', '/nowhere/trace.json'], 'No such file or directory'),
    ],
)
def test_what_can_not_be_had(
    arguments: list[str], told: str, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, tiny_checkpoint, *arguments)


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "model '/nowhere' is not a folder" in refused(capsys, '/nowhere')


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['model', '--random', 'tiny'], 'name either a model'),
        (['--random', 'openvla-9b'], 'invalid choice'),
        (['model', '--threads', '1,x'], "'x' is not a whole number above 0"),
        (['model', '--batch-size', '0'], "'0' is not a whole number above 0"),
        (['model', '--compile', 'maybe'], "'maybe' is not allowed; allowed: true, false"),
    ],
)
def test_unusable_arguments(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
