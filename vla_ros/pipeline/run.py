# SPDX-License-Identifier: Apache-2.0
"""``vla_bench --pipeline``: how the policy, the camera and ROS slow each other down.

There are three processes, as on a robot: the node with the policy, a camera, and this one, which
listens. They repeat three kinds of turns, so that other load of the machine affects all alike:

* policy alone: the camera publishes one image after each action, so that the policy always has
  work, and no image has to be converted during an inference;
* policy and camera: the camera publishes at its rate;
* camera alone: the camera publishes at its rate, but the node has no instruction.

The camera's cost is the loss of the policy's rate, which is one over ``inference_time``. This
duration contains all that slows an inference down: other threads of the node and other processes
that use the same cores. A policy that is faster than the camera waits for images; that wait is not
a cost. Such a policy seldom works when an image arrives, so its figure does not apply to a slower
one.

An image is lost if the camera published it, and the node never received it. The same is counted for
the listener, an independent subscriber that does not deserialize images.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.bench.combinations import Combination
from vla_ros.client.listener import Listener, listening
from vla_ros.client.processes import PATIENT, parameter_arguments, running
from vla_ros.console import Say, interrupting
from vla_ros.graph.stamps import from_duration, from_time
from vla_ros.measure.cpu import cpu_seconds
from vla_ros.msg import VlaStatus
from vla_ros.pipeline.camera import CameraProcess, running_camera
from vla_ros.pipeline.summary import (
    CAMERA_ALONE,
    COUNTED,
    KINDS,
    POLICY_ALONE,
    Frames,
    PipelineError,
    Turn,
    summarize_turns,
)
from vla_ros.reasons import State

_LEAST_ACTIONS = 3  # in a turn; the first does not count
_PATIENCE_S = 30.0  # in addition to the inferences
_SETTLE_S = 4.0  # a lost image is repeated within Fast DDS's heartbeat, 3 s, or never
_HEARD_NS = 100_000_000  # after the node or the listener, the other one receives an image within it
_STDERR = 2  # standard output is for the report
_NODE_IS_READY_S = 2 * 3600.0  # the node's own limits come first

_POLICY_FIELDS = (
    'device',
    'dtype',
    'quantization',
    'compiled',
    'unnorm_key',
    'load_s',
    'warmup_s',
    'first_inference_s',
    'steady_inference_s',
)


@dataclass(frozen=True)
class PipelineTask:
    """The options of a measurement.

    :param model: checkpoint folder, or ``scripted:...``.
    :param unnorm_key: data set of the actions; empty: the only one.
    :param threads: number of torch's threads in the node; None: torch's default.
    :param rate_hz: rate of the camera [Hz].
    :param repeats: number of turns of each kind.
    :param seconds: minimum duration of a turn [s]; it lasts until there are some actions.
    """

    model: str
    unnorm_key: str
    combination: Combination
    threads: int | None
    instruction: str
    rate_hz: float
    repeats: int
    seconds: float


class Pipeline:
    """The three running processes. Used by the main thread."""

    def __init__(
        self,
        task: PipelineTask,
        listener: Listener,
        camera: CameraProcess,
        processes: Mapping[str, subprocess.Popen[bytes]],
    ) -> None:
        """Watch the processes while the listener waits.

        :param processes: the node's and the camera's, by name.
        """
        self._task = task
        self._listener = listener
        self._camera = camera
        self._processes = processes
        self._pids = {'listener': os.getpid()}
        self._pids |= {name: process.pid for name, process in processes.items()}
        self._patience_s = _PATIENCE_S
        listener.check = self._check

    def wait_until_ready(self) -> VlaStatus:
        """Wait until the policy is warm, and the node and the listener receive images.

        :raises PipelineError: if that does not happen in time.
        """
        listener = self._listener
        answer = listener.wait_for(State.HOLDING, timeout_s=_NODE_IS_READY_S)
        self._check()
        if not answer.ok:
            raise PipelineError(f'the policy is not warm: {answer.message}')
        self._patience_s += 5 * _LEAST_ACTIONS * listener.latest.policy.steady_inference_s
        self._until(
            lambda: bool(listener.frames_s and listener.latest.counters.received),
            'the node and the listener receive images',
            lambda: self._camera.tell('once'),
        )
        self._camera.stop()
        later_ns = listener.node.get_clock().now().nanoseconds + _HEARD_NS
        self._until(lambda: from_time(listener.latest.header.stamp) > later_ns, 'it is counted')
        return listener.latest

    def turn(self, kind: str) -> Turn:
        """Run one turn, and return what was measured.

        :param kind: one of KINDS.
        :raises PipelineError: if the node does not act, or a process ends.
        """
        listener, acts = self._listener, kind != CAMERA_ALONE
        with listener.changed:
            before = listener.latest.counters
            listener.actions.clear()
            listener.frames_s.clear()
        if acts:
            self._instruct(self._task.instruction)
        used_s, started_s = cpu_seconds(self._pids), time.monotonic()
        self._show(kind)
        time.sleep(self._task.seconds)
        if acts:
            self._until(lambda: len(listener.actions) >= _LEAST_ACTIONS, 'there are actions')
        with listener.changed:
            listener.after_action = None
            actions = list(listener.actions)
        shown = self._camera.stop()
        elapsed_s, now_used_s = time.monotonic() - started_s, cpu_seconds(self._pids)
        self._instruct('')
        self._settle(before.received + shown['published'], shown['published'])
        with listener.changed:
            after, frames_s = listener.latest.counters, list(listener.frames_s)
        return Turn(
            kind,
            published_s=[from_time(action.header.stamp) / 1e9 for action in actions],
            inference_s=[from_duration(action.inference_time) for action in actions],
            latency_s=[from_duration(action.latency) for action in actions],
            frames=Frames(**shown, received=after.received - before.received, heard=len(frames_s)),
            intervals_s=np.diff(frames_s).tolist(),
            counters={name: getattr(after, name) - getattr(before, name) for name in COUNTED},
            cpu_cores={
                name: (seconds - used_s.get(name, 0.0)) / elapsed_s
                for name, seconds in now_used_s.items()
            },
        )

    def _show(self, kind: str) -> None:
        if kind == POLICY_ALONE:
            with self._listener.changed:
                self._listener.after_action = lambda: self._camera.tell('once')
            self._camera.tell('once')
        else:
            self._camera.tell(f'show {self._task.rate_hz}')

    def _instruct(self, instruction: str) -> None:
        if self._listener.is_in_force(instruction):
            return
        answer = self._listener.instruct(instruction, self._patience_s)
        if not answer.ok:
            raise PipelineError(f'the instruction is not obeyed: {answer.message}')

    def _settle(self, received: int, heard: int) -> None:
        """Wait until no inference runs, and no more images are expected.

        :param received: number of images that the node has received then, unless some are lost.
        :param heard: number of images that the listener has received then, unless some are lost.
        """
        listener = self._listener
        self._until(
            lambda: not (listener.latest.counters.in_flight or listener.latest.counters.waiting),
            'the inference ends',
        )
        listener.wait_until(
            lambda: (
                listener.latest.counters.received >= received and len(listener.frames_s) >= heard
            ),
            _SETTLE_S,
        )

    def _until(
        self, condition: Callable[[], bool], what: str, act: Callable[[], object] = lambda: None
    ) -> None:
        """Repeat an act until the condition is true.

        :param what: the condition, for users.
        :raises PipelineError: if it is not true in time.
        """
        if not self._listener.repeat_until(act, condition, self._patience_s):
            raise PipelineError(
                f'it took more than {self._patience_s:.0f} s until {what}; the last status was '
                f'{self._listener.latest.message}'
            )

    def _check(self) -> None:
        """Raise PipelineError if a process has ended, or the node is in ERROR."""
        status = self._listener.latest
        if status.state == State.ERROR:
            raise PipelineError(f'the node is in {status.message}')
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise PipelineError(f'the {name} ended with code {process.returncode}')


def measure_pipeline(task: PipelineTask, say: Say) -> dict[str, Any]:
    """Run all turns, and return the report's ``pipeline``.

    :raises PipelineError: if nothing could be measured.
    """
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    namespace = f'/vla_bench_{os.getpid()}'  # in which no robot listens
    remapped = ('--ros-args', '-r', f'__ns:={namespace}')
    turns = []
    with (
        interrupting(),
        listening(namespace) as listener,
        running(
            'vla_ros.cli.node',
            *remapped,
            *_node_parameters(task),
            environment={'OMP_NUM_THREADS': str(task.threads)} if task.threads else None,
            stdout=_STDERR,
        ) as node,
        running_camera(*remapped) as (camera, camera_process),
    ):
        processes = {'node': node, 'camera': camera_process}
        pipeline = Pipeline(task, listener, camera, processes)
        say('the node loads and warms the policy')
        status = pipeline.wait_until_ready()
        for number in range(1, task.repeats + 1):
            for kind in KINDS:
                say(f'repetition {number} of {task.repeats}: {kind}')
                turns.append(pipeline.turn(kind))
    return {
        'node': {name: getattr(status.policy, name) for name in _POLICY_FIELDS},
        'threads': task.threads,
        'camera': {'rate_hz': task.rate_hz, 'encoding': 'rgb8', 'reliability': 'reliable'},
        'repeats': task.repeats,
        'seconds': task.seconds,
        **summarize_turns(turns),
    }


def _node_parameters(task: PipelineTask) -> list[str]:
    policy = task.combination.policy
    values = {
        'model': task.model,
        'device': policy.device,
        'dtype': policy.dtype,
        'quantization': policy.quantization,
        'compile': str(policy.compile).lower(),
        **PATIENT,
        'load_timeout_s': '3600.0',
        'warmup_timeout_s': '3600.0',
    }
    if task.unnorm_key:
        values['unnorm_key'] = task.unnorm_key
    return parameter_arguments(values)
