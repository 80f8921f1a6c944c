# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: their definition, the checks, and the files generated from it.

Independent of ROS; ``ros/parameters.py`` declares and reads them.
"""
