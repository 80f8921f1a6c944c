# SPDX-License-Identifier: Apache-2.0
"""The error of every message that can't be read or written."""

from __future__ import annotations

from vla_ros.errors import VlaError


class WireError(VlaError, ValueError):
    """A message that is malformed, beyond a limit, or not of the expected form."""
