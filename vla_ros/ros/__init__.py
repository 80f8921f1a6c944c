"""The ROS side of the node: parameters, topics, services, lifecycle."""
