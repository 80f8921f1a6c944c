# SPDX-License-Identifier: Apache-2.0
"""The memory of tensors: what is freed is used again, without asking the system for it."""

import json
import subprocess
import sys

FAULTS = """
import json, resource
import torch
from vla_ros.openvla.pages import _LIBC, keep_freed

def faults():
    def inference():  # of four tensors of 16 MB
        return [torch.zeros(4 << 20).add_(1) for _ in range(4)]
    inference()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        inference()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed()
print(json.dumps([before, faults(), hasattr(_LIBC, 'mallopt')]))
"""


def test_freed_memory_is_used_again_without_page_faults() -> None:
    result = subprocess.run(
        [sys.executable, '-c', FAULTS], capture_output=True, text=True, check=True
    )
    before, after, has_mallopt = json.loads(result.stdout)
    assert before > 100
    if has_mallopt:  # another C library has its own rules, and nothing fails
        assert after < before / 10
