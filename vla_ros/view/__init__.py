"""The operator's view: one picture of what a robot's policy saw, was told and answered.

Knows numpy and Pillow; refuses to know ROS, torch and threads.
"""

from vla_ros.view.operator_view import STATE_COLOURS, OperatorView, render

__all__ = ['STATE_COLOURS', 'OperatorView', 'render']
