# SPDX-License-Identifier: Apache-2.0
"""The paths of the package's own data files, in the source tree or installed."""

from __future__ import annotations

from pathlib import Path


def share_file(name: str) -> Path:
    """Return the path of a data file of the package.

    It needs no ament index, which exists only where ROS 2 is sourced.

    :param name: such as ``config/vla.yaml``.
    :raises FileNotFoundError: if it is not installed.
    """
    here = Path(__file__).resolve()
    candidates = [here.parents[1] / name]  # the source tree
    candidates += [parent / 'share' / 'vla_ros' / name for parent in here.parents]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f'{name} is not installed; looked for {candidates}')
