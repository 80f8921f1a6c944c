# SPDX-License-Identifier: Apache-2.0
"""Weights and inputs, rounded to 8 or 4 bits.

Weights are rounded to the nearest value; no data is needed. Pure functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Whole numbers of the size of each float.
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
INPUT_ZERO = 128  # in inputs means 0: oneDNN multiplies unsigned inputs by signed weights
ROWS_AT_ONCE = 128  # quantised together: few enough for the CPU's caches


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to int8, with a scale for each row.

    :param weight: [N, K].
    :returns: int8 [N, K] and float32 [N]; their product approximates the weight.
    """
    quantized = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), dtype=torch.float32)
    for first in range(0, len(weight), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        wide = weight[rows].float()
        scales[rows] = (wide.abs().amax(dim=1) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
        quantized[rows] = (wide / scales[rows, None]).round_()
    return quantized, scales


def quantize_groups(weight: Tensor, group: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round a weight to int4, with a scale and a zero for each group of inputs of a row.

    :param weight: [N, K].
    :param group: number of inputs of a group.
    :param dtype: of scales and zeros.
    :returns: uint8 [N, K], 0 to 15, and [K / group, N, 2], scale and zero of each group:
        (value - 8) * scale + zero approximates the weight.
    """
    rows, inputs = weight.shape
    quantized = torch.empty(rows, inputs, dtype=torch.uint8)
    scales_and_zeros = torch.empty(inputs // group, rows, 2, dtype=dtype)
    for first in range(0, rows, ROWS_AT_ONCE):
        chunk = slice(first, first + ROWS_AT_ONCE)
        groups = weight[chunk].float().unflatten(1, (-1, group))
        low, high = groups.aminmax(dim=2, keepdim=True)
        # Scales are rounded to the dtype first, because the product will use the rounded ones.
        scales = ((high - low) / 15).clamp_(min=torch.finfo(dtype).tiny).to(dtype)
        zeros = (low + 8 * scales.float()).to(dtype)
        values = (groups - zeros.float()).div_(scales.float()).add_(8).round_().clamp_(0, 15)
        quantized[chunk] = values.flatten(1)
        scales_and_zeros[:, chunk] = torch.cat([scales, zeros], dim=2).transpose(0, 1)
    return quantized, scales_and_zeros


def quantize_inputs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round inputs to 8 bits, with a scale for each row.

    :param rows: [M, K].
    :returns: uint8 [M, K], where ``INPUT_ZERO`` means 0, and [M, 1] in the dtype of the rows, the
        scale of each.
    """
    limits = torch.finfo(rows.dtype)
    # Without their signs floats are ordered as their bits are, whose maximum is faster.
    bits = rows.abs().view(_BITS[rows.dtype]).amax(dim=1, keepdim=True)
    largest = bits.view(rows.dtype).float()
    # Larger by one rounding, so that it is not too small after it was rounded to the dtype.
    scales = (largest * ((1 + limits.eps) / 127)).clamp(min=limits.tiny).to(rows.dtype)
    # In place, pass by pass: twice as fast as one pass with mixed dtypes.
    inputs = rows.to(torch.float32, copy=True).mul_(1 / scales.float())
    inputs.add_(INPUT_ZERO + 0.5)  # because the next line truncates
    return inputs.to(torch.int16).to(torch.uint8), scales  # from float to uint8 is slow


def quantize_steps(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Round a weight to int4 in whole steps of an int8 grid, which each row has of its own.

    A group of inputs of a row has a step and a zero, which are whole numbers: (value - 8) * step +
    zero is an int8, and times the row's scale it approximates the weight. Such two levels are known
    from QServe (Lin et al. 2024, arXiv:2405.04532). Of several steps the one with the smallest
    error is taken: a narrower one clips the ends of the range, but is finer within.

    :param weight: [N, K].
    :param group: number of inputs of a group.
    :returns: uint8 [N, K], 0 to 15; int8 [N, K / group] each: the step, and zero - 8 * step;
        float32 [N], the scales.
    """
    rows, inputs = weight.shape
    values = torch.empty(rows, inputs, dtype=torch.uint8)
    steps, offsets = (torch.empty(rows, inputs // group, dtype=torch.int8) for _ in range(2))
    scales = torch.empty(rows, dtype=torch.float32)
    for first in range(0, rows, ROWS_AT_ONCE):
        chunk = slice(first, first + ROWS_AT_ONCE)
        wide = weight[chunk].float()
        limit = torch.finfo(torch.float32).tiny
        scales[chunk] = (wide.abs().amax(dim=1) / 127).clamp_(min=limit)
        groups = (wide / scales[chunk, None]).unflatten(1, (-1, group))  # [n, G, group]
        found, step, zero = _best_steps(groups)
        values[chunk] = found.flatten(1)
        steps[chunk] = step[..., 0]
        offsets[chunk] = (zero - 8 * step)[..., 0]
    return values, steps, offsets, scales


def _best_steps(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values 0 to 15, steps and zeros of groups of an int8 grid, all float32.

    :param groups: float32 [n, G, group], -127 to 127.
    :returns: [n, G, group], [n, G, 1], [n, G, 1].
    """
    low, high = groups.aminmax(dim=2, keepdim=True)
    middle, widest = low + high, ((high - low) / 15).ceil()
    whole = _with_step(groups, middle, widest.clamp(1, 16))
    clipped = _with_step(groups, middle, (widest - 1).clamp_(1, 16))
    is_better = clipped[3] < whole[3]
    values, step, zero = (
        torch.where(is_better, new, old) for new, old in zip(clipped[:3], whole[:3], strict=True)
    )
    return values, step, zero


def _with_step(
    groups: Tensor, middle: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values, steps, zeros and the squared errors of groups, whose steps are given.

    :param middle: float32 [n, G, 1], twice the middle of each range.
    """
    zero = ((middle + step) / 2).round_()  # the middle of -8 to 7 is -0.5
    zero = torch.maximum(torch.minimum(zero, 127 - 7 * step), 8 * step - 127)
    offset = 8 - zero / step
    values = torch.addcdiv(offset, groups, step).round_().clamp_(0, 15)
    error = torch.addcmul(zero - 8 * step, values, step).sub_(groups).square_()
    return values, step, zero, error.sum(dim=2, keepdim=True)


def pack_halves(values: Tensor) -> Tensor:
    """Return values of 4 bits in half the bytes, uint8 [N, K / 2] of uint8 [N, K].

    A byte has a value of the first half of the row below, and one of the second half above.
    """
    first, second = values.chunk(2, dim=1)
    return first | second << 4


class StepsUnpacker:
    """Writes weights of 4 bits to memory as int8.

    Its views are made once: for few inputs they would take longer than the unpacking.

    :param out: uint8 [R, V], the memory: V values in each of R rows or blocks of rows.
    :param shape: of the steps, [R, G, 1, L]: G groups, whose values come in turns of four from each
        of L rows. For plain rows L is 1.
    :param by_fours: whether four bytes are multiplied as one number: faster, except on a CPU for
        plain rows.
    """

    def __init__(self, out: Tensor, shape: torch.Size, by_fours: bool = True) -> None:
        self._out = out
        self._by_fours = by_fours
        self._eights = out.view(torch.int64)
        self._fours = out.view(torch.int32).view(*shape[:2], -1, shape[3])
        self._factors, self._summands = (
            torch.empty(shape, dtype=torch.int32, device=out.device) for _ in range(2)
        )

    def unpack(self, packed: Tensor, steps: Tensor, offsets: Tensor) -> Tensor:
        """Write a weight, and return it as an int8 view of the memory.

        Bytes are larger by 128 until the end, so that none exceeds 255. Four of them, which belong
        to one group, can be multiplied and added as one number.

        :param packed: uint8 [R, V / 2], of :func:`pack_halves`.
        :param steps: int8, of :func:`quantize_steps`.
        :param offsets: uint8 of the same shape, larger by 128 than those of :func:`quantize_steps`.
        """
        _unpack_halves(packed, self._out)
        if self._by_fours:
            self._factors.copy_(steps)
            self._summands.copy_(offsets).mul_(0x01010101)
            torch.addcmul(self._summands, self._fours, self._factors, out=self._fours)
        else:
            groups = self._out.unflatten(1, (steps.shape[1], -1, steps.shape[3]))
            groups.mul_(steps.view(torch.uint8)).add_(offsets)
        self._eights.bitwise_xor_(-0x7F7F7F7F7F7F7F80)  # subtracts 128 from each byte
        return self._out.view(torch.int8)


def _unpack_halves(packed: Tensor, out: Tensor) -> None:
    """Undo :func:`pack_halves`.

    :param packed: uint8 [N, K / 2]; K is a multiple of 16.
    :param out: uint8 [N, K], is overwritten.
    """
    first, second = out.view(torch.int64).unflatten(1, (2, -1)).unbind(1)
    eights = packed.view(torch.int64)  # eight bytes at a time
    torch.bitwise_and(eights, 0x0F0F0F0F0F0F0F0F, out=first)
    torch.bitwise_right_shift(eights, 4, out=second)
    second.bitwise_and_(0x0F0F0F0F0F0F0F0F)
