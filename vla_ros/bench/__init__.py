"""Measures a policy: where an inference spends its time, and how near that is to what the machine
can do. Knows nothing of ROS.

In the order of use: combinations (what is compared), random_model (what is run, if need be), costs
(what an inference asks of a machine), memory (what fits in at once), measure, profile, machine
(what it can do at most), report, plot.
"""
