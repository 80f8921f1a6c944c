"""What commands have in common: output that appears at once, signals that come in good order."""

from __future__ import annotations

import io
import signal
import sys
import threading


def unbuffer_output() -> None:
    """Also through a pipe, as under launch."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def heed(*signals: signal.Signals) -> threading.Event:
    """From now on these set the event: no KeyboardInterrupt comes in the midst of anything.

    One that comes while rclpy converts a message would leave as an error of another kind. Of the
    main thread. Call it before ``rclpy.init``, which passes on what it hears, unless it is told to
    install no handlers.
    """
    heard = threading.Event()
    for number in signals:
        signal.signal(number, lambda *_: heard.set())
    return heard
