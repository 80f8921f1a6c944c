# SPDX-License-Identifier: Apache-2.0
"""Benchmark of a policy: durations of an inference's stages, against the machine's limits.

In the order of use: combinations, memory, openvla (what only that model gives), measure, profile,
ceilings (the machine's limits), report and plot. Independent of ROS.
"""
