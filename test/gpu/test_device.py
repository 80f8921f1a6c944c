# SPDX-License-Identifier: Apache-2.0
"""What must hold on a GPU as on the CPU; each test runs on both, and is skipped without a GPU."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from support.drafts import DRAFTS
from support.family_golden import PRO_CASE
from support.golden import CASES, picture
from support.graphs import (
    assert_graphs_change_no_bit,
    assert_same_bits,
    golden_batches,
    without_graphs,
)
from support.places import GOLDEN
from vla_ros.bench.random_weights import described, load_random
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.graphs import CudaRecorder, Graphs
from vla_ros.openvla.quantization import _has_vnni, choose_linear
from vla_ros.openvla.request import Request
from vla_ros.policies import PolicyRequest, resolve
from vla_ros.types import InferenceCancelled, PolicyError

LOGIT_TOLERANCE = 1e-4  # as test_golden.py
CANCELLED_WITHIN_S = 0.1  # a GPU ends what is queued

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
DEVICES = ['cpu', pytest.param('cuda', marks=ON_GPU)]
SOME_CASES = [*list(CASES)[::6], 'openvla_tiny-vga', 'openvla_v01_tiny-vga']


@cache
def policy(name: str, device: str, quantization: str = 'none') -> OpenVLAPolicy:
    dtype = 'float32' if quantization == 'none' else 'bfloat16'
    one = OpenVLAPolicy.from_pretrained(
        GOLDEN / name, device=device, dtype=dtype, quantization=quantization, max_batch_size=3
    )
    if device == 'cuda':
        assert one.warmup().graphs.endswith(' CUDA graphs')
    return one


@pytest.mark.parametrize('kind', ['right', 'first wrong', 'two wrong', 'all wrong'])
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('key', SOME_CASES)
def test_float32_is_the_reference(key: str, device: str, kind: str) -> None:
    name, case = CASES[key]
    with np.load(GOLDEN / f'{name}.npz') as file:
        expected = file[f'{case["name"]}/logits_action']
    prediction = policy(name, device).predict_action(
        picture(case),
        case['instruction'],
        case['unnorm_key'],
        return_logits=True,
        draft=DRAFTS[kind](np.array(case['new_tokens'])),
    )
    assert prediction.tokens.ids.tolist() == case['new_tokens']
    assert prediction.tokens.logits is not None
    np.testing.assert_allclose(prediction.tokens.logits, expected, rtol=0, atol=LOGIT_TOLERANCE)


@ON_GPU
def test_tf32_of_others_changes_no_bit_of_float32() -> None:
    """cuDNN's switch is on by default; the policy convolves nothing there."""
    name, case = CASES['openvla_tiny-vga']
    arguments = picture(case), case['instruction'], case['unnorm_key']
    conv, logits = torch.backends.cudnn.conv, []
    before = conv.fp32_precision
    try:
        for precision in ('tf32', 'ieee'):
            conv.fp32_precision = precision
            policy(name, 'cuda').reset()
            prediction = policy(name, 'cuda').predict_action(*arguments, return_logits=True)
            logits.append(prediction.tokens.logits)
    finally:
        conv.fp32_precision = before
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('quantization', ['int8', 'int4'])
def test_no_quantised_row_depends_on_the_others(
    quantization: str, device: str, dtype: torch.dtype
) -> None:
    if device == 'cpu' and not _has_vnni():
        pytest.skip('inputs are not rounded without VNNI')
    if quantization == 'int4' and device == 'cuda' and dtype != torch.bfloat16:
        pytest.skip('check_quantization rejects it')
    generator = torch.Generator().manual_seed(0)
    layer = choose_linear(
        quantization, torch.device(device), nn.Linear(256, 192, bias=False, device='meta')
    )
    layer.quantize(torch.randn(192, 256, generator=generator), torch.device(device), dtype)
    rows = torch.randn(300, 256, generator=generator).to(device, dtype)
    together = layer(rows)
    for count in (1, 2, 6, 16, 17, 40, 299):
        assert torch.equal(layer(rows[:count]), together[:count]), count


@pytest.mark.parametrize('quantization', ['int8', 'int4'])
@pytest.mark.parametrize('device', DEVICES)
def test_quantised_a_draft_does_not_change_the_tokens(device: str, quantization: str) -> None:
    name, case = CASES['openvla_tiny-vga']
    one = policy(name, device, quantization)
    arguments = picture(case), case['instruction'], case['unnorm_key']
    plain = one.predict_action(*arguments).tokens.ids
    for kind in ('right', 'first wrong', 'two wrong'):
        ids = one.predict_action(*arguments, draft=DRAFTS[kind](plain)).tokens.ids
        assert ids.tolist() == plain.tolist()


@pytest.mark.parametrize(
    ('dtype', 'compile'), [('float32', False), ('bfloat16', False), ('bfloat16', True)]
)
@ON_GPU
def test_graphs_change_no_bit(dtype: str, compile: bool) -> None:
    one = OpenVLAPolicy.from_pretrained(
        GOLDEN / 'openvla_tiny', 'cuda', dtype, compile=compile, max_batch_size=2
    )
    graphs = one.warmup().graphs
    assert graphs.endswith(' CUDA graphs') and not graphs.startswith(('no', '0'))
    assert_graphs_change_no_bit(one, golden_batches('openvla_tiny'))


