"""Where the package's own data files lie: in the source tree, or installed."""

from __future__ import annotations

from pathlib import Path


def share_file(name: str) -> Path:
    """A file of the package. Needs no ament index: without a sourced ROS 2 there is none.

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
