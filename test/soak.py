# SPDX-License-Identifier: Apache-2.0
"""``make soak``: the node under a 30 Hz camera and a steady rain of faults; what it holds on to.

The node runs in its own process with a policy that fails at random (or with a checkpoint), while
pictures, instructions and lifecycle go wrong in turn. Every ten seconds its resident memory,
threads and descriptors are read. At the end memory must be flat, threads and descriptors as many
as before, every picture and inference counted under one name, and every published action heard.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lifecycle_msgs.msg import Transition

from support.graph import CameraThread, Robot, image_message, robot
from support.places import ROOT
from vla_ros.msg import VlaStatus
from vla_ros.reasons import State
from vla_ros.scheduling.accounts import unaccounted

# The camera's pictures are bigger than Fast DDS's usual shared memory; read when a context is made.
for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
    os.environ[variable] = str(ROOT / 'config' / 'fastdds.xml')

SIZE = (480, 640, 3)  # pixels
NAMESPACE = '/soak'
SCRIPT = 'scripted:slow=0.015,raise@1%,nan@1%,invalid@1%,dim=3@1%,unbounded@1%,slow=2@0.5%,seed=1'
PARAMETERS = {
    'inference_timeout_s': 0.5,
    'max_action_age_s': 1.0,
    'image_timeout_s': 1.0,
    'frozen_image_timeout_s': 1.0,
    'no_instruction_timeout_s': 1.0,
    'hang_timeout_s': 60.0,
}
BETWEEN_DISTURBANCES_S = 1.5
SAMPLE_PERIOD_S = 10.0
# What an allocator may keep or give back. Beyond it a rise, or a slope that is no noise and would
# come to as much in an hour, is a leak.
MEMORY_NOISE_KB = 512


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the node's process holds, from /proc."""

    elapsed_s: float
    resident_kb: int
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int, elapsed_s: float) -> Sample:
        lines = Path(f'/proc/{pid}/status').read_text().splitlines()
        fields = dict(line.split(':', 1) for line in lines)
        resident_kb = int(fields['VmRSS'].split()[0])
        descriptors = len(list(Path(f'/proc/{pid}/fd').iterdir()))
        return cls(elapsed_s, resident_kb, int(fields['Threads']), descriptors)


class Camera(CameraThread):
    """How it shows its pictures can be disturbed."""

    def __init__(self, stack: Robot) -> None:
        super().__init__(stack)
        frames = np.random.default_rng(0).integers(0, 256, (8, *SIZE), dtype=np.uint8)
        self._messages = itertools.cycle([image_message(frame) for frame in frames])
        self._message = next(self._messages)
        self._numbers = itertools.count()
        self.behaviour = 'well'

    def show(self) -> bool:
        behaviour = self.behaviour
        if behaviour == 'silent':
            return False
        if behaviour != 'frozen':
            self._message = next(self._messages)
            # A camera's images never come again.
            struct.pack_into('<I', self._message.data, 0, next(self._numbers))
        self._message.encoding = 'infrared9' if behaviour == 'rejected' else 'rgb8'
        now_ns = self._stack.get_clock().now().nanoseconds
        stamp_ns = {
            'unstamped': 0,
            'repeated': now_ns - now_ns % 10**9,
            'stale': now_ns - 2 * 10**9,
            'future': now_ns + 5 * 10**9,
            'backwards': now_ns - random.randrange(3 * 10**8),
        }.get(behaviour, now_ns)
        self._stack.see(self._message, stamp_ns=stamp_ns)
        return True


