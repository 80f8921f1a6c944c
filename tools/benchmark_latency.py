"""What the node adds to the policy's own time: capture to publish, minus inference.

Three processes: `vla_camera` (640x480, reliable, the Fast DDS profile of config/), the node around
a policy that keeps torch busy for a fixed time, and this one, which listens. While the policy is
quicker than the camera's period no picture waits for it, and the difference is the node's cost:
transport, conversion, hand-over to the worker and back, publishing.

    .venv/bin/python tools/benchmark_latency.py --seconds 30
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import rclpy
from rclpy.node import Node
from std_msgs.msg import String

from vla_ros.cli import node as vla_node
from vla_ros.cli.demo import running_camera
from vla_ros.msg import VlaAction
from vla_ros.ros.parameters import Parameters
from vla_ros.ros.stamps import from_duration
from vla_ros.types import (
    Cancel,
    Policy,
    PolicyInfo,
    Prediction,
    ProgressCallback,
    Request,
    WarmupTimes,
)

NAMESPACE = '/benchmark'
WARM_UP = 30  # actions that are not counted


class BusyPolicy:
    """Multiplies matrices on all of torch's threads for a fixed time, then answers the same."""

    info = PolicyInfo('busy', '', 'cpu', 'float32', 'none')

    def __init__(self, busy_s: float) -> None:
        import torch

        self._busy_s = busy_s
        self._matrix = torch.randn(400, 400)

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        return WarmupTimes(0.0, 0.0, 0.0)

    def action_dim(self, unnorm_key: str | None = None) -> int:
        return 7

    def close(self) -> None:
        pass

    def check_instruction(self, instruction: str) -> None:
        pass

    def predict_actions(
        self, requests: Sequence[Request], cancel: Cancel | None = None
    ) -> list[Prediction]:
        ends_s = time.monotonic() + self._busy_s
        while time.monotonic() < ends_s:
            self._matrix @ self._matrix
        prediction = Prediction(
            action=np.zeros(7),
            normalized_action=np.zeros(7),
            token_ids=np.full(7, 31872),
            token_probabilities=np.ones(7, dtype=np.float32),
            unnorm_key='busy',
        )
        return [prediction] * len(requests)


def run_node(busy_s: float) -> int:
    def load(parameters: Parameters, progress: ProgressCallback) -> Policy:
        return BusyPolicy(busy_s)

    return vla_node.main(sys.argv, load_policy=load)


def listen(seconds: float) -> list[VlaAction]:
    rclpy.init()
    ear = Node('ear', namespace=NAMESPACE)
    actions: list[VlaAction] = []
    ear.create_subscription(VlaAction, 'action', actions.append, 100)
    person = ear.create_publisher(String, 'instruction', 1)

    def spin_until(done: Callable[[], bool]) -> None:
        while not done():
            rclpy.spin_once(ear, timeout_sec=0.2)
            if not actions:
                person.publish(String(data='pick up the cup'))

    spin_until(lambda: len(actions) > WARM_UP)
    actions.clear()
    ends_s = time.monotonic() + seconds
    spin_until(lambda: time.monotonic() > ends_s)
    rclpy.try_shutdown()
    return actions


def row(name: str, milliseconds: Sequence[float]) -> dict[str, float]:
    figures = {f'p{p}': round(float(np.percentile(milliseconds, p)), 2) for p in (50, 95, 99)}
    figures['max'] = round(max(milliseconds), 2)
    print(f'{name:34}' + ''.join(f'{value:10.2f}' for value in figures.values()))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=30.0)
    parser.add_argument('--busy-ms', type=float, default=15.0)
    parser.add_argument('--rate', type=float, default=30.0, help='of the camera, Hz')
    options, _ = parser.parse_known_args()
    if os.environ.get('BENCHMARK_NODE'):
        return run_node(options.busy_ms / 1e3)

    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    command = [sys.executable, __file__, '--busy-ms', str(options.busy_ms)]
    command += ['--ros-args', '-r', f'__ns:={NAMESPACE}']
    node = subprocess.Popen(command, env={**os.environ, 'BENCHMARK_NODE': '1'})
    try:
        with running_camera(NAMESPACE, '--rate', str(options.rate)):
            actions = listen(options.seconds)
    finally:
        node.terminate()
        node.wait(20)
    print(
        f'\n640x480 rgb8, reliable, {options.rate:g} Hz; '
        f'policy: {options.busy_ms:g} ms of busy torch; {WARM_UP} actions of warm-up left out\n'
        f'{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, '
        f'ROS 2 {os.environ.get("ROS_DISTRO", "Jazzy from PyPI")}'
    )
    print(f'{len(actions)} actions in {options.seconds:g} s')
    print(f'{"milliseconds":34}{"p50":>10}{"p95":>10}{"p99":>10}{"max":>10}')
    latency = [1e3 * from_duration(action.latency) for action in actions]
    inference = [1e3 * from_duration(action.inference_time) for action in actions]
    added = [both - own for both, own in zip(latency, inference, strict=True)]
    figures = {
        'inference_ms': row('inference', inference),
        'latency_ms': row('capture to publish', latency),
        'added_ms': row('capture to publish, minus inference', added),
    }
    print(json.dumps({'actions': len(actions), 'rate_hz': options.rate, **figures}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
