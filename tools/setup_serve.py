# SPDX-License-Identifier: Apache-2.0
"""Make .venv-serve: what vla_serve needs, without ROS 2, for a machine with GPUs.

`make setup-serve` runs this. With `--for-tests` it adds Ray, rerun and the clients of the tests to
.venv. The package itself is not copied: the commands run from this folder. Standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from setup_venv import REQUIREMENTS, ROOT, WITHOUT_ROS, fingerprint, link_sources, run

SERVE = ROOT / '.venv-serve'
TESTS = ROOT / '.venv'


def main() -> None:
    os.chdir(ROOT)
    try:
        if sys.argv[1:] == ['--for-tests']:
            install(TESTS, ['serve.txt', 'rerun.txt'], ['serving_clients.txt'])
        else:
            make_venv()
            install(SERVE, ['runtime.txt', 'serve.txt'], [])
            link_sources(SERVE, ('serve', *WITHOUT_ROS))
    except subprocess.CalledProcessError as error:
        sys.exit(f'make setup-serve: this failed, see above: {" ".join(map(str, error.cmd))}')
    except KeyboardInterrupt:
        sys.exit('make setup-serve: interrupted; the next run goes on from here')


def make_venv() -> None:
    if not (SERVE / 'bin' / 'pip').exists():
        print(f'== .venv-serve: Python {platform.python_version()}, without ROS 2', flush=True)
        run([sys.executable, '-m', 'venv', SERVE])


def install(venv: Path, names: list[str], bare: list[str]) -> None:
    """Install files of requirements, and some without what these ask for, once."""
    record = venv / 'vla_ros_serve.json'
    wanted = fingerprint([REQUIREMENTS / name for name in (*names, *bare)])
    if record.exists() and json.loads(record.read_text()) == wanted:
        return
    print(f'== {venv.name}: {", ".join((*names, *bare))}', flush=True)
    pip = [venv / 'bin' / 'python', '-m', 'pip', '--disable-pip-version-check', 'install']
    for files, options in ((names, []), (bare, ['--no-deps'])):
        if files:
            asked = [f'--requirement={REQUIREMENTS / name}' for name in files]
            run([*map(str, pip), '--quiet', *options, *asked])
    record.write_text(json.dumps(wanted))


if __name__ == '__main__':
    main()
