"""Measurements shared by bench, doctor, replay and evaluation. Independent of ROS."""
