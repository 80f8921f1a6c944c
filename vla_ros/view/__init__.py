# SPDX-License-Identifier: Apache-2.0
"""The operator's view: one image of a policy's images, instruction and answer.

NumPy and Pillow only; independent of ROS, torch and threads.
"""

from vla_ros.view.operator_view import STATE_COLOURS, OperatorView, render

__all__ = ['STATE_COLOURS', 'OperatorView', 'render']
