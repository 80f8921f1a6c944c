# SPDX-License-Identifier: Apache-2.0
"""Replay of a recording (a rosbag2): a policy's answers to the recorded images.

Deterministic: every image is used in turn, however long an inference takes; the same bag, policy
and settings give the same bytes. Independent of ROS.

In the order of use: bag (the recording), frames (the policy's inputs), actions (its answers, as
files), run (the whole replay), recorded (the actions and velocities in the recording), plot,
timeline (the same in the viewer of rerun), and compare (the differences of two replays).
"""