@pytest.mark.parametrize('quantization', ['int8', 'int4'])
@ON_GPU
def test_graphs_of_quantised_weights_change_no_bit(quantization: str) -> None:
    one = policy('openvla_tiny', 'cuda', quantization)
    assert_graphs_change_no_bit(one, golden_batches('openvla_tiny'))


@ON_GPU
def test_a_chunk_and_its_graphs() -> None:
    one = OpenVLAPolicy.from_pretrained(PRO_CASE.folder(), 'cuda', 'float32')
    assert one.warmup().graphs.endswith(' CUDA graphs')
    one.reset()
    ours = PRO_CASE.predict(one)
    with without_graphs(one):
        one.reset()
        assert_same_bits([ours], [PRO_CASE.predict(one)])
    np.testing.assert_allclose(
        ours.actions, PRO_CASE.array('actions'), rtol=0, atol=PRO_CASE.tolerance
    )


@ON_GPU
def test_after_a_graph_that_failed_the_device_goes_on() -> None:
    """A function that waits for a value can't be recorded; one that is recorded later can."""
    device = torch.device('cuda:0')

    def waits(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x * float(x.sum()),)

    graphs = Graphs(CudaRecorder(device), device, lambda: None)
    x = torch.arange(6.0, device=device)
    stream = torch.cuda.current_stream(device)
    with graphs.making():
        assert torch.equal(graphs.run('waits', waits, x)[0].cpu(), torch.arange(6.0) * 15)
    assert graphs.problem
    assert torch.cuda.current_stream(device) == stream
    others = Graphs(CudaRecorder(device), device, lambda: None)
    with others.making():
        assert torch.equal(others.run('double', lambda x: (2 * x,), x)[0], 2 * x)
    assert not others.problem and len(others) == 1


@ON_GPU
def test_stage_times_on_cuda_are_within_the_inference() -> None:
    one = policy('openvla_tiny', 'cuda')
    case = CASES['openvla_tiny-vga'][1]
    one.reset()
    torch.cuda.synchronize()
    started = time.monotonic()
    prediction = one.predict_action(picture(case), case['instruction'], case['unnorm_key'])
    assert 0 < sum(prediction.timings.values()) < 1.1 * (time.monotonic() - started)
    assert all(seconds > 0 for seconds in prediction.timings.values())


def seconds_to_end(one: OpenVLAPolicy, request: Request, after_s: float) -> float:
    """How long an inference goes on after it was cancelled; negative if it was done before."""
    cancel, cancelled_at = threading.Event(), []

    def cancel_now() -> None:
        cancelled_at.append(time.monotonic())
        cancel.set()

    timer = threading.Timer(after_s, cancel_now)
    timer.start()
    with suppress(InferenceCancelled):
        one.predict_action(request.images[0], request.instruction, request.unnorm_key, cancel)
    if one.info.device != 'cpu':
        torch.cuda.synchronize()
    ended_at = time.monotonic()
    timer.join()
    return ended_at - cancelled_at[0]


@pytest.mark.parametrize(
    ('shape', 'device', 'heard_within_s'),
    [
        ('tiny', 'cpu', CANCELLED_WITHIN_S),
        pytest.param('openvla-7b', 'cuda', 0.02, marks=ON_GPU),
    ],
)
def test_a_whole_model_s_graphs_change_no_bit_and_it_hears_a_cancel(
    shape: str, device: str, heard_within_s: float
) -> None:
    """With random weights that are drawn on the device; a card must have 24 GB."""
    with described(shape) as folder:
        request = resolve(PolicyRequest(folder, device=device, dtype='bfloat16'))
        try:
            one = load_random(request, shape, 2)
        except PolicyError as error:
            pytest.skip(str(error))
    graphs = one.warmup().graphs
    assert graphs.endswith(' CUDA graphs') == (device == 'cuda')
    random = np.random.default_rng(0)
    asked = [
        Request((random.integers(0, 256, (480, 640, 3), np.uint8),), words, None)
        for words in ('go', 'pick up the red cup and put it into the drawer')
    ]
    assert_graphs_change_no_bit(one, [[asked[0]], [asked[1]], asked])
    for after_s in (0.0, 0.01, 0.02, 0.04):
        one.reset()
        heard_s = seconds_to_end(one, asked[0], after_s)
        print(f'{device}: cancelled after {1e3 * after_s:.0f} ms, ended {1e3 * heard_s:.1f} later')
        assert heard_s < heard_within_s or device == 'cpu'
    one.close()


@pytest.mark.parametrize('cuda_graphs', [True, False])
@ON_GPU
def test_a_cancel_ends_an_inference_in_time(cuda_graphs: bool) -> None:
    name, case = CASES['openvla_tiny-vga']
    one = OpenVLAPolicy.from_pretrained(GOLDEN / name, 'cuda', cuda_graphs=cuda_graphs)
    one.warmup()
    cancel, cancelled_at = threading.Event(), []

    def soon() -> None:
        time.sleep(0.003)
        cancelled_at.append(time.monotonic())
        cancel.set()

    thread = threading.Thread(target=soon)
    thread.start()
    with pytest.raises(InferenceCancelled):
        while True:
            one.predict_action(picture(case), case['instruction'], case['unnorm_key'], cancel)
    torch.cuda.synchronize()
    assert time.monotonic() - cancelled_at[0] < CANCELLED_WITHIN_S
    thread.join()
    arguments = picture(case), case['instruction'], case['unnorm_key']
    again = one.predict_action(*arguments).tokens.ids
    assert again.tolist() == one.predict_action(*arguments).tokens.ids.tolist()
