"""What bench, doctor, replay and evaluation measure with. Independent of ROS."""