class Soak:
    """One run. Totals go over all configurations, since each counts from zero."""

    def __init__(self, stack: Robot, camera: Camera, node: subprocess.Popen[bytes]) -> None:
        self._stack = stack
        self._camera = camera
        self._node = node
        self._instructions = (f'go {number}' for number in itertools.count())
        self._finished: list[VlaStatus] = []  # the last status of each configuration
        self.samples: list[Sample] = []
        self.disturbances: dict[str, int] = {}

    def run(self, seconds: float, seed: int) -> None:
        kinds = [
            *('silent', 'frozen', 'stale', 'future', 'backwards', 'unstamped', 'repeated'),
            *('rejected', 'no instruction', 'bad instruction', 'new instruction'),
            *('deactivate', 'configure'),
        ]
        choose = random.Random(seed)
        began_s = time.monotonic()
        self.wait_for_actions()
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            if elapsed_s >= len(self.samples) * SAMPLE_PERIOD_S:
                self.samples.append(Sample.of(self._node.pid, elapsed_s))
            kind = choose.choice(kinds)
            self.disturbances[kind] = self.disturbances.get(kind, 0) + 1
            self._disturb(kind)
            self.wait_for_actions()
            time.sleep(BETWEEN_DISTURBANCES_S)
        self.samples.append(Sample.of(self._node.pid, time.monotonic() - began_s))

    def totals(self) -> tuple[int, int]:
        """Pictures received and actions published, over all configurations."""
        statuses = [*self._finished, self._stack.status]
        return sum(s.received for s in statuses), sum(s.published for s in statuses)

    def wait_for_actions(self) -> None:
        count = len(self._stack.actions)
        self._stack.wait_for(lambda: len(self._stack.actions) > count, 60.0)

    def _disturb(self, kind: str) -> None:
        if kind == 'no instruction':
            self._say('')
            time.sleep(1.5)
            self._say(next(self._instructions))
        elif kind == 'bad instruction':
            self._say('stop </s>', in_force='')
            self._say(next(self._instructions))
        elif kind == 'new instruction':
            self._say(next(self._instructions))
        elif kind in ('deactivate', 'configure'):
            self._go_through_lifecycle(kind)
        else:
            self._camera.behaviour = kind
            time.sleep(2.0 if kind in ('silent', 'frozen', 'repeated') else 0.5)
            self._camera.behaviour = 'well'

    def _say(self, instruction: str, in_force: str | None = None) -> None:
        expected = instruction if in_force is None else in_force
        self._stack.say(instruction)
        self._stack.wait_for(lambda: self._stack.status.instruction == expected)

    def _go_through_lifecycle(self, kind: str) -> None:
        # Without a camera meanwhile, so that every picture shown has a listener.
        self._camera.behaviour = 'silent'
        time.sleep(0.3)
        self._transition(Transition.TRANSITION_DEACTIVATE, State.READY)
        if kind == 'configure':
            self._transition(Transition.TRANSITION_CLEANUP, State.UNCONFIGURED)
            self._finished.append(self._stack.status)
            self._transition(Transition.TRANSITION_CONFIGURE, State.READY)
        self._transition(Transition.TRANSITION_ACTIVATE, State.HOLDING)
        self._stack.wait_until_heard()
        if not self._stack.status.instruction:
            self._say(next(self._instructions))
        self._camera.behaviour = 'well'

    def _transition(self, transition: int, state: str) -> None:
        assert self._stack.transition(transition), f'transition {transition} was refused'
        self._stack.wait_for_state(state)


