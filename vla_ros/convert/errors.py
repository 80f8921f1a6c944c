# SPDX-License-Identifier: Apache-2.0
"""The error of a conversion. Standard library only: the process that reads pickles imports it."""

from __future__ import annotations

from vla_ros.errors import VlaError


class ConvertError(VlaError):
    """A folder that can't be converted, or options that don't fit it."""
