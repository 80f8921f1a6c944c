# SPDX-License-Identifier: Apache-2.0
"""The tasks of LIBERO, which OpenVLA's fine-tunes for LIBERO are judged by.

The starts, camera, waiting steps, number of actions and gripper are those of
experiments/robot/libero of openvla/openvla, so that success rates compare. One thing differs:
cabinets and stoves, whose places are not part of a start, are moved by a centimetre or two in each
episode; there by the number of earlier episodes, here by the seed. Seed 0 is the same in both, to
the last pixel.

Independent of torch and ROS. LIBERO, which brings torch and robosuite, is imported when a world is
made. A world must be used by the thread that made it: an OpenGL context belongs to a thread.
"""

from __future__ import annotations

import atexit
import importlib
import io
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import shipped_displacements
from vla_ros.simulation.scene import SimulationError
from vla_ros.simulation.world import Closable, Sensors, check_instruction, checked_action
from vla_ros.types import Observation, PolicyError, PolicySpec

# Actions of an episode after waiting. The longest demonstrations take 193, 254, 270, 505 and 373.
MAX_STEPS = {
    'libero_spatial': 220,
    'libero_object': 280,
    'libero_goal': 300,
    'libero_10': 520,
    'libero_90': 400,
}
SUITES = tuple(MAX_STEPS)
IMAGE_SIZE = 256  # width and height in pixels, as in the training data
WAITING_STEPS = 10  # while objects placed above the table fall onto it

# The world's cameras, and LIBERO's names of their images.
_CAMERAS = {'agentview': 'agentview_image', 'wrist': 'robot0_eye_in_hand_image'}
# The state is that of openvla-oft and openpi for LIBERO.
SENSORS = Sensors(
    cameras=tuple(_CAMERAS),
    state_dim=8,
    state="the tool's position (x, y, z, metres) and turn (axis times angle, radians), and the "
    'positions of both fingers (metres)',
)
_DO_NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # with an open gripper
_UNPICKLE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


