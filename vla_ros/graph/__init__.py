# SPDX-License-Identifier: Apache-2.0
"""Tools for every program on the ROS graph: stamps, images as messages, text from other nodes."""
