# SPDX-License-Identifier: Apache-2.0
"""What the server of ``forked.py`` imports and tries once for all the processes it forks."""

import vla_ros.cli.node
import vla_ros.openvla
import vla_ros.ros.node  # noqa: F401
from vla_ros.images.cv_bridge import verdict

verdict()
