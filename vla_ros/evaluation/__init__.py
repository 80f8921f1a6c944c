"""How well a policy does what it is told in a simulated world: numbers, and films.

Knows nothing of ROS: the robot's side of the graph is ``cli/simulated_robot.py``.
"""
