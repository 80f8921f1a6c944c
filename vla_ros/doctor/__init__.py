# SPDX-License-Identifier: Apache-2.0
"""Checks of a set-up before anything moves; ``vla_doctor`` is the command.

Each check is a function. It takes the :class:`~vla_ros.doctor.facts.Facts` of the checks before it,
adds its own facts, and yields findings. Importing a check imports neither torch nor rclpy, since
one of these may be what is broken; a check imports them inside its function.
"""
