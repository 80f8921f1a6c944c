# SPDX-License-Identifier: Apache-2.0
"""The memory of tensors, as the system has it: pages that are released or kept, and huge ones.

Where a system has no such call, nothing happens. Runs in the thread that builds the policy.
"""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_LIBC = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 256 << 20  # several times what the outputs of a layer need
_MAPPED_BYTES = 32 << 20  # from this size on memory is returned when it is freed
_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1; Python's mmap has no name for it


def release_pages(tensor: Tensor) -> None:
    """Release the memory of a mapped tensor that is not used any more.

    Otherwise its pages count as this process's until the file is closed.
    """
    if hasattr(mmap, 'MADV_DONTNEED'):
        _advise(tensor.data_ptr(), tensor.nbytes, mmap.MADV_DONTNEED)


def release_freed() -> None:
    """Make the C library return freed memory to the system; glibc keeps holes of megabytes."""
    if hasattr(_LIBC, 'malloc_trim'):
        _LIBC.malloc_trim(0)


def keep_freed() -> None:
    """Make the C library keep freed memory for later tensors, in the whole process.

    glibc otherwise returns much of it, and the next tensor gets its pages from the system again: an
    int8 action of openvla-7b in a program's main thread then had 345,000 page faults, a twelfth of
    its time.
    """
    if hasattr(_LIBC, 'mallopt'):
        _LIBC.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        _LIBC.mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)


def use_huge_pages(tensor: Tensor) -> None:
    """Move a tensor on the CPU into pages of two megabytes, as far as it fills them.

    A product reads each page of a weight once, and the CPU then looks up fewer addresses: in int8
    a single row takes a quarter less time. Values and addresses stay. Linux before 6.1 rejects it.
    """
    if not hasattr(mmap, 'MADV_HUGEPAGE'):  # not Linux, where the number may mean something else
        return
    if tensor.is_mkldnn:
        address, size = torch.ops.mkldnn.data_ptr(tensor), torch.ops.mkldnn._nbytes(tensor)
    else:
        address, size = tensor.data_ptr(), tensor.nbytes
    _advise(address, size, _COLLAPSE)


def _advise(address: int, size: int, advice: int) -> None:
    """Give advice about the whole pages of some memory."""
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        _LIBC.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), advice)
