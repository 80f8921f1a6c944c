# SPDX-License-Identifier: Apache-2.0
"""The interface of all simulated worlds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion import ACTION_DIM, ActionContract
from vla_ros.types import ONE_CAMERA, Observation, PolicyError, PolicySpec

_WRIST, _WRIST_IMAGE = 'wrist', 'wrist_image'  # a world's name of a camera, and vla_convert's


@dataclass(frozen=True)
class Selection:
    """The sensors whose values are in the observations of a world.

    :param cameras: the world's camera for each image, by the policy's name of it.
    :param state: whether observations have the robot's state.
    """

    cameras: Mapping[str, str]
    state: bool = False


@dataclass(frozen=True)
class Sensors:
    """The sensors of a world.

    :param cameras: names of its cameras, the main one first.
    :param state_dim: number of values of the robot's state.
    :param state: contents of the state, for users.
    """

    cameras: tuple[str, ...]
    state_dim: int
    state: str

    @property
    def main_camera(self) -> Selection:
        """The main camera alone, without a state."""
        return self._selection((ONE_CAMERA,), 0)

    def select(self, spec: PolicySpec) -> Selection:
        """Return the sensors that a policy needs.

        A camera of the policy is the world's camera of the same name. Names that only count are
        the world's cameras in order: ``image`` and ``camera_1`` are the first, ``camera_2`` is the
        second. ``wrist_image`` is ``wrist``.

        :raises PolicyError: if the world lacks a camera, has another state, or takes actions of
            another size.
        """
        if spec.action_dim != ACTION_DIM:
            raise PolicyError(
                f'the policy gives actions of {spec.action_dim} values',
                f'the world takes {ACTION_DIM}',
                value=spec.action_dim,
                expected=str(ACTION_DIM),
            )
        return self._selection(spec.cameras, spec.state_dim)

    def _selection(self, cameras: Sequence[str], state_dim: int) -> Selection:
        numbered = {f'camera_{number}': name for number, name in enumerate(self.cameras, 1)}
        of_family = {ONE_CAMERA: self.cameras[0]}
        if _WRIST in self.cameras:
            of_family[_WRIST_IMAGE] = _WRIST
        names = {name: name for name in self.cameras} | numbered | of_family
        for camera in cameras:
            if camera not in names:
                there = ', '.join(f'{name} ({number})' for number, name in numbered.items())
                raise PolicyError(
                    f'the policy needs the camera {camera!r}, which the world does not have',
                    f'it has {there}',
                    value=camera,
                    expected=there,
                )
        if state_dim not in (0, self.state_dim):
            raise PolicyError(
                f'the policy needs a state of {state_dim} values',
                f'the world has a state of {self.state_dim}: {self.state}',
                value=state_dim,
                expected=str(self.state_dim),
            )
        return Selection({camera: names[camera] for camera in cameras}, state_dim > 0)


class World(Protocol):
    """A robot, its cameras and its instructions. Must be used by the thread that made it.

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

    def equip(self, spec: PolicySpec) -> None:
        """Let observations have the images and the state that a policy needs.

        By default they have one image, of the main camera.

        :raises PolicyError: as :meth:`Sensors.select`.
        """

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
        """Return the current images and state."""

    def begin(self, action: NDArray[np.float64], start: Any = None) -> None:
        """Begin one action, which takes a period.

        :param start: pose that the displacement starts from; None: the tool's current pose.
        :raises PolicyError: as :meth:`step`.
        """

    def moved(self, pose: Any, action: NDArray[np.float64]) -> Any:
        """Return the pose at the end of an action that starts from a pose."""

    def apart(self, one: Any, other: Any) -> float:
        """Return how far two poses are apart [m]; a turn counts, too."""

    def advance(self, seconds: float) -> None:
        """Simulate a duration. An arm that has completed its action rests."""

    def drive(self, twist: NDArray[np.float64], gripper_open: bool, seconds: float) -> None:
        """Move the tool with a velocity for a duration.

        :param twist: float64 [6]: metres and radians per second along the base's axes.
        """


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
