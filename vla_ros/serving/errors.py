# SPDX-License-Identifier: Apache-2.0
"""The errors of the server."""

from __future__ import annotations

from vla_ros.errors import VlaError


class ServingError(VlaError):
    """A server that can't start, or whose policy has failed."""


class ServerFull(VlaError):
    """A server on which every session is taken."""
