# SPDX-License-Identifier: Apache-2.0
"""The server of the operator's page: state and images of robots to browsers, commands back.

Independent of ROS: ``operating/`` connects it with the graph. docs/console.md has a drawing.
"""
