"""The interface of all simulated worlds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion import ACTION_DIM, ActionContract
from vla_ros.types import Observation, PolicyError


class World(Protocol):
    """A robot, its camera and its instructions. Must be used by the thread that made it.

    ``instructions`` are those whose success can be judged. ``contract`` gives the meaning of an
    action's numbers and its period. An episode has failed after ``max_steps`` actions. The node
    needs ``node_parameters`` for this world's images.
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
        """Begin an episode; the same seed gives the same start.

        :raises PolicyError: if there is no such instruction.
        """

    def step(self, action: NDArray[np.float64]) -> Observation:
        """Execute one action.

        :param action: float64 [7], by the data set's contract.
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """

    @property
    def success(self) -> bool:
        """Whether the task of the instruction is done."""

    def close(self) -> None: ...


@runtime_checkable
class FreeWorld(World, Protocol):
    """A world that can run continuously, with images during an action."""

    @property
    def pose(self) -> Any:
        """The tool's current pose."""

    def look(self) -> Observation:
        """Return the camera's current image."""

    def begin(self, action: NDArray[np.float64], start: Any = None) -> None:
        """Begin one action, which takes a period.

        :param start: pose that the displacement starts from; None: the tool's current pose.
        :raises PolicyError: as :meth:`step`.
        """

    def advance(self, seconds: float) -> None:
        """Simulate a duration. An arm that has completed its action rests."""


Closed = TypeVar('Closed', bound='Closable')


class Closable(ABC):
    """An object that is closed at the end of a with block."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self: Closed) -> Closed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_instruction(instruction: str, instructions: Collection[str]) -> None:
    """Raise PolicyError if the instruction is not one of ``instructions``."""
    if instruction not in instructions:
        raise PolicyError(
            f'there is no instruction {instruction!r} in this world',
            f'there are: {", ".join(instructions)}',
        )


def checked_action(action: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an action as float64 [7].

    :raises PolicyError: if it is not seven finite numbers.
    """
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
        raise PolicyError(f'an action is seven finite numbers, not {action.tolist()}')
    return action
