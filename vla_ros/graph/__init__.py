"""Tools for any program on the ROS graph: stamps, images as messages, text from others."""
