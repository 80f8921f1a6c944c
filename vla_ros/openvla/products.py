# SPDX-License-Identifier: Apache-2.0
"""Products of whole numbers of 8 bits, by torch and by oneDNN.

A sum of whole numbers has no rounding, so it does not depend on the order of its terms, nor on the
number of rows. Runs in the policy's thread. Independent of layers and models.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from vla_ros.openvla.pages import use_huge_pages
from vla_ros.openvla.rounding import INPUT_ZERO

BLOCK = 64  # outputs that lie together in oneDNN's order of a weight
_FOUR = 4  # inputs that lie together there

_CUDA_ROWS = 32  # cuBLAS multiplies more than 16 rows
_ROWS_STEP = 16  # oneDNN's product is fastest for one row, and for a multiple of it
_CUDA_MULTIPLE = 8  # of inputs and outputs


def int8_sums(inputs: Tensor, weight: Tensor) -> Tensor:
    """Return the product ``inputs @ weight.T``, int32 [M, N].

    :param inputs: int8 [M, K].
    :param weight: int8 [N, K], on the same device.
    """
    count, width = inputs.shape
    padded = count if count == 1 else -(-count // _ROWS_STEP) * _ROWS_STEP
    on_cuda = weight.device.type == 'cuda'
    if on_cuda:
        padded = max(padded, _CUDA_ROWS)
    if padded != count:
        inputs = torch.cat([inputs, inputs.new_zeros(padded - count, width)])
    if on_cuda:
        return torch._int_mm(inputs, weight.T)[:count]
    return torch._int_mm(weight, inputs.T)[:, :count].T  # few rows: three times as fast


def sums_fit(outputs: int, inputs: int, device: torch.device) -> bool:
    """Return whether :func:`int8_sums` takes the shape of a weight there."""
    if device.type == 'cpu':
        return True
    return inputs % _CUDA_MULTIPLE == 0 and outputs % _CUDA_MULTIPLE == 0


@functools.cache
def sums_are_exact(device: torch.device) -> bool:
    """Return whether :func:`int8_sums` works on the device; False where torch has no such product.

    The largest numbers are among those that it tries, and numbers of rows that are padded.
    """
    inputs, weight = _random_bytes(40, 256, seed=0), _random_bytes(64, 256, seed=1)
    inputs[7], weight[5] = 127, 127
    expected = (inputs.double() @ weight.double().T).to(torch.int32)
    try:
        weight = weight.to(device)
        sums = [int8_sums(inputs[:count].to(device), weight).cpu() for count in (1, 6, 40)]
    except (RuntimeError, AssertionError):  # NotImplementedError, no driver, no such hardware
        return False
    return all(torch.equal(one, expected[: len(one)]) for one in sums)


def to_blocks(weight: Tensor) -> Tensor:
    """Return a weight in oneDNN's order, [N / 64, 64 * K] of [N, K].

    A block has 64 rows: the first four values of each row, then the next four of each, up to K.
    """
    rows = weight.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, _FOUR))  # [N / 64, 64, K / 4, 4]
    return rows.transpose(1, 2).flatten(1)


class WritableWeight:
    """The weight of oneDNN's product of 8 bits, whose memory others fill.

    :param outputs: N, a multiple of 64.
    :param inputs: K, a multiple of 4.

    ``blocks`` is uint8 [N / 64, 64 * K], the bytes of a weight in the order of :func:`to_blocks`;
    ``negative_sums`` is int32 [N], for each row of the weight its sum with the other sign. Both
    must be written together.
    """

    blocks: Tensor
    negative_sums: Tensor

    def __init__(self, outputs: int, inputs: int) -> None:
        with torch.inference_mode(False):  # so that it can be written to in any mode
            empty = torch.zeros(outputs, inputs, dtype=torch.int8)
            self._packed = torch.ops.onednn.qlinear_prepack(empty, None)
            use_huge_pages(self._packed)
            self._zeros = torch.zeros(outputs, dtype=torch.int32)
            size = torch.ops.mkldnn._nbytes(self._packed)
            address = torch.ops.mkldnn.data_ptr(self._packed)
            memory = torch.frombuffer(
                (ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8
            )
            weight, rest = memory.tensor_split([outputs * inputs])
            self.blocks = weight.view(outputs // BLOCK, -1)
            self.negative_sums = rest[: 4 * outputs].view(torch.int32)

    def product(self, inputs: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sums times the scale of each output, [M, N] in the dtype.

        :param inputs: uint8 [M, K]; ``INPUT_ZERO`` means 0.
        :param scales: float32 [N].
        """
        return scaled_product(inputs, self._packed, scales, self._zeros, dtype)


def scaled_product(
    inputs: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return oneDNN's product of 8 bits times the scale of each output, [M, N] in the dtype.

    :param inputs: uint8 [M, K]; ``INPUT_ZERO`` means 0.
    :param packed: of ``qlinear_prepack``.
    :param scales: float32 [N].
    :param zeros: int32 [N], zeros.
    """
    return torch.ops.onednn.qlinear_pointwise(
        inputs,
        1.0,
        INPUT_ZERO,
        packed,
        scales,
        zeros,
        None,
        1.0,
        0,
        dtype,
        'none',
        [],
        '',
    )


@functools.cache
def is_writable(outputs: int, inputs: int) -> bool:
    """Return whether oneDNN keeps a weight of that shape in the order of :func:`to_blocks`.

    oneDNN promises no order, so a weight is written, and its products are compared.
    """
    if outputs % BLOCK or inputs % _FOUR:
        return False
    weight, scales = _random_bytes(outputs, inputs, seed=0), torch.ones(outputs)
    try:
        ours = WritableWeight(outputs, inputs)
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        if torch.ops.mkldnn._nbytes(packed) < outputs * (inputs + 4):
            return False
        ours.blocks.view(torch.int8)[:] = to_blocks(weight)
        ours.negative_sums[:] = -weight.sum(dim=1)
        for count in (1, 6, 40):
            few = _random_bytes(count, inputs, seed=count)
            shifted = (few.to(torch.int16) + INPUT_ZERO).to(torch.uint8)
            sums = ours.product(shifted, scales, torch.float32)
            if not torch.equal(sums, int8_sums(few, weight).float()):
                return False
    except (AttributeError, RuntimeError):  # another torch, or one without oneDNN
        return False
    return True


def _random_bytes(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)
