# SPDX-License-Identifier: Apache-2.0
"""The check that a ROS message carries an instruction as it is. Pure functions; any thread."""

from __future__ import annotations

from vla_ros.text import quoted
from vla_ros.types import InstructionError


def carried(instruction: str) -> str:
    """Return the instruction, which a message carries unchanged.

    A message ends a text at its first NUL: the node would hear, and carry out, only what is before.

    :raises InstructionError: if it has a NUL, or is no text of Unicode.
    """
    try:
        instruction.encode()
    except UnicodeEncodeError as error:
        raise InstructionError(
            f'instruction {quoted(instruction)} is no text: {error.reason}', 'send plain text'
        ) from None
    if '\0' in instruction:
        raise InstructionError(
            f'instruction {quoted(instruction)} has a NUL, at which ROS would cut it off',
            'send plain text',
        )
    return instruction
