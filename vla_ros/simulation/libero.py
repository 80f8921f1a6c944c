"""The tasks of LIBERO, in which OpenVLA's fine-tunes for it were judged.

As in experiments/robot/libero of openvla/openvla, so that success rates compare: the same starts,
camera, waiting steps, number of actions and gripper. One thing differs: cabinets and stoves, whose
places are not part of a start, stand a centimetre or two elsewhere in each episode; there by how
many went before it, here by its seed. Seed 0 is the same in both, to the last pixel.

Knows neither torch nor ROS. LIBERO, which brings both torch and robosuite, is imported when a world
is made. One thread, the one that made it: an OpenGL context belongs to a thread.
"""

from __future__ import annotations

import atexit
import importlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import load_contracts
from vla_ros.simulation.scene import SimulationError
from vla_ros.simulation.world import Closable, check_instruction, checked_action
from vla_ros.types import Observation, PolicyError

MAX_STEPS = {  # of an episode, after waiting; the longest demonstrations: 193, 254, 270, 505, 373
    'libero_spatial': 220,
    'libero_object': 280,
    'libero_goal': 300,
    'libero_10': 520,
    'libero_90': 400,
}
SUITES = tuple(MAX_STEPS)
PICTURE_SIZE = 256  # pixels, both ways, as of the training data
WAITING_STEPS = 10  # while what was put over the table falls onto it

_CAMERA = 'agentview_image'
_DO_NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # with an open gripper
_UNPICKLE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


class LiberoWorld(Closable):
    """The tasks of a suite. Close it, or use it as a context manager: it holds an OpenGL context.

    Pictures are LIBERO's own, which stand on their head; the policy's were turned by 180 degrees in
    training. The node does that, with :attr:`node_parameters`.

    LIBERO draws random numbers from numpy's global generator, which every reset seeds.

    :param suite: one of :data:`SUITES`.
    :raises PolicyError: if there is no such suite.
    :raises SimulationError: if LIBERO, or what it needs, is missing; says what to install.
    """

    node_parameters: Mapping[str, str] = MappingProxyType(
        {'rotate_180': 'true', 'preprocessing': 'training'}
    )

    def __init__(self, suite: str) -> None:
        if suite not in MAX_STEPS:
            raise PolicyError(f'LIBERO has no suite {suite!r}; there are: {", ".join(SUITES)}')
        self.contract = load_contracts()[suite]
        self.max_steps = MAX_STEPS[suite]
        with _libero('cannot be imported'):
            benchmark = importlib.import_module('libero.libero.benchmark')
            self._make_env = importlib.import_module('libero.libero.envs').OffScreenRenderEnv
            self._suite = benchmark.get_benchmark_dict()[suite]()
        self._tasks: dict[str, list[int]] = {}
        for task in range(self._suite.n_tasks):
            self._tasks.setdefault(self._suite.get_task(task).language, []).append(task)
        self._env: Any = None  # of the episode
        self._instruction: str | None = None
        self._steps = 0
        self._success = False

    def close(self) -> None:
        """Give the OpenGL context back."""
        atexit.unregister(self.close)
        if self._env is not None:
            self._env.close()
        self._env = self._instruction = None

    @property
    def instructions(self) -> tuple[str, ...]:
        """In the suite's order. In libero_90, twelve of 74 belong to two or three tasks each."""
        return tuple(self._tasks)

    def reset(self, seed: int, instruction: str) -> Observation:
        """Begin an episode, and wait until everything lies still.

        Each task has 50 starts, which follow one another by the seed; tasks with one and the same
        instruction take turns.

        :param seed: not negative.
        :param instruction: one of :attr:`instructions`.
        :returns: what the camera sees, uint8 [256, 256, 3].
        :raises PolicyError: if there is no such instruction.
        :raises SimulationError: if LIBERO can't make the task.
        """
        check_instruction(instruction, self._tasks)
        tasks = self._tasks[instruction]
        self.close()
        starts = self._open(tasks[seed % len(tasks)])
        self._env.seed(seed)
        self._env.reset()
        self._env.set_init_state(starts[seed // len(tasks) % len(starts)])
        for _ in range(WAITING_STEPS):
            seen, *_ = self._env.step(list(_DO_NOTHING))
        self._instruction, self._steps, self._success = instruction, 0, False
        return self._observation(seen, instruction)

    def step(self, action: NDArray[np.float64]) -> Observation:
        """Do one action, which takes a period of the contract, and look.

        :param action: float64 [7], of the data set: not metres and radians, but what LIBERO's own
            controller takes, and the gripper.
        :returns: what the camera sees afterwards, uint8 [256, 256, 3].
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """
        if self._instruction is None:
            raise PolicyError('no episode has begun; call reset first')
        action = checked_action(action)
        opening = self.contract.opening(float(action[6]))
        gripper = -np.sign(2 * opening - 1)  # -1 opens, 1 closes, 0 leaves it
        seen, _, done, _ = self._env.step([*action[:6].tolist(), float(gripper)])
        self._steps += 1
        self._success = self._success or bool(done)
        return self._observation(seen, self._instruction)

    @property
    def success(self) -> bool:
        """Whether the task was done after any action of the episode."""
        return self._success

    def _open(self, task: int) -> Any:
        """Make an environment. One that is used again draws more random numbers at every reset.

        :returns: the starts of the task: float64 [50, D], states of MuJoCo.
        """
        with _libero(f'cannot make the task {self._suite.get_task(task).name}'):
            starts = _load_starts(self._suite, task)
            self._env = self._make_env(
                bddl_file_name=self._suite.get_task_bddl_file_path(task),
                camera_heights=PICTURE_SIZE,
                camera_widths=PICTURE_SIZE,
            )
        atexit.register(self.close)  # at the latest, and before robosuite misses its OpenGL
        return starts

    def _observation(self, seen: Mapping[str, Any], instruction: str) -> Observation:
        image = np.array(seen[_CAMERA], dtype=np.uint8)
        stamp_ns = round(self._steps * self.contract.period_s * 1e9)
        return Observation.of_one(image, instruction, stamp_ns)


@contextmanager
def _libero(failure: str) -> Iterator[None]:
    """Where LIBERO asks and prints.

    It asks where to keep data sets when it is first imported: nowhere, none are needed. It prints
    that they are missing, and more.

    :raises SimulationError: if anything in it fails.
    """
    stdin, sys.stdin = sys.stdin, io.StringIO('n\n')
    try:
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # of MuJoCo, PyOpenGL, robosuite, torch or LIBERO
        raise SimulationError(
            f'LIBERO {failure} ({type(error).__name__}: {" ".join(str(error).split())}); it takes '
            'LIBERO from its repository and robosuite 1.4.1, and docs/evaluation.md says how to '
            'install them'
        ) from error
    finally:
        sys.stdin = stdin


def _load_starts(suite: Any, task: int) -> Any:
    """The starts of a task: float64 [50, D].

    They are pickles, which torch has refused since 2.6 unless told to read them. They come with
    LIBERO's code, and are as trustworthy.
    """
    before = os.environ.get(_UNPICKLE)
    os.environ[_UNPICKLE] = '1'
    try:
        return suite.get_task_init_states(task)
    finally:
        del os.environ[_UNPICKLE]
        if before is not None:
            os.environ[_UNPICKLE] = before
