# SPDX-License-Identifier: Apache-2.0
"""A deterministic simulation of the whole, unchanged node, and an oracle that judges it.

A seed decides everything: which robots and parameters there are, what cameras, operators and
supervisors do, which faults occur, how long an inference takes, and which thread runs next. The
same seed gives the same trace, byte for byte, in every process.

========================  =====================================================================
``scheduler``             virtual time, and the baton that only one thread holds
``threads``               what stands in for threading, time, signal, os, faulthandler, watchdog
``imports``               gives the modules of ``vla_ros`` these stand-ins, and rclpy the fake
``graph``                 the fake ROS graph: topics, services, delivery
``rclpy_fake``            what stands in for rclpy's extension module; rclpy's Python is real
``executor``              rclpy's wait for ready callbacks, in virtual time
``policy``                a policy whose inferences take virtual time and fail on demand
``plan``                  what a seed decides beforehand: robots, policy, parameters, faults
``world``                 cameras, joints, operator and supervisor, as they live through the plan
``arms``                  joints behind a controller that complains about wrong commands
``faults``                all kinds of faults
``goal_faults``           those of goals
``live_faults``           those of parameters that are set in any state
``goal_client``           a client of a robot's action server
``oracle``                what the node promises, checked against all that went in and came out
``robot_oracle``          the same for one robot
``parts_oracle``          which observations follow from the images and states of one robot
``motion_oracle``         which twists and which gripper follow from the actions of one robot
``target_oracle``         which targets follow, with ``motion:=pose``
``joint_oracle``          when joints may move, with the other motions
``state_oracle``          which states follow from joint_states and ee_pose, by a contract
``parameter_oracle``      which parameters may be set when
``goal_oracle``           which goals begin, and how each of them ends
``simulation``            one seed from beginning to end
``run``                   ``make simulate``: many seeds on all cores
``mutants``, ``planted``  mistakes planted into the node, to see whether the oracle finds them
========================  =====================================================================

Limits: threads change only where they lock, wait, sleep, read a clock or talk to ROS, so a race
between two plain statements is not seen. The middleware is a model: no fragments, no discovery
traffic, no QoS events.
"""
