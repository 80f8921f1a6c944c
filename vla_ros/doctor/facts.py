# SPDX-License-Identifier: Apache-2.0
"""The request of the user, and the facts that the checks have found so far."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ros.parameters.definition import Parameters
from vla_ros.policy_request import Inspection, PolicyRequest

if TYPE_CHECKING:  # the doctor reports what is not installed
    import torch

    from vla_ros.motion.contract import Contract

# As a remapping that follows --ros-args: the node's name.
NODE_NAME = re.compile(r'(?:vla:)?__(?:node|name):=(.+)')


@dataclass(frozen=True)
class Setup:
    """The set-up to check.

    :param model: the model; empty: that of the parameters.
    :param assignments: parameters by name, as text; they take precedence over the file.
    :param parameters_file: file with more parameters.
    :param node: full name of the node, which selects the sections of the file.
    :param cameras: topic names; none: those of the node.
    :param ros_arguments: the arguments after ``--ros-args``.
    :param seconds: duration of listening to the cameras.
    """

    model: str = ''
    assignments: Mapping[str, str] = field(default_factory=dict)
    parameters_file: Path | None = None
    node: str = '/vla'
    cameras: tuple[str, ...] = ()
    ros_arguments: tuple[str, ...] = ()
    seconds: float = 3.0


@dataclass
class Facts:
    """The facts that the checks have found so far; None if unknown.

    :param overrides: parameters as set, by name; of any type, valid or not.
    :param request: the request for a policy, from the overrides of a valid type.
    :param parameters: all parameters of the node; rejected ones have their defaults.
    :param inspection: inspection of the policy; ``is_whole`` if its files allow loading it.
    :param fits: whether the memory suffices.
    :param unnorm_key: the current key.
    :param image_bytes: size of the largest image heard.
    :param image_age_s: median age of an image on arrival.
    :param rows: number of actions that one inference gives.
    :param inference_s: duration of an inference; ``inference_source`` says how it was found.
    """

    setup: Setup
    overrides: Mapping[str, Any] = field(default_factory=dict)
    request: PolicyRequest = field(default_factory=PolicyRequest)
    parameters: Parameters | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    inspection: Inspection | None = None
    is_whole: bool = False
    fits: bool | None = None
    unnorm_key: str = ''
    contract: Contract | None = None
    image_bytes: int | None = None
    image_age_s: float | None = None
    rows: int = 1
    inference_s: float | None = None
    inference_source: str = ''

    @property
    def is_remote(self) -> bool:
        """Whether the policy is on a server, of which another check tells."""
        from vla_ros.remote.address import is_address

        return is_address(self.request.model)

    @property
    def moves(self) -> bool:
        """Whether the node turns actions into motion."""
        return self.parameters is not None and self.parameters.motion != 'none'
