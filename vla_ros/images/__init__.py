# SPDX-License-Identifier: Apache-2.0
"""Conversion of camera messages to RGB, shared by the node and the readers of recordings.

Reads only the messages' fields, so messages of rclpy and of a bag reader work alike. Independent of
ROS.
"""
