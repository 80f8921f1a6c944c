"""How well a policy does what it is told, in a simulated world, through the node.

``robot.py`` is the robot's side of the ROS graph; the rest is arithmetic and pictures, and knows
nothing of ROS.
"""
