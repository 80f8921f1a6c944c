# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/python.md print what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support.places import ROOT

PROGRAM = '\n'.join(re.findall(r'```python\n(.*?)```', (ROOT / 'docs/python.md').read_text(), re.S))


def test_the_programs_run_without_ros(tmp_path: Path) -> None:
    (tmp_path / 'models').symlink_to(ROOT / 'models')
    shutil.copy(ROOT / 'test/golden/images/mixed_case.png', tmp_path / 'photo.jpg')
    hidden = "import sys; sys.modules['rclpy'] = None\n"
    ran = subprocess.run(
        [sys.executable, '-c', hidden + PROGRAM],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout.splitlines()
    assert re.fullmatch(r'first [0-9.]+ s, then [0-9.]+ s', printed[0])
    assert printed[-4:-1] == ['(1, 7)'] * 3
    assert printed[-1] == "('image',) 8 8 7"
