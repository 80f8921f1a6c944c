"""From camera messages to RGB, by one code for the node and for recordings.

Reads the messages' fields, whoever made the message: rclpy, or a reader of bags. Imports no ROS.
"""
