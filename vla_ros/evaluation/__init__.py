# SPDX-License-Identifier: Apache-2.0
"""Success of a policy in a simulated world, played through the node: numbers and films."""
