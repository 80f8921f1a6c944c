# SPDX-License-Identifier: Apache-2.0
"""Folders of the repository, and the environment of the tests: a ROS graph and a hub of their own.

conftest.py imports this first: the variables must be set before rclpy and huggingface_hub are
imported. Processes that tests start inherit them.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path

from vla_ros.release import profile_variables, ros_distro

# Without it, idle threads of torch spin, and take the cores from the other processes of a test.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
# Before rclpy is imported: other tests and robots on this network must not be heard.
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ['ROS_LOCALHOST_ONLY'] = '1'
# Each process of pytest-xdist has a graph of its own, too, and so has another test run.
_WORKER = os.environ.get('PYTEST_XDIST_WORKER', '')  # gw0, gw1, ...
if _WORKER:  # the processes share the cores; with more threads they wait for each other
    os.environ.setdefault('OMP_NUM_THREADS', '1')
_RUN = os.getppid() + 1 + int(_WORKER.removeprefix('gw')) if _WORKER else os.getpid()
os.environ['ROS_DOMAIN_ID'] = str(1 + _RUN % 100)
_READ, _OTHER = profile_variables(ros_distro())
os.environ[_READ] = str(Path(__file__).parent / 'discovery.xml')
os.environ.pop(_OTHER, None)  # ROS may warn of it, in the output of a command
# What an operator has stopped on this machine is none of the tests' business.
ROS_HOME = Path(tempfile.mkdtemp(prefix='vla_ros_home_'))
os.environ['ROS_HOME'] = str(ROS_HOME)
# Under nohup the node would ignore SIGHUP, too, as it should.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


# Before huggingface_hub is imported: the tests' hub is the one that support/hub.py starts here.
HUB_PORT = _free_port()
HUB_HOME = Path(tempfile.mkdtemp(prefix='vla_ros_hub_'))
os.environ['HF_ENDPOINT'] = f'http://127.0.0.1:{HUB_PORT}'
os.environ['HF_HOME'] = str(HUB_HOME)
os.environ['HF_HUB_DISABLE_XET'] = '1'
os.environ.pop('HF_TOKEN', None)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / 'test' / 'golden'
