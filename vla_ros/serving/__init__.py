# SPDX-License-Identifier: Apache-2.0
"""``vla_serve``: one policy server for many robots and many GPUs.

``replica.py`` has one copy of a policy and its sessions, ``openpi.py``, ``act.py`` and
``vla_eval.py`` the protocols as functions from bytes to requests and back, ``application.py`` the
connections. ``cluster.py`` alone uses Ray. Independent of ROS.
"""
