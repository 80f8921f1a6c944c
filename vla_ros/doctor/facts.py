"""What the user asked for, and what the checks have found out so far."""

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

    from vla_ros.motion.contract import ActionContract

# As a remapping that follows --ros-args: the node's name.
NODE_NAME = re.compile(r'(?:vla:)?__(?:node|name):=(.+)')


@dataclass(frozen=True)
class Setup:
    """
    :param model: empty: as the parameters say.
    :param assignments: parameters by name, as text; they win over the file.
    :param parameters_file: sets more.
    :param node: full name of the node, by which the file is read.
    :param cameras: topic names; none: the node's own.
    :param ros_arguments: what followed ``--ros-args``.
    :param seconds: how long to listen to the cameras.
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
    """None, where it is not known.

    :param overrides: parameters as set, by name; of any type, right or wrong.
    :param request: of these, those that say which policy, and are of the right type.
    :param parameters: all of the node's, those that were refused by default.
    :param inspection: of the policy; ``is_whole`` if it could be loaded, as far as files tell.
    :param fits: whether the memory is enough.
    :param unnorm_key: the one in force.
    :param picture_bytes: of the largest picture heard.
    :param picture_age_s: when a picture comes, its median.
    :param inference_s: what an action takes, and ``inference_source`` how that is known.
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
    contract: ActionContract | None = None
    picture_bytes: int | None = None
    picture_age_s: float | None = None
    inference_s: float | None = None
    inference_source: str = ''

    @property
    def moves(self) -> bool:
        """Whether the node makes motion of the actions."""
        return self.parameters is not None and self.parameters.motion != 'none'
