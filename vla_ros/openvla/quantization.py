# SPDX-License-Identifier: Apache-2.0
"""Linear layers with weights of 8 or 4 bits, multiplied by torch's own kernels.

``int8``: the linear layers of language model, vision towers and projector, and of the blocks of
VLA-Adapter's head. ``int4``: those of the language model in 4 bits, the others in 8. Embedding,
logits, the state's projector, norms and patch convolutions keep the dtype: together they are small,
and the logits decide between neighbouring bins.

int8 is symmetric with a scale per output row; int4 has a scale and a zero for each group of inputs
of a row (:mod:`.rounding`). Runs in the policy's thread. Independent of checkpoints.
"""

from __future__ import annotations

import abc
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.openvla.pages import use_huge_pages
from vla_ros.openvla.products import (
    BLOCK,
    WritableWeight,
    int8_sums,
    is_writable,
    scaled_product,
    sums_are_exact,
    sums_fit,
    to_blocks,
)
from vla_ros.openvla.rounding import (
    ROWS_AT_ONCE,
    StepsUnpacker,
    pack_halves,
    quantize_groups,
    quantize_inputs,
    quantize_rows,
    quantize_steps,
)

if TYPE_CHECKING:
    from vla_ros.openvla.model import OpenVLAModel

_GROUPS = (128, 64, 32)  # inputs with a common scale in int4; the first that fits
_FEW_ROWS = 16  # up to this number kernels that unpack in registers are faster
_KERNEL_INPUTS = 32  # torch's int8 kernel for AVX2 reads beyond rows that are not a multiple of it
_thread = threading.local()  # the weights into which each thread unpacks


