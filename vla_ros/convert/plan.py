# SPDX-License-Identifier: Apache-2.0
"""The content of a folder for the node, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vla_ros.convert.weights import Weight
from vla_ros.openvla.layout import Layout


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    :param weights: by the name to write.
    :param layout: None for plain OpenVLA.
    :param texts: files by name.
    """

    weights: Mapping[str, Weight]
    layout: Layout | None
    texts: Mapping[str, bytes]
