"""Messages as others sent them, made fit for a terminal or a log."""

from __future__ import annotations

from typing import TypeVar

from vla_ros.text import printable

Message = TypeVar('Message')


def cleaned(message: Message) -> Message:
    """Make the message's own texts printable and bounded, whoever published it.

    :returns: the message itself.
    """
    fields = message.get_fields_and_field_types()  # type: ignore[attr-defined]
    for name, kind in fields.items():
        if kind == 'string':
            setattr(message, name, printable(getattr(message, name)))
    return message