class QuantizedLinear(nn.Module, abc.ABC):
    """Replaces an ``nn.Linear`` on the meta device; :meth:`quantize` gives it its weight."""

    packed: Tensor  # the weight, in the kernel's order

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias: Tensor | None = linear.bias

    @property
    @abc.abstractmethod
    def weight_bytes(self) -> int:
        """Bytes of the quantised weight, scales included."""

    @abc.abstractmethod
    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        """Quantise and keep the weight.

        :param weight: [out_features, in_features], in any floating-point dtype, on the CPU.
        :param device: where the layer runs.
        :param dtype: of the layer's input.
        """

    @abc.abstractmethod
    def _product(self, rows: Tensor) -> Tensor:
        """Return the product of [M, in_features], with the bias: [M, out_features] in the dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of [..., in_features]: [..., out_features]."""
        product = self._product(x.reshape(-1, self.in_features))
        return product.view(*x.shape[:-1], self.out_features)

    def _with_bias(self, product: Tensor) -> Tensor:
        return product if self.bias is None else product + self.bias

    def _keep(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            if tensor.device.type == 'cpu':
                use_huge_pages(tensor)
            self.register_buffer(name, tensor, persistent=False)


class _Int8Linear(QuantizedLinear):
    scales: Tensor  # [out_features]

    @property
    def weight_bytes(self) -> int:
        return self.out_features * (self.in_features + 4)


class _Int4Linear(QuantizedLinear):
    scales_and_zeros: Tensor  # [in_features / group, out_features, 2]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.group = _group(linear)

    @property
    def weight_bytes(self) -> int:
        return self.out_features * (self.in_features // 2 + 4 * self.in_features // self.group)


class _RoundingLinear(QuantizedLinear):
    """Rounds its inputs to 8 bits, each row with its own scale.

    Sums are of whole numbers: a row's product does not depend on the number of rows.
    """

    def _product(self, rows: Tensor) -> Tensor:
        return self.rounded_product(*quantize_inputs(rows))

    @abc.abstractmethod
    def rounded_product(self, inputs: Tensor, input_scales: Tensor) -> Tensor:
        """Return the product with the bias, [M, out_features] in the dtype of ``input_scales``.

        :param inputs: uint8 [M, in_features], of :func:`.quantize_inputs`; not written to.
        :param input_scales: [M, 1], of the same.
        """


class DynamicInt8Linear(_Int8Linear, _RoundingLinear):
    """int8 for x86 with VNNI, by oneDNN."""

    zeros: Tensor  # int32 [out_features]

    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        quantized, scales = quantize_rows(weight)
        self._keep(
            packed=torch.ops.onednn.qlinear_prepack(quantized, None),
            scales=scales,
            zeros=torch.zeros(self.out_features, dtype=torch.int32),
        )

    def rounded_product(self, inputs: Tensor, input_scales: Tensor) -> Tensor:
        dtype = input_scales.dtype
        product = scaled_product(inputs, self.packed, self.scales, self.zeros, dtype)
        if self.bias is None:
            return product.mul_(input_scales)
        return torch.addcmul(self.bias, product, input_scales)


class WholeInt8Linear(_Int8Linear, _RoundingLinear):
    """int8 for CUDA: the arithmetic of :class:`DynamicInt8Linear`, by :func:`.int8_sums`."""

    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        quantized, scales = quantize_rows(weight)
        self._keep(packed=quantized.to(device), scales=scales.to(device))

    def rounded_product(self, inputs: Tensor, input_scales: Tensor) -> Tensor:
        sums = int8_sums(_signed(inputs), self.packed).float()
        scaled = sums.mul_(input_scales.float()).mul_(self.scales)
        return self._with_bias(scaled.to(input_scales.dtype))


class Int8Linear(_Int8Linear):
    """Weight-only int8 for MPS and CPUs without VNNI. Inputs keep their dtype."""

    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        quantized, scales = quantize_rows(weight)
        self._keep(packed=quantized.to(device), scales=scales.to(device=device, dtype=dtype))

    def _product(self, rows: Tensor) -> Tensor:
        if len(rows) <= _FEW_ROWS and self.in_features % _KERNEL_INPUTS == 0:
            return self._with_bias(torch._weight_int8pack_mm(rows, self.packed, self.scales))
        # Scaled before the product, because unscaled products overflow float16.
        weight = self.packed.to(rows.dtype) * self.scales[:, None]
        return F.linear(rows, weight, self.bias)


class Int4Linear(_Int4Linear):
    """int4 for MPS, and for a CUDA without products of whole numbers."""

    _INNER_K_TILES = 8  # of the kernel's layout; the maximum

    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        quantized, scales_and_zeros = quantize_groups(weight, self.group, dtype)
        pairs = quantized[:, ::2] << 4 | quantized[:, 1::2]
        packed = torch._convert_weight_to_int4pack(pairs.to(device), self._INNER_K_TILES)
        self._keep(packed=packed, scales_and_zeros=scales_and_zeros.to(device))

    def _product(self, rows: Tensor) -> Tensor:
        return self._with_bias(
            torch._weight_int4pack_mm(rows, self.packed, self.group, self.scales_and_zeros)
        )


class _StepsInt4Linear(_RoundingLinear):
    """int4 that is unpacked to 8 bits, a part of the weight at a time.

    A group's scale and zero are whole multiples of its row's scale, so unpacking needs no other
    numbers than bytes.
    """

    scales: Tensor  # float32 [out_features]
    steps: Tensor  # int8, see StepsUnpacker
    offsets: Tensor  # uint8, of the same shape

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.group = _group(linear)

    @property
    def weight_bytes(self) -> int:
        groups = self.in_features // self.group
        return self.out_features * (self.in_features // 2 + 2 * groups + 4)

    def _parts(self, at_once: int) -> Iterator[slice]:
        """Return slices of the outputs, of at most that many."""
        for first in range(0, self.out_features, at_once):
            yield slice(first, min(first + at_once, self.out_features))


class _Part(NamedTuple):
    """Views of what belongs to some outputs of a :class:`DynamicInt4Linear`."""

    outputs: slice
    packed: Tensor
    steps: Tensor
    offsets: Tensor


class DynamicInt4Linear(_StepsInt4Linear):
    """int4 for x86 with VNNI: unpacked into the memory of a weight of oneDNN's product.

    ``steps`` and ``offsets`` are [out_features / 64, groups, 1, 64].
    """

    negative_sums: Tensor  # int32 [out_features], of the unpacked weight

    # Unpacked at a time by each thread. Of few rows the product takes little time, and it should
    # find the weight in the CPU's caches; for many rows threads should wait for each other seldom.
    _FEW_ROWS_BYTES, _MANY_ROWS_BYTES = 6 << 20, 24 << 20

    @classmethod
    def fits(cls, linear: nn.Linear) -> bool:
        """Return whether the shape fits, and this CPU's oneDNN can be written to."""
        outputs, inputs = linear.out_features, linear.in_features
        if outputs % BLOCK or inputs % _GROUPS[-1]:
            return False
        sizes = set()
        for most in (cls._FEW_ROWS_BYTES, cls._MANY_ROWS_BYTES):
            at_once = cls._at_once(outputs, inputs, most)
            sizes |= {at_once, outputs % at_once} - {0}
        return all(is_writable(size, inputs) for size in sizes)

    @staticmethod
    def _at_once(outputs: int, inputs: int, most: int) -> int:
        """Return the number of outputs of a part, so that parts are of about the same size.

        Threads wait for each other about ten times a part, which is long where the machine has
        other work. So more threads have larger parts.

        :param most: bytes that each thread unpacks.
        """
        parts = -(-outputs * inputs // (most * torch.get_num_threads()))
        return -(-outputs // parts // BLOCK) * BLOCK

    @property
    def weight_bytes(self) -> int:
        return super().weight_bytes + 4 * self.out_features

    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        values, steps, offsets, scales = quantize_steps(weight, self.group)
        sums = values.unflatten(1, (-1, self.group)).sum(dim=2, dtype=torch.int32)  # [N, groups]
        sums = (sums * steps).add_(offsets, alpha=self.group)
        self._keep(
            packed=pack_halves(to_blocks(values)),
            steps=_by_blocks(steps),
            offsets=_by_blocks(_larger(offsets)),
            scales=scales,
            negative_sums=-sums.sum(dim=1, dtype=torch.int32),
        )
        self._few_rows = self._views(self._FEW_ROWS_BYTES)
        self._many_rows = self._views(self._MANY_ROWS_BYTES)

    def _views(self, most: int) -> list[_Part]:
        parts = list(self._parts(self._at_once(self.out_features, self.in_features, most)))
        blocks = [slice(part.start // BLOCK, part.stop // BLOCK) for part in parts]
        return [
            _Part(outputs, self.packed[some], self.steps[some], self.offsets[some])
            for outputs, some in zip(parts, blocks, strict=True)
        ]

    def rounded_product(self, inputs: Tensor, input_scales: Tensor) -> Tensor:
        product = input_scales.new_empty(len(inputs), self.out_features)
        for part in self._few_rows if len(inputs) <= _FEW_ROWS else self._many_rows:
            outputs = part.outputs
            weight, unpacker = _unpacked(self.in_features, part.steps.shape)
            unpacker.unpack(part.packed, part.steps, part.offsets)
            weight.negative_sums.copy_(self.negative_sums[outputs])
            scaled = weight.product(inputs, self.scales[outputs], input_scales.dtype)
            torch.mul(scaled, input_scales, out=product[:, outputs])
        return self._with_bias(product)


def _by_blocks(numbers: Tensor) -> Tensor:
    """Return numbers of rows and groups by blocks of rows, [N / 64, G, 1, 64] of [N, G]."""
    return numbers.unflatten(0, (-1, BLOCK)).mT.unsqueeze(2).contiguous()


def _larger(offsets: Tensor) -> Tensor:
    """Return offsets as uint8, larger by 128."""
    return (offsets.to(torch.int16) + 128).to(torch.uint8)


def _unpacked(inputs: int, shape: torch.Size) -> tuple[WritableWeight, StepsUnpacker]:
    """Return the weight that this thread uses again and again for a shape, and its unpacker.

    :param shape: of the steps, [out_features / 64, groups, 1, 64].
    """
    kept = _thread.__dict__.setdefault('unpacked', {})
    if (inputs, shape) not in kept:
        with torch.inference_mode(False):  # so that they can be written to in any mode
            weight = WritableWeight(shape[0] * BLOCK, inputs)
            kept[inputs, shape] = weight, StepsUnpacker(weight.blocks, shape)
    return kept[inputs, shape]


class WholeInt4Linear(_StepsInt4Linear):
    """int4 for CUDA, and for a CPU with VNNI whose oneDNN is another: by :func:`.int8_sums`.

    ``steps`` and ``offsets`` are [out_features, groups, 1, 1].
    """

    _UNPACKED_BYTES = 4_000_000  # at a time on a CPU; a GPU unpacks the whole weight

    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        values, steps, offsets, scales = quantize_steps(weight, self.group)
        self._keep(
            packed=pack_halves(values).to(device),
            steps=steps[:, :, None, None].to(device),
            offsets=_larger(offsets)[:, :, None, None].to(device),
            scales=scales.to(device),
        )

    def rounded_product(self, inputs: Tensor, input_scales: Tensor) -> Tensor:
        inputs, wide_scales = _signed(inputs), input_scales.float()
        at_once, on_cpu = self.out_features, inputs.device.type == 'cpu'
        if on_cpu:
            at_once = min(max(self._UNPACKED_BYTES // self.in_features, 16), at_once)
        scratch = self.packed.new_empty(at_once, self.in_features)
        product = input_scales.new_empty(len(inputs), self.out_features)
        for part in self._parts(at_once):
            steps = self.steps[part]
            unpacker = StepsUnpacker(scratch[: len(steps)], steps.shape, by_fours=not on_cpu)
            weight = unpacker.unpack(self.packed[part], steps, self.offsets[part])
            sums = int8_sums(inputs, weight).float()
            product[:, part] = sums.mul_(wide_scales).mul_(self.scales[part])
        return self._with_bias(product)


def _signed(inputs: Tensor) -> Tensor:
    """Return inputs as int8 [M, K], smaller by 128 than uint8 [M, K]."""
    return inputs.bitwise_xor(128).view(torch.int8)


class CPUInt4Linear(_Int4Linear):
    """int4 for CPUs without VNNI.

    Its kernel is fast for few rows only. Many rows are multiplied in the dtype, with a few unpacked
    columns at a time.
    """

    _BLOCK = 64  # output columns of one block of the kernel's layout for AVX512
    _BLOCKS_AT_ONCE = 8  # unpacked together, so that they fit the CPU's cache

    def quantize(self, weight: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        quantized, scales_and_zeros = quantize_groups(weight, self.group, dtype)
        packed = torch.cat(
            [
                torch.ops.aten._convert_weight_to_int4pack_for_cpu(rows.to(torch.int32), 1)
                for rows in quantized.split(ROWS_AT_ONCE)
            ]
        )
        self._keep(packed=packed, scales_and_zeros=scales_and_zeros)

    def _product(self, rows: Tensor) -> Tensor:
        if len(rows) <= _FEW_ROWS or not _unpacks() or self.out_features % self._BLOCK:
            return self._with_bias(
                torch.ops.aten._weight_int4pack_mm_for_cpu(
                    rows, self.packed, self.group, self.scales_and_zeros
                )
            )
        blocks = self.packed.view(-1, self.in_features, self._BLOCK // 2)
        product = rows.new_empty(len(rows), self.out_features)
        for first in range(0, len(blocks), self._BLOCKS_AT_ONCE):
            chunk = slice(first, first + self._BLOCKS_AT_ONCE)
            columns = slice(self._BLOCK * chunk.start, self._BLOCK * chunk.stop)
            product[:, columns] = rows @ self._unpacked(blocks[chunk], columns)
        return self._with_bias(product)

    def _unpacked(self, blocks: Tensor, columns: slice) -> Tensor:
        """Return the columns of the transposed weight, [in_features, columns].

        :param blocks: uint8 [N, in_features, 32], their part of ``packed``: each byte has a
            column's value in its low half, and that of the column 32 places later in its high half.
        """
        half = self._BLOCK // 2
        scales, zeros = (
            x.unflatten(1, (-1, self._BLOCK)).transpose(0, 1)[:, :, None].contiguous()
            for x in self.scales_and_zeros[:, columns].unbind(2)
        )  # [N, groups, 1, 64] each
        weight = scales.new_empty(len(blocks), self.in_features, self._BLOCK)
        weight[..., :half] = blocks & 15
        weight[..., half:] = blocks >> 4
        groups = weight.unflatten(1, (-1, self.group))  # [N, groups, group, 64]
        torch.addcmul(zeros - 8 * scales, groups, scales, out=groups)
        return weight.transpose(0, 1).flatten(1)


def project(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """Return the products of one input with several linear layers.

    The input is rounded once where the layers round it: of a layer of openvla-7b's prefill, four
    times in place of seven.

    :param x: [..., in_features], of each of the layers.
    :returns: [..., out_features] for each.
    """
    rounding = [layer for layer in layers if isinstance(layer, _RoundingLinear)]
    if len(rounding) < len(layers):
        return [layer(x) for layer in layers]
    rounded = quantize_inputs(x.reshape(-1, x.shape[-1]))
    return [layer.rounded_product(*rounded).view(*x.shape[:-1], -1) for layer in rounding]


def replace_linears(
    model: OpenVLAModel, quantization: str, device: torch.device
) -> dict[str, QuantizedLinear]:
    """Replace the model's large linear layers by quantised ones without weights.

    :param model: on the meta device.
    :param quantization: ``none``, ``int8`` or ``int4``.
    :param device: where the layers will run.
    :returns: name in the model -> the new layer, to be filled.
    """
    if quantization == 'none':
        return {}
    in_8_bits = model.vision_linears() | model.head_linears()
    replaced = {name: choose_linear('int8', device, linear) for name, linear in in_8_bits.items()}
    replaced |= {
        name: choose_linear(quantization, device, linear)
        for name, linear in model.language_linears().items()
    }
    for name, layer in replaced.items():
        model.set_submodule(name, layer)
    return replaced


def choose_linear(quantization: str, device: torch.device, linear: nn.Linear) -> QuantizedLinear:
    """Return a layer that replaces ``linear``, to be filled; int8 where no int4 kernel fits."""
    on_cpu = device.type == 'cpu'
    whole = _has_vnni() if on_cpu else sums_are_exact(device)
    if quantization == 'int4' and _fits_int4(linear, on_cpu):
        if not whole:
            return CPUInt4Linear(linear) if on_cpu else Int4Linear(linear)
        if on_cpu and DynamicInt4Linear.fits(linear):
            return DynamicInt4Linear(linear)
        return WholeInt4Linear(linear)
    if not whole or not sums_fit(linear.out_features, linear.in_features, device):
        return Int8Linear(linear)
    return DynamicInt8Linear(linear) if on_cpu else WholeInt8Linear(linear)


def _has_vnni() -> bool:
    """Return whether this CPU has VNNI.

    Without it oneDNN adds pairs of products of u8 and s8 in 16 bits, which overflow (its
    documentation, "Nuances of int8 computations").
    """
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get('avx512_vnni') or capabilities.get('avx_vnni'))


def _fits_int4(linear: nn.Linear, on_cpu: bool) -> bool:
    """Return whether the int4 kernels support the shape."""
    if on_cpu:
        return linear.in_features % _GROUPS[-1] == 0 and linear.out_features % 16 == 0
    return linear.in_features % 128 == 0 and linear.out_features % 8 == 0


def _group(linear: nn.Linear) -> int:
    return next(group for group in _GROUPS if linear.in_features % group == 0)


@functools.cache
def _unpacks() -> bool:
    """Return whether this CPU's layout of int4 is the one that CPUInt4Linear can unpack."""
    half, inputs = CPUInt4Linear._BLOCK // 2, 128
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(16, (2 * half, inputs), dtype=torch.int32, generator=generator)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1).view(inputs, half)
    unpacked = torch.cat([packed & 15, packed >> 4], dim=1)
    return torch.equal(unpacked, values.T.to(torch.uint8))
