"""What a command prints appears at once, also through a pipe, as under launch."""

from __future__ import annotations

import io
import sys


def unbuffer_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
