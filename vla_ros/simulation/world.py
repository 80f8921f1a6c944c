"""What every simulated world can do, whichever simulator makes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.types import Observation


class World(Protocol):
    """A robot, its camera, and what it may be told. One thread, the one that made it.

    ``instructions`` are those that can be judged, ``unnorm_key`` is the data set whose contract
    tells what an action's numbers mean, ``period_s`` is how long one action takes, and an episode
    has failed after ``max_steps`` of them. ``node_parameters`` are those that the node needs for
    this world's pictures, where they are not the default.
    """

    unnorm_key: str
    period_s: float
    max_steps: int

    @property
    def instructions(self) -> tuple[str, ...]: ...

    @property
    def node_parameters(self) -> Mapping[str, bool | str]: ...

    def __enter__(self) -> World: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def reset(self, seed: int, instruction: str) -> Observation:
        """Begin an episode; the same seed is the same start.

        :raises PolicyError: if there is no such instruction.
        """

    def step(self, action: NDArray[np.float64]) -> Observation:
        """Do one action.

        :param action: float64 [7], of the data set's contract.
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """

    @property
    def success(self) -> bool:
        """Whether what was asked for is done."""

    def close(self) -> None: ...
