# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with made-up weights, for tests, demonstrations and benchmarks."""
