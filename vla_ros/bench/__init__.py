"""Measures a policy: where an inference spends its time, and how near the machine's limits it is.

In the order of use: combinations (what is compared), memory (what fits in together), measure,
profile, ceilings (the machine's limits), report, plot. Independent of ROS.
"""
