# SPDX-License-Identifier: Apache-2.0
"""vla_bench on a GPU: every section of its survey is measured, and the plain path agrees."""

from __future__ import annotations

import json

import pytest
import torch

from vla_ros.cli import bench


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_every_section_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(['--device', 'cuda', '--tiny', '--minutes', '9']) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    exact = {one['dtype']: one for one in report['golden']}['float32']
    assert exact['equal_actions'] == exact['actions'] and exact['logit_difference'] < 1e-4
    for section in report['sections']:
        assert section['said'] == '', section['options']
        for one in section['combinations']:
            assert one['valid_actions'] == one['repeats'] * one['batch_size']
            assert one['limits']['whole_s'] > 0 and one['ceilings']['launch_us'] > 0
