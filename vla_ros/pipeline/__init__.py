# SPDX-License-Identifier: Apache-2.0
"""Measurement of the whole node, from the camera's message to the action's."""
