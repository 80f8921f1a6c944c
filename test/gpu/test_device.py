# SPDX-License-Identifier: Apache-2.0
"""What must hold on a GPU as on the CPU; each test runs on both, and is skipped without a GPU."""

from __future__ import annotations

import threading
import time
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from support.drafts import DRAFTS
from support.golden import CASES, picture
from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.quantization import _has_vnni, choose_linear
from vla_ros.types import InferenceCancelled

LOGIT_TOLERANCE = 1e-4  # as test_golden.py
CANCELLED_WITHIN_S = 0.1  # a GPU ends what is queued

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
DEVICES = ['cpu', pytest.param('cuda', marks=ON_GPU)]
SOME_CASES = [*list(CASES)[::6], 'openvla_tiny-vga', 'openvla_v01_tiny-vga']


@cache
def policy(name: str, device: str, quantization: str = 'none') -> OpenVLAPolicy:
    dtype = 'float32' if quantization == 'none' else 'bfloat16'
    return OpenVLAPolicy.from_pretrained(
        GOLDEN / name, device=device, dtype=dtype, quantization=quantization, max_batch_size=3
    )


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


@ON_GPU
def test_a_cancel_ends_an_inference_in_time() -> None:
    name, case = CASES['openvla_tiny-vga']
    one = policy(name, 'cuda')
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
    again = one.predict_action(picture(case), case['instruction'], case['unnorm_key'])
    assert again.tokens.ids.tolist() == case['new_tokens']