class LiberoWorld(Closable):
    """The tasks of a suite.

    It holds an OpenGL context: close it, or use it as a context manager. LIBERO's images are upside
    down, and were turned by 180 degrees in the policy's training; the node turns them, with
    :attr:`node_parameters`. LIBERO draws random numbers from NumPy's global generator, which every
    reset seeds.

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
        self.contract = shipped_displacements(suite)
        self.max_steps = MAX_STEPS[suite]
        with _libero('cannot be imported'):
            benchmark = importlib.import_module('libero.libero.benchmark')
            self._make_env = importlib.import_module('libero.libero.envs').OffScreenRenderEnv
            self._suite = benchmark.get_benchmark_dict()[suite]()
        self._tasks: dict[str, list[int]] = {}
        for task in range(self._suite.n_tasks):
            self._tasks.setdefault(self._suite.get_task(task).language, []).append(task)
        self._selection = SENSORS.main_camera
        self._env: Any = None  # the episode's
        self._instruction: str | None = None
        self._steps = 0
        self._success = False

    def close(self) -> None:
        """Free the OpenGL context."""
        atexit.unregister(self.close)
        if self._env is not None:
            self._env.close()
        self._env = self._instruction = None

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instructions in the suite's order.

        In libero_90, twelve of 74 belong to two or three tasks each.
        """
        return tuple(self._tasks)

    def equip(self, spec: PolicySpec) -> None:
        """Let observations have the images and the state that a policy needs.

        :raises PolicyError: if it needs another camera than ``agentview`` and ``wrist``, or another
            state than that of :data:`SENSORS`, or gives actions of another size than 7.
        """
        self._selection = SENSORS.select(spec)

    def reset(self, seed: int, instruction: str) -> Observation:
        """Begin an episode, and wait until all objects rest.

        The seed selects one of the task's 50 starts in turn; tasks with the same instruction take
        turns, too.

        :param seed: not negative.
        :param instruction: one of :attr:`instructions`.
        :returns: images of uint8 [256, 256, 3].
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
            sensors, *_ = self._env.step(list(_DO_NOTHING))
        self._instruction, self._steps, self._success = instruction, 0, False
        return self._observation(instruction, sensors)

    def step(self, action: NDArray[np.float64]) -> Observation:
        """Execute one action for a period of the contract, and return the next observation.

        :param action: float64 [7], in the data set's units: not metres and radians, but the inputs
            of LIBERO's own controller, and the gripper.
        :returns: images of uint8 [256, 256, 3], after the action.
        :raises PolicyError: if it is not seven finite numbers, or no episode has begun.
        """
        if self._instruction is None:
            raise PolicyError('no episode has begun; call reset first')
        action = checked_action(action)
        opening = self.contract.opening(float(action[6]))
        gripper = -np.sign(2 * opening - 1)  # -1 opens, 1 closes, 0 leaves it
        sensors, _, done, _ = self._env.step([*action[:6].tolist(), float(gripper)])
        self._steps += 1
        self._success = self._success or bool(done)
        return self._observation(self._instruction, sensors)

    @property
    def success(self) -> bool:
        """Whether the task was done after any action of the episode."""
        return self._success

    def _open(self, task: int) -> Any:
        """Make the environment of a task.

        Each episode gets a new one: an environment that is used again draws more random numbers at
        every reset.

        :returns: the starts of the task: float64 [50, D], states of MuJoCo.
        """
        with _libero(f'cannot make the task {self._suite.get_task(task).name}'):
            starts = _load_starts(self._suite, task)
            self._env = self._make_env(
                bddl_file_name=self._suite.get_task_bddl_file_path(task),
                camera_heights=IMAGE_SIZE,
                camera_widths=IMAGE_SIZE,
            )
        atexit.register(self.close)  # at the latest, and before robosuite misses its OpenGL
        return starts

    def _observation(self, instruction: str, sensors: Mapping[str, Any]) -> Observation:
        selection, stamp_ns = self._selection, round(self._steps * self.contract.period_s * 1e9)
        images = {
            name: np.array(sensors[_CAMERAS[camera]], dtype=np.uint8)
            for name, camera in selection.cameras.items()
        }
        state = _robot_state(sensors) if selection.state else None
        return Observation(images, instruction, dict.fromkeys(images, stamp_ns), state)


def _robot_state(sensors: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the state that :data:`SENSORS` describes, float64 [8]."""
    *axis, w = sensors['robot0_eef_quat']
    sine = float(np.linalg.norm(axis))
    turn = np.array(axis) * (2 * math.atan2(sine, w) / sine if sine > 1e-9 else 2.0)
    return np.concatenate([sensors['robot0_eef_pos'], turn, sensors['robot0_gripper_qpos']])


@contextmanager
def _libero(failure: str) -> Iterator[None]:
    """Answer LIBERO's questions, move its output to stderr, and convert its errors.

    At its first import LIBERO asks where to keep data sets, and prints that they are missing. None
    are needed.

    :param failure: follows the word "LIBERO" in the error.
    :raises SimulationError: if anything inside fails.
    """
    stdin, sys.stdin = sys.stdin, io.StringIO('n\n')
    try:
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # of MuJoCo, PyOpenGL, robosuite, torch or LIBERO
        raise SimulationError(
            f'LIBERO {failure} ({type(error).__name__}: {" ".join(str(error).split())})',
            'install LIBERO from its repository, and robosuite 1.4.1, as docs/evaluation.md says',
        ) from error
    finally:
        sys.stdin = stdin


def _load_starts(suite: Any, task: int) -> Any:
    """Return the starts of a task: float64 [50, D].

    They are pickles, which torch rejects since 2.6 unless told to read them. They come with
    LIBERO's code, and are as trustworthy as the code.
    """
    before = os.environ.get(_UNPICKLE)
    os.environ[_UNPICKLE] = '1'
    try:
        return suite.get_task_init_states(task)
    finally:
        del os.environ[_UNPICKLE]
        if before is not None:
            os.environ[_UNPICKLE] = before
