# SPDX-License-Identifier: Apache-2.0
"""Quantised layers compute what their rounded weights say; a quantised policy keeps its word."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_size_t, c_void_p
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from support.drafts import DRAFTS
from support.golden import CASES, picture
from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy, PlacementError, loading, pages, products
from vla_ros.openvla import quantization as q
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.pages import release_pages
from vla_ros.openvla.placement import check_quantization

CPU = torch.device('cpu')
# Without VNNI oneDNN's sums overflow, and the node does not use that class.
WHOLE = [q.DynamicInt8Linear, q.DynamicInt4Linear, q.WholeInt8Linear, q.WholeInt4Linear]
DYNAMIC = WHOLE if q._has_vnni() else []
VNNI = pytest.mark.skipif(not q._has_vnni(), reason='needs VNNI')
CLASSES = [*DYNAMIC, q.Int8Linear, q.CPUInt4Linear]
INPUTS, OUTPUTS = 256, 192
MANY = 40  # rows, more than kernels for few take


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(kind: type[q.QuantizedLinear], dtype: torch.dtype, bias: bool = False) -> nn.Module:
    one = kind(nn.Linear(INPUTS, OUTPUTS, bias=bias, dtype=dtype))
    one.quantize(random(OUTPUTS, INPUTS, seed=1), CPU, dtype)
    return one.requires_grad_(False)


def rounded_weight(kind: type[q.QuantizedLinear]) -> Tensor:
    """float32 [OUTPUTS, INPUTS]: what :func:`layer` multiplies with in float32."""
    weight = random(OUTPUTS, INPUTS, seed=1)
    if kind is q.CPUInt4Linear:
        values, scales_and_zeros = q.quantize_groups(weight, 128, torch.float32)
        scales, zeros = scales_and_zeros.transpose(0, 1).unbind(2)  # [OUTPUTS, groups] each
        groups = values.float().unflatten(1, (-1, 128))
        return ((groups - 8) * scales[..., None] + zeros[..., None]).flatten(1)
    if kind in (q.DynamicInt4Linear, q.WholeInt4Linear):
        return restored(*q.quantize_steps(weight, 128), 128)
    values, scales = q.quantize_rows(weight)
    return values.float() * scales[:, None]


def restored(values: Tensor, steps: Tensor, offsets: Tensor, scales: Tensor, group: int) -> Tensor:
    """float32 [N, K]: what the whole numbers of :func:`quantize_steps` stand for."""
    groups = (
        values.to(torch.int32).unflatten(1, (-1, group)) * steps[..., None] + offsets[..., None]
    )
    wrapped = (groups + 128) % 256 - 128
    return wrapped.flatten(1) * scales[:, None]


def test_rows_are_rounded_to_the_nearest() -> None:
    weight = random(3000, 64)
    weight[5] = 0
    values, scales = q.quantize_rows(weight)
    assert values.dtype == torch.int8
    assert values[5].eq(0).all()
    others = torch.arange(len(weight)) != 5
    assert values[others].abs().amax(dim=1).eq(127).all()
    error = (values * scales[:, None] - weight).abs()
    assert (error <= 0.501 * scales[:, None]).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('group', [32, 128])
def test_groups_are_rounded_to_the_nearest(group: int, dtype: torch.dtype) -> None:
    weight = random(2000, 256) + 0.3
    weight[7] = 0
    values, scales_and_zeros = q.quantize_groups(weight, group, dtype)
    assert values.dtype == torch.uint8 and int(values.max()) == 15
    assert scales_and_zeros.dtype == dtype
    assert scales_and_zeros.shape == (256 // group, 2000, 2)
    scales, zeros = scales_and_zeros.float().transpose(0, 1)[..., None, :].unbind(3)
    restored = (values.float().unflatten(1, (-1, group)) - 8) * scales + zeros
    error = (restored - weight.unflatten(1, (-1, group))).abs()
    # In bfloat16 scale and zero are rounded themselves, by up to 1 / 256.
    slack = 0.51 if dtype == torch.float32 else 0.7
    assert (error <= slack * scales).all()
    assert restored[7].abs().max() < 1e-6


@pytest.mark.parametrize('group', [32, 128])
@pytest.mark.parametrize('kind', ['normal', 'with heavy tails', 'of one sign', 'of unequal groups'])
def test_whole_steps_are_as_near_as_steps_of_any_size(kind: str, group: int) -> None:
    weight = random(300, 512)
    if kind == 'with heavy tails':
        weight = weight / random(300, 512, seed=3).abs().clamp(min=0.3)
    elif kind == 'of one sign':
        weight = weight.abs() + 0.5
    elif kind == 'of unequal groups':
        weight = (weight.unflatten(1, (-1, group)) * random(300, 512 // group, 1).exp()).flatten(1)
    weight[7] = 0
    values, steps, offsets, scales = q.quantize_steps(weight, group)
    assert values.dtype == torch.uint8 and int(values.max()) <= 15
    assert steps.dtype == offsets.dtype == torch.int8 and int(steps.min()) >= 1
    ours = restored(values, steps, offsets, scales, group)
    assert ours[7].abs().max() < 1e-30
    packed = q.pack_halves(values)
    numbers = [one[:, :, None, None] for one in (steps, q._larger(offsets))]
    for by_fours in (False, True):  # plain rows, as on a CPU and on CUDA
        unpacker = q.StepsUnpacker(torch.empty_like(values), numbers[0].shape, by_fours)
        assert torch.equal(unpacker.unpack(packed, *numbers) * scales[:, None], ours)
    values, scales_and_zeros = q.quantize_groups(weight, group, torch.bfloat16)
    scale, zero = scales_and_zeros.float().transpose(0, 1)[..., None, :].unbind(3)
    theirs = ((values.float().unflatten(1, (-1, group)) - 8) * scale + zero).flatten(1)
    error, allowed = (ours - weight).norm(), (theirs - weight).norm()
    print(f'{kind}, {group}: {error / allowed:.3f} of the error with steps of any size')
    assert error < 1.06 * allowed


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_inputs_are_rounded_to_the_nearest(dtype: torch.dtype) -> None:
    rows = (random(20, 64) * torch.logspace(-2, 3, 20)[:, None]).to(dtype)
    rows[3] = 0
    values, scales = q.quantize_inputs(rows)
    assert values.dtype == torch.uint8 and scales.dtype == dtype
    assert (values[3] == 128).all()
    wide = values.float() - 128
    assert wide.abs().max() <= 127
    assert ((wide * scales.float() - rows.float()).abs() <= 0.501 * scales.float()).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kinds', [*((kind, kind) for kind in CLASSES), tuple(DYNAMIC), CLASSES])
def test_layers_of_one_input_give_together_what_each_gives(
    kinds: Sequence[type[q.QuantizedLinear]], dtype: torch.dtype
) -> None:
    layers = [layer(kind, dtype, bias=number % 2 == 1) for number, kind in enumerate(kinds)]
    for shape in ((2, 3, INPUTS), (1, MANY, INPUTS)):
        x = random(*shape, seed=2).to(dtype)
        copy = x.clone()
        products = q.project(x, *layers)
        assert torch.equal(x, copy)
        for one, product in zip(layers, products, strict=True):
            torch.testing.assert_close(product, one(x), rtol=0, atol=0)


@VNNI
def test_layers_of_one_input_round_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = []

    def count(rows: Tensor, real: Callable[..., Any] = q.quantize_inputs) -> Any:
        rounded.append(len(rows))
        return real(rows)

    monkeypatch.setattr(q, 'quantize_inputs', count)
    q.project(random(2, 5, INPUTS), *(layer(kind, torch.float32) for kind in WHOLE))
    assert rounded == [10]


@pytest.mark.parametrize('kind', DYNAMIC)
@pytest.mark.parametrize('bad', [float('nan'), -float('nan'), float('inf'), -float('inf')])
def test_what_is_no_number_stays_none(bad: float, kind: type[q.QuantizedLinear]) -> None:
    rows = random(4, INPUTS)
    rows[2, 9] = bad
    product = layer(kind, torch.float32)(rows)
    assert not product[2].isfinite().any()
    assert product[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize('rows', [1, 6, MANY])
@pytest.mark.parametrize('kind', CLASSES)
def test_a_layer_multiplies_with_its_rounded_weight(
    kind: type[q.QuantizedLinear], rows: int
) -> None:
    x = random(rows, INPUTS, seed=2)
    if kind in DYNAMIC:
        values, scales = q.quantize_inputs(x)
        x = (values.float() - 128) * scales
    expected = x.double() @ rounded_weight(kind).T.double()
    torch.testing.assert_close(
        layer(kind, torch.float32)(random(rows, INPUTS, seed=2)).double(),
        expected,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('rows', [1, 6, 16])
def test_rows_that_do_not_fill_the_kernel_are_not_read_beyond(
    rows: int, dtype: torch.dtype
) -> None:
    linear = q.Int8Linear(torch.nn.Linear(172, OUTPUTS, bias=False, device='meta'))
    weight, x = random(OUTPUTS, 172, seed=1), random(rows, 172, seed=2).to(dtype)
    linear.quantize(weight, CPU, dtype)
    expected = x.float() @ weight.T
    for _ in range(100):  # what lies behind the rows is sometimes another's memory
        error = (linear(x).float() - expected).square().mean().sqrt() / expected.std()
        assert error < 0.02


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', CLASSES)
def test_it_is_near_to_what_it_stands_for(
    kind: type[q.QuantizedLinear], dtype: torch.dtype
) -> None:
    x, weight = random(2, MANY, INPUTS, seed=2), random(OUTPUTS, INPUTS, seed=1)
    one = layer(kind, dtype, bias=True)
    product = one(x.to(dtype))
    assert product.shape == (2, MANY, OUTPUTS) and product.dtype == dtype
    expected = x @ weight.T + one.bias.float()
    error = (product.float() - expected).square().mean().sqrt() / expected.std()
    assert error < (0.02 if 'Int8' in kind.__name__ else 0.15)


@pytest.mark.parametrize('kind', DYNAMIC)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_no_row_depends_on_the_others(dtype: torch.dtype, kind: type[q.QuantizedLinear]) -> None:
    x = random(300, INPUTS).to(dtype)
    one = layer(kind, dtype)
    together = one(x)
    for count in (1, 2, 6, 7, 16, 17, 33, 299):
        assert torch.equal(one(x[:count]), together[:count])


def test_int4_unpacks_what_the_kernel_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    one, x = layer(q.CPUInt4Linear, torch.float32), random(MANY, INPUTS)
    unpacked = one(x)
    monkeypatch.setattr(q, '_unpacks', lambda: False)
    torch.testing.assert_close(unpacked, one(x), rtol=1e-4, atol=1e-4)


def on_meta(name: str) -> OpenVLAModel:
    with torch.device('meta'):
        model = OpenVLAModel(OpenVLAConfig.from_directory(GOLDEN / name))
        model.vision_backbone.prune()
    return model


@pytest.mark.parametrize('quantization', ['int8', 'int4'])
def test_head_and_embedding_stay_and_all_else_is_replaced(quantization: str) -> None:
    model = on_meta('openvla_tiny')
    linears = {name for name, one in model.named_modules() if type(one) is nn.Linear}
    replaced = q.replace_linears(model, quantization, CPU)
    assert linears - replaced.keys() == {'language_model.lm_head'}
    assert all(model.get_submodule(name) is one for name, one in replaced.items())
    kinds = {name: type(one) for name, one in replaced.items()}
    int8 = q.DynamicInt8Linear if q._has_vnni() else q.Int8Linear
    attention = kinds['language_model.model.layers.0.self_attn.q_proj']
    int4 = [q.DynamicInt4Linear, q.WholeInt4Linear] if q._has_vnni() else [q.CPUInt4Linear]
    assert attention in (int4 if quantization == 'int4' else [int8])
    # 172 values are no whole number of groups.
    assert kinds['language_model.model.layers.0.mlp.down_proj'] is int8
    assert kinds['projector.fc1'] is int8
    assert kinds['vision_backbone.featurizer.blocks.0.attn.qkv'] is int8


@pytest.mark.parametrize('device', ['cuda:0', 'mps'])
def test_other_devices_have_other_kernels(device: str) -> None:
    large = nn.Linear(4096, 11008, bias=False, device='meta')
    odd = nn.Linear(172, 64, bias=False, device='meta')
    choose = q.choose_linear
    assert type(choose('int8', torch.device(device), large)) is q.Int8Linear
    assert type(choose('int4', torch.device(device), large)) is q.Int4Linear
    assert type(choose('int4', torch.device(device), odd)) is q.Int8Linear


@pytest.mark.parametrize('device', ['cuda:0', 'mps'])
def test_with_products_of_whole_numbers_a_device_has_the_arithmetic_of_x86(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(q, 'sums_are_exact', lambda device: True)
    large = nn.Linear(4096, 11008, bias=False, device='meta')
    odd = nn.Linear(172, 64, bias=False, device='meta')
    choose, where = q.choose_linear, torch.device(device)
    assert type(choose('int8', where, large)) is q.WholeInt8Linear
    assert type(choose('int4', where, large)) is q.WholeInt4Linear
    assert type(choose('int4', where, odd)) is q.Int8Linear


@pytest.mark.parametrize('count', [1, 6, 16, 17, 40])
def test_sums_are_those_of_whole_numbers(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (
        torch.randint(-127, 128, (rows, INPUTS), dtype=torch.int8, generator=generator)
        for rows in (count, OUTPUTS)
    )
    expected = (inputs.double() @ weight.double().T).to(torch.int32)
    if q._has_vnni():
        assert torch.equal(products.int8_sums(inputs, weight), expected)
    with FakeTensorMode() as mode:  # as CUDA wants it
        fake = [mode.from_tensor(tensor).to('cuda') for tensor in (inputs, weight)]
        assert products.int8_sums(*fake).shape == (count, OUTPUTS)


def test_a_device_with_wrong_sums_or_none_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = products.sums_are_exact.__wrapped__
    assert ask(CPU) is q._has_vnni()
    assert not ask(torch.device('meta'))
    right = torch._int_mm
    monkeypatch.setattr(torch, '_int_mm', lambda *factors: right(*factors).clamp(max=32767))
    assert not ask(CPU)


@VNNI
def test_only_the_known_order_of_onednn_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = products.is_writable.__wrapped__
    writable = ask(128, 256)
    print('this oneDNN can be written to:', writable)
    assert not ask(100, 256)
    monkeypatch.setattr(products, 'to_blocks', lambda weight: weight.view(-1, 64 * 256))
    assert not ask(128, 256)
    monkeypatch.setattr(q, 'is_writable', lambda *shape: False)
    assert type(q.choose_linear('int4', CPU, nn.Linear(256, 128))) is q.WholeInt4Linear
    monkeypatch.setattr(q, 'is_writable', lambda *shape: True)
    assert type(q.choose_linear('int4', CPU, nn.Linear(256, 128))) is q.DynamicInt4Linear
    assert type(q.choose_linear('int4', CPU, nn.Linear(256, 144))) is q.WholeInt4Linear


@VNNI
@pytest.mark.parametrize('group', [64, 128])
@pytest.mark.parametrize('unpacked_bytes', [1, 2 * 64 * 320, 1 << 20])
@pytest.mark.parametrize(('rows', 'limit'), [(6, '_FEW_ROWS_BYTES'), (MANY, '_MANY_ROWS_BYTES')])
def test_int4_in_parts_and_in_threads_is_int4_as_a_whole(
    rows: int, limit: str, unpacked_bytes: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """320 outputs: parts of 64; of 128 and one of 64; and one part."""
    monkeypatch.setattr(q.DynamicInt4Linear, limit, unpacked_bytes)
    inputs = 256 if group == 128 else 320
    if not q.is_writable(64, inputs):
        pytest.skip('this oneDNN has another order')
    linear = nn.Linear(inputs, 320, bias=False, device='meta')
    layers = [q.DynamicInt4Linear(linear), q.WholeInt4Linear(linear)]
    for one in layers:
        one.quantize(random(320, inputs, seed=1), CPU, torch.float32)
    assert layers[0].group == group
    x = random(rows, inputs, seed=2)
    ours, plain = (one(x) for one in layers)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    with ThreadPoolExecutor(2) as pool:
        for product in pool.map(lambda _: layers[0](x), range(20)):
            assert torch.equal(product, ours)


@VNNI
@pytest.mark.parametrize('inputs', [32, 96, 288, 4096])
def test_int4_of_any_width_is_what_plain_products_give(inputs: int) -> None:
    linear = nn.Linear(inputs, 64, bias=False, device='meta')
    chosen, plain = q.choose_linear('int4', CPU, linear), q.WholeInt4Linear(linear)
    for one in (chosen, plain):
        one.quantize(random(64, inputs, seed=1), CPU, torch.float32)
    x = random(MANY, inputs, seed=2)
    torch.testing.assert_close(chosen(x), plain(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ('capabilities', 'kind'),
    [
        ({'avx512_vnni': True}, q.DynamicInt8Linear),
        ({'avx2': True, 'avx_vnni': True}, q.DynamicInt8Linear),
        ({'avx2': True, 'avx512_f': True, 'avx512_vnni': False}, q.Int8Linear),
        ({'neon': True}, q.Int8Linear),
    ],
)
def test_a_cpu_whose_sums_would_overflow_keeps_its_inputs(
    capabilities: dict[str, bool], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities)
    assert type(q.choose_linear('int8', CPU, nn.Linear(64, 64))) is kind
    int4 = [q.DynamicInt4Linear, q.WholeInt4Linear]
    if kind is q.Int8Linear:
        int4 = [q.CPUInt4Linear]
    assert type(q.choose_linear('int4', CPU, nn.Linear(64, 64))) in int4


@pytest.mark.parametrize('rows', [1, MANY])
@pytest.mark.parametrize('kind', [q.DynamicInt8Linear, q.Int8Linear])
def test_float16_holds_large_products_of_small_weights(
    kind: type[q.QuantizedLinear], rows: int
) -> None:
    """As in a trained language model: weights of 0.02, and single activations of hundreds."""
    weight = 0.02 * random(OUTPUTS, INPUTS, seed=1)
    one = kind(nn.Linear(INPUTS, OUTPUTS, bias=False))
    one.quantize(weight, CPU, torch.float16)
    x = random(rows, INPUTS, seed=2)
    x[0, 3] = 9000.0
    product = one(x.half()).float()
    expected = x @ weight.T
    assert expected.abs().max() > 300
    torch.testing.assert_close(product[0], expected[0], rtol=0.02, atol=3.0)


@pytest.mark.parametrize('rows', [1, MANY])
@pytest.mark.parametrize('kind', [q.Int8Linear, q.Int4Linear, q.WholeInt8Linear, q.WholeInt4Linear])
def test_on_cuda_shapes_and_dtypes_fit_the_kernels(
    kind: type[q.QuantizedLinear], rows: int
) -> None:
    """As far as torch knows without a GPU: it checks what it is given, and computes nothing."""
    with FakeTensorMode():
        one = kind(nn.Linear(512, 1024, bias=False, device='cuda', dtype=torch.bfloat16))
        weight = torch.empty(1024, 512, dtype=torch.bfloat16)
        one.quantize(weight, torch.device('cuda'), torch.bfloat16)
        product = one(torch.empty(1, rows, 512, device='cuda', dtype=torch.bfloat16))
    assert product.shape == (1, rows, 1024)
    assert product.dtype == torch.bfloat16 and product.device.type == 'cuda'


def test_they_tell_what_they_take() -> None:
    linear = nn.Linear(4096, 11008, bias=False, device='meta')
    assert q.DynamicInt8Linear(linear).weight_bytes == 11008 * 4096 + 4 * 11008
    groups = 4096 // 128
    assert q.WholeInt4Linear(linear).weight_bytes == 11008 * (4096 // 2 + 2 * groups + 4)
    assert q.DynamicInt4Linear(linear).weight_bytes == 11008 * (4096 // 2 + 2 * groups + 8)
    assert q.CPUInt4Linear(linear).weight_bytes == 11008 * 4096 // 2 + 4 * 11008 * 32


@cache
def policy(name: str, quantization: str) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(
        GOLDEN / name, device='cpu', dtype='float32', quantization=quantization, max_batch_size=3
    )


@pytest.mark.parametrize('quantization', ['int8', 'int4'])
@pytest.mark.parametrize('key', list(CASES)[::2])
def test_a_draft_does_not_change_the_action(key: str, quantization: str) -> None:
    name, case = CASES[key]
    one = policy(name, quantization)
    arguments = picture(case), case['instruction'], case['unnorm_key']
    plain = one.predict_action(*arguments)
    for kind in ('right', 'first wrong', 'two wrong', 'short'):
        draft = DRAFTS[kind](plain.tokens.ids)
        with_draft = one.predict_action(*arguments, draft=draft)
        assert with_draft.tokens.ids.tolist() == plain.tokens.ids.tolist()


def test_int8_stays_near_the_reference() -> None:
    """With random weights, which amplify every rounding; bfloat16 has 111 of 129."""
    equal = total = 0
    for name, case in CASES.values():
        ours = policy(name, 'int8').predict_action(
            picture(case), case['instruction'], case['unnorm_key'], return_logits=True
        )
        theirs = np.array(case['new_tokens'])
        shared = min(len(theirs), len(ours.tokens.ids))
        equal += int((ours.tokens.ids[:shared] == theirs[:shared]).sum())
        total += len(theirs)
    print(f'{equal} of {total} token ids are those of the reference')
    assert equal > total / 2


@pytest.mark.parametrize('quantization', ['int8', 'int4'])
def test_it_passes_the_self_checks(quantization: str, tiny_checkpoint: Path) -> None:
    one = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', quantization=quantization)
    one.warmup()
    assert one.info.quantization == quantization


def mapped_kilobytes(folder: Path) -> int:
    """Of the files in it, as much as counts as this process's memory."""
    total, counts = 0, False
    for line in Path('/proc/self/smaps').read_text().splitlines():
        if '-' in line.split(' ')[0]:
            counts = str(folder) in line
        elif counts and line.startswith('Rss:'):
            total += int(line.split()[1])
    return total


