# SPDX-License-Identifier: Apache-2.0
"""Build the documentation site into build/site, and check its spelling and links: `make docs`.

The environment .venv-docs is small: neither ROS 2 nor PyTorch. A warning of Sphinx is an error, as
is a link that leads nowhere. Nothing but the packages is fetched. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from setup_venv import REQUIREMENTS, ROOT, fingerprint, run

VENV = ROOT / '.venv-docs'
SITE = ROOT / 'build' / 'site'
SPELLED = (
    'README.md',
    'CHANGELOG.rst',
    'action',
    'config',
    'docs',
    'launch',
    'msg',
    'tools',
    'vla_ros',
)


def main() -> None:
    os.chdir(ROOT)
    try:
        install()
        check_spelling()
        build()
    except subprocess.CalledProcessError as error:
        sys.exit(f'make docs: this failed, see above: {" ".join(map(str, error.cmd))}')
    print(f'the site: {SITE / "index.html"}')


def install() -> None:
    """Make the environment, once for each content of requirements/docs.txt."""
    record = VENV / 'vla_ros_docs.json'
    wanted = fingerprint([REQUIREMENTS / 'docs.txt'])
    if record.exists() and json.loads(record.read_text()) == wanted:
        return
    print('== .venv-docs: docs.txt', flush=True)
    run([sys.executable, '-m', 'venv', VENV])
    pip = [tool('python'), '-m', 'pip', '--disable-pip-version-check', 'install', '--quiet']
    run([*pip, f'--requirement={REQUIREMENTS / "docs.txt"}'])
    record.write_text(json.dumps(wanted))


def check_spelling() -> None:
    """Look for words that are known to be misspelled; pyproject.toml has the exceptions."""
    run([tool('codespell'), *SPELLED])


def build() -> None:
    """Build all pages; each warning is printed, and any is an error."""
    strict = ['--fail-on-warning', '--keep-going', '--fresh-env', '--quiet']
    run([tool('sphinx-build'), '-b', 'html', *strict, ROOT / 'docs', SITE])


def tool(name: str) -> str:
    return str(VENV / 'bin' / name)


if __name__ == '__main__':
    main()
