"""Benchmark of a policy: durations of an inference's stages, against the machine's limits.

In the order of use: combinations, memory, measure, profile, ceilings (the machine's limits), report
and plot. Independent of ROS.
"""
