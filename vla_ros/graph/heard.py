# SPDX-License-Identifier: Apache-2.0
"""Messages from other nodes, made safe for a terminal or a log."""

from __future__ import annotations

from typing import TypeVar

from vla_ros.text import printable

Message = TypeVar('Message')


def cleaned(message: Message) -> Message:
    """Make the texts of the message, and of messages in it, printable and bounded.

    :returns: the message itself.
    """
    fields = message.get_fields_and_field_types()  # type: ignore[attr-defined]
    for name, kind in fields.items():
        value = getattr(message, name)
        if kind == 'string':
            setattr(message, name, printable(value))
        elif kind == 'sequence<string>':
            setattr(message, name, [printable(text) for text in value])
        elif hasattr(value, 'get_fields_and_field_types'):
            cleaned(value)
    return message
