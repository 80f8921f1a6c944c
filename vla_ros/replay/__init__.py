"""Shows a policy the pictures of a recording (a rosbag2) and writes down what it would have done.

Deterministic: every picture in its turn, however long an inference takes; the same bag, policy and
settings give the same bytes. Imports no ROS.

In the order of use: bag (what is recorded), policies (which are asked), frames (what they are
shown), actions (what they answer, as files), run (all of that), recorded and plot (what was done
then, beside it), compare (where two answers differ).
"""
