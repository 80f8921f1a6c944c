"""The ROS face: parameters, conversions, the node. Imports the rest; nobody imports it."""
