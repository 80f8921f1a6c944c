# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 release that is installed here, and what differs between releases."""

from __future__ import annotations

import os
import re
from importlib import metadata

_BEFORE_FAST_DDS_3 = ('humble', 'iron', 'jazzy')
_PROFILES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')  # old, new


def ros_distro() -> str:
    """Return the name of the ROS distribution, such as ``jazzy``; empty if unknown."""
    if os.environ.get('ROS_DISTRO'):
        return os.environ['ROS_DISTRO']
    names = (distribution.metadata['Name'] or '' for distribution in metadata.distributions())
    found = (re.fullmatch(r'ros-(\w+)-rclpy', name) for name in names)
    return next((match[1] for match in found if match), '')


def profile_variables(distro: str) -> tuple[str, str]:
    """Return the variable that names the profile of Fast DDS in this release, and the other one.

    From Kilted on rmw_fastrtps warns of the old one.
    """
    old, new = _PROFILES
    return (old, new) if distro in _BEFORE_FAST_DDS_3 else (new, old)
