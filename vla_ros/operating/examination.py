# SPDX-License-Identifier: Apache-2.0
"""The doctor's findings on a node as it runs: ``vla_doctor`` in a process, with its parameters.

It is a separate process, because it imports torch and takes seconds; it loads no policy.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.parameter import parameter_value_to_python

from vla_ros.errors import VlaError
from vla_ros.operating.reports import plain
from vla_ros.parameters.definition import DEFINITIONS
from vla_ros.text import printable
from vla_ros.web.messages import Finding

if TYPE_CHECKING:
    from vla_ros.operating.robot import Place

_LIMIT_S = 120.0
_ANSWER_S = 5.0
_MAX_FINDINGS = 100


class ExaminationError(VlaError):
    """A doctor that could not run."""


async def examine(parameters: Client, place: Place) -> tuple[Finding, ...]:
    """Return the doctor's findings on a node.

    :param parameters: of the service that tells the node's parameters.
    :raises ExaminationError: if the node or the doctor does not answer.
    """
    values = await _values(parameters, place.node_name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'now.yaml'
        file.write_text(json.dumps({place.node_name: {'ros__parameters': values}}))  # YAML, too
        # With patience: the node that is examined may be acting.
        command = ['nice', '-n', '10', sys.executable, '-m', 'vla_ros.cli.doctor', '--json']
        command += ['--params-file', str(file)]
        command += ['--ros-args', '-r', f'__ns:={place.namespace}', '-r', f'__node:={place.node}']
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), _LIMIT_S)
        except asyncio.TimeoutError:
            raise ExaminationError(
                f'the doctor took more than {_LIMIT_S:g} s', 'run vla_doctor in a terminal'
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
    return _findings(output)


async def _values(parameters: Client, node_name: str) -> dict[str, Any]:
    """Return the values that the node's parameters have now."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Any] = loop.create_future()

    def finish(response: Any) -> None:
        if not answered.done():
            answered.set_result(response)

    try:
        names = [*DEFINITIONS]
        future = parameters.call_async(GetParameters.Request(names=names))
        future.add_done_callback(lambda one: loop.call_soon_threadsafe(finish, one.result()))
        response = await asyncio.wait_for(answered, _ANSWER_S)
    except asyncio.TimeoutError:
        raise ExaminationError(
            f'{node_name} does not tell its parameters within {_ANSWER_S:g} s',
            'see whether its process runs, and answers ros2 param list',
        ) from None
    told = zip(names, map(parameter_value_to_python, response.values), strict=False)
    return {name: plain(value) for name, value in told if value is not None}


def _findings(output: bytes) -> tuple[Finding, ...]:
    try:
        told = json.loads(output)['findings']
        return tuple(
            Finding(one['level'], one['check'], printable(one['text']), printable(one['advice']))
            for one in told[:_MAX_FINDINGS]
        )
    except (ValueError, KeyError, TypeError):
        raise ExaminationError(
            'the doctor ended without findings', 'run vla_doctor in a terminal'
        ) from None