def growth(samples: list[Sample]) -> tuple[float, float, float]:
    """
    :returns: the slope of the resident memory, kB per minute, its standard error (of readings
        taken for independent), and the median of the last third minus that of the second, kB.
    """
    samples = samples[len(samples) // 3 :]  # the first third is for caches and pools to fill
    minutes = [sample.elapsed_s / 60 for sample in samples]
    memory = [float(sample.resident_kb) for sample in samples]
    slope, intercept = statistics.linear_regression(minutes, memory)
    residuals = [y - (intercept + slope * x) for x, y in zip(minutes, memory, strict=True)]
    variance = sum(r * r for r in residuals) / max(1, len(residuals) - 2)
    spread = sum((x - statistics.fmean(minutes)) ** 2 for x in minutes)
    half = len(memory) // 2
    rise_kb = statistics.median(memory[half:]) - statistics.median(memory[:half])
    return slope, (variance / spread) ** 0.5, rise_kb


def medians(samples: list[Sample], parts: int) -> list[float]:
    """Of the resident memory in so many equal stretches of time, kB."""
    size = max(1, len(samples) // parts)
    memory = [sample.resident_kb for sample in samples]
    return [statistics.median(memory[i : i + size]) for i in range(0, size * parts, size)]


def faults_found(soak: Soak, stack: Robot, camera: Camera) -> list[str]:
    """What must not be, in sentences."""
    found: list[str] = []

    def must(condition: bool, text: Callable[[], str]) -> None:
        if not condition:
            found.append(text())

    odd = [gaps for status in stack.statuses if (gaps := unaccounted(status.counters))]
    must(not odd, lambda: f'{len(odd)} statuses do not balance, the first by {odd[0]}')
    received, published = soak.totals()
    lost = camera.shown - received  # the middleware keeps one, and overwrites it
    must(0 <= lost <= camera.shown / 1000, lambda: f'{lost} of {camera.shown} pictures not heard')
    must(
        published == len(stack.actions),
        lambda: f'{published} actions published, {len(stack.actions)} heard',
    )
    slope, error, rise_kb = growth(soak.samples)
    must(
        slope <= max(3 * error, MEMORY_NOISE_KB / 60),
        lambda: f'resident memory grows by {slope:.1f} +- {error:.1f} kB a minute',
    )
    must(rise_kb <= MEMORY_NOISE_KB, lambda: f'resident memory rose by {rise_kb:.0f} kB')
    settled, last = soak.samples[len(soak.samples) // 3], soak.samples[-1]
    for name in ('threads', 'descriptors'):
        was, is_now = getattr(settled, name), getattr(last, name)
        must(is_now <= was, lambda name=name, a=was, b=is_now: f'{name} grew from {a} to {b}')
    return found


def report(soak: Soak, stack: Robot, camera: Camera, found: list[str]) -> None:
    slope, error, rise_kb = growth(soak.samples)
    received, published = soak.totals()
    first, last = soak.samples[0], soak.samples[-1]
    figures = {
        'seconds': round(last.elapsed_s),
        'pictures_shown': camera.shown,
        'pictures_received': received,
        'actions_published': published,
        'actions_heard': len(stack.actions),
        'statuses_checked': len(stack.statuses),
        'resident_kb_first': first.resident_kb,
        'resident_kb_last': last.resident_kb,
        'resident_kb_per_minute': round(slope, 2),
        'resident_kb_per_minute_error': round(error, 2),
        'resident_kb_rise': round(rise_kb),
        'resident_kb_by_sixths': medians(soak.samples, parts=6),
        'threads': sorted({sample.threads for sample in soak.samples}),
        'descriptors': sorted({sample.descriptors for sample in soak.samples}),
        'disturbances': soak.disturbances,
        'found': found,
    }
    for name, value in figures.items():
        print(f'{name:32}{value}')
    print(json.dumps(figures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=1800.0, help='default: %(default)s')
    parser.add_argument('--model', default=SCRIPT, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    if options.seconds < 12 * SAMPLE_PERIOD_S:
        parser.error(f'--seconds is {options.seconds:g}, at least {12 * SAMPLE_PERIOD_S:g}')
    random.seed(options.seed)
    command = [sys.executable, '-m', 'vla_ros.cli.node', '--ros-args', '-r', f'__ns:={NAMESPACE}']
    for name, value in {'model': options.model, **PARAMETERS, 'instruction': 'go'}.items():
        command += ['-p', f'{name}:={value}']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    with tempfile.NamedTemporaryFile(prefix='vla_soak_', suffix='.log', delete=False) as log:
        print(f'{options.seconds:g} s, {options.model}; the node writes to {log.name}')
        node = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        with robot(NAMESPACE) as stack:
            stack.wait_for_state(State.HOLDING, timeout_s=600.0)
            stack.wait_until_heard()
            with Camera(stack) as camera:
                soak = Soak(stack, camera, node)
                soak.run(options.seconds, options.seed)
            last = len(stack.statuses)
            stack.wait_for(lambda: len(stack.statuses) > last + 2)  # one a second
            found = faults_found(soak, stack, camera)
            node.send_signal(signal.SIGINT)
            exit_code = node.wait(30)
            if exit_code:
                found.append(f'the node ended with {exit_code}')
            report(soak, stack, camera, found)
    finally:
        node.kill()
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
