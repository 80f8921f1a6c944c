# SPDX-License-Identifier: Apache-2.0
"""Run ROS 2's linters, and print what they find.

`make lint` runs this, and so does `colcon test`. What else ament_lint_common would run: ruff checks
the form (pyproject.toml); a test looks for the license in every file, since ament_copyright wants
the whole text of the notice where we name it by SPDX; there is no C or C++. So ament_lint_auto, for
which there is no wheel, is not used. Standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ('launch', 'setup.py', 'tools', 'training', 'vla_ros')

# .flake8 has the exceptions from ament_flake8. Those from ament_pep257, which also says nothing
# about tests, as in .flake8:
#   D213: we begin a docstring of several lines in its first line, as PEP 257 allows (D212).
#   D401: it wants a command in the docstring of a property, which is a noun; ruff's D401 does not.
COMMANDS = (
    ('ament_flake8', '--config', '.flake8', *SOURCES, 'test'),
    ('ament_pep257', '--add-ignore', 'D213', 'D401', '--', *SOURCES),
    ('ament_xmllint', 'package.xml', 'config/sros2_policy.xml'),
)
# There is no wheel of it. A test has catkin_pkg check package.xml.
OPTIONAL = {'ament_xmllint'}


def main() -> int:
    """Return 0 if every linter is content."""
    search = f'{Path(sys.executable).parent}:'
    failed = False
    for name, *arguments in COMMANDS:
        command = shutil.which(name, path=search) or shutil.which(name)
        if command is None:
            print(f'{name}: not found; it is in ROS 2: sudo apt install ros-$ROS_DISTRO-ament-lint')
            failed |= name not in OPTIONAL
            continue
        done = subprocess.run([command, *arguments], cwd=ROOT, capture_output=True, text=True)
        failed |= done.returncode != 0
        print(f'{name}: {"no problems" if done.returncode == 0 else problems(done)}')
    return int(failed)


def problems(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a linter printed without its list of files."""
    lines = (done.stdout + done.stderr).splitlines()
    return '\n'.join(line for line in lines if not line.startswith(('* ', 'checking ')))


if __name__ == '__main__':
    sys.exit(main())