def test_released_pages_do_not_count_as_memory(tiny_checkpoint: Path) -> None:
    stored = sum(path.stat().st_size for path in tiny_checkpoint.glob('*.safetensors')) / 1024
    gc.collect()  # policies of other tests, which would leave the file in between
    before = mapped_kilobytes(tiny_checkpoint)
    checkpoint = Checkpoint(tiny_checkpoint)
    most = 0
    for number, (_, tensor) in enumerate(checkpoint.tensors(set(checkpoint.shapes))):
        release_pages(tensor)
        if number % 8 == 0:  # what is not released adds up; the kernel counts slowly
            most = max(most, mapped_kilobytes(tiny_checkpoint) - before)
    assert 0 < most < 0.2 * stored


@pytest.mark.parametrize('copied_bytes', [64 << 20, 100_000])
def test_small_tensors_leave_the_mapped_file(
    copied_bytes: int, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding and logits have 4 MB each; beyond the limit they stay, but not as memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    actions = []
    for limit in (copied_bytes, 0):
        monkeypatch.setattr(loading, '_COPIED_BYTES', limit)
        gc.collect()  # policies of other tests, which would leave the file in between
        before = mapped_kilobytes(tiny_checkpoint)
        policy = OpenVLAPolicy.from_pretrained(
            tiny_checkpoint, device='cpu', dtype='bfloat16', quantization='int8'
        )
        if limit:
            resident = mapped_kilobytes(tiny_checkpoint) - before
            assert resident == 0 if copied_bytes > 1_000_000 else 0 <= resident < 1000
        actions.append(policy.predict_action(pixels, 'pick up the cup').action)
    np.testing.assert_array_equal(*actions)


def test_released_pages_come_back_when_read(tiny_checkpoint: Path) -> None:
    names = {'language_model.model.embed_tokens.weight'}
    ((name, tensor),) = Checkpoint(tiny_checkpoint).tensors(names)
    before = tensor.clone()
    release_pages(tensor)
    assert torch.equal(tensor, before), name


@pytest.mark.parametrize('kind', CLASSES)
def test_a_layer_asks_for_huge_pages_for_its_weight(
    kind: type[q.QuantizedLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[tuple[int, int, int]] = []

    def madvise(address: c_void_p, size: c_size_t, advice: int) -> None:
        advised.append((address.value or 0, size.value, advice))

    monkeypatch.setattr(pages, '_LIBC', SimpleNamespace(madvise=madvise))
    packed = layer(kind, torch.float32).packed
    start = torch.ops.mkldnn.data_ptr(packed) if packed.is_mkldnn else packed.data_ptr()
    ((first, size, advice),) = [one for one in advised if start <= one[0] < start + mmap.PAGESIZE]
    assert advice == 25
    assert first % mmap.PAGESIZE == size % mmap.PAGESIZE == 0
    assert size >= INPUTS * OUTPUTS // 2 - mmap.PAGESIZE
    assert first + size <= start + (INPUTS + 16) * OUTPUTS  # with oneDNN's sums of rows


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (
            ('int3', CPU, torch.float32),
            "'int3' is unknown; expected one of none, int8, int4",
        ),
        (('int4', torch.device('cuda:0'), torch.float16), 'int4 on cuda:0 needs products of int8'),
        (('int4', torch.device('cuda:0'), torch.bfloat16), 'these are bfloat16 and 7.5; take int8'),
        (('int8', CPU, torch.float32, True), 'int8 on the cpu does not go with compile'),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[object, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    with pytest.raises(PlacementError, match=words):
        check_quantization(*arguments)


def test_what_goes_together_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    allowed = check_quantization
    allowed('none', CPU, torch.float32, True)
    allowed('int4', CPU, torch.float32)
    allowed('int4', torch.device('cuda:0'), torch.bfloat16, True)
    allowed('int4', torch.device('mps'), torch.float16)
