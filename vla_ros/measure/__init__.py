# SPDX-License-Identifier: Apache-2.0
"""Measurements shared by bench, doctor, replay and evaluation. Independent of ROS."""
