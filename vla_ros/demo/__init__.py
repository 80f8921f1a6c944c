# SPDX-License-Identifier: Apache-2.0
"""The demonstrations that ``vla_demo`` shows."""
