"""What every simulated world can do, whichever simulator makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion import ACTION_DIM, ActionContract
from vla_ros.types import Observation, PolicyError


class World(Protocol):
    """A robot, its camera, and what it may be told. One thread, the one that made it.

    ``instructions`` are those that can be judged, ``contract`` tells what an action's numbers mean
    and how long one takes, an episode has failed after ``max_steps`` of them, and the node needs
    ``node_parameters`` for this world's pictures.
    """

    max_steps: int

    @property
    def contract(self) -> ActionContract: ...

    @property
    def node_parameters(self) -> Mapping[str, str]: ...

    @property
    def instructions(self) -> tuple[str, ...]: ...

    def __enter__(self) -> World: ...

    def __exit__(self, *_: object) -> None: ...

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


@runtime_checkable
class FreeWorld(World, Protocol):
    """One that can go on by itself, with pictures in mid-action."""

    @property
    def pose(self) -> Any:
        """Of the tool, now."""

    def look(self) -> Observation:
        """What the camera sees now."""

    def begin(self, action: NDArray[np.float64], start: Any = None) -> None:
        """Begin one action; it takes a period.

        :param start: a ``pose`` that the displacement starts from; None: where the tool is now.
        :raises PolicyError: as :meth:`step`.
        """

    def advance(self, seconds: float) -> None:
        """Let so much time pass. An arm that has done its action stands still."""


Closed = TypeVar('Closed', bound='Closable')


class Closable(ABC):
    """Closed at the end of a with block."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self: Closed) -> Closed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_instruction(instruction: str, instructions: Collection[str]) -> None:
    """:raises PolicyError: if it is not one of these."""
    if instruction not in instructions:
        raise PolicyError(
            f'there is no instruction {instruction!r} in this world; there are: '
            f'{", ".join(instructions)}'
        )


def checked_action(action: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    :returns: float64 [7].
    :raises PolicyError: if it is not seven finite numbers.
    """
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
        raise PolicyError(f'an action is seven finite numbers, not {action.tolist()}')
    return action
