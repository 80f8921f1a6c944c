# SPDX-License-Identifier: Apache-2.0
"""Exit codes of the commands. Those above 2 are a shell's: 128 + signal.

``vla_node`` also ends with 70, from ``ros/node.py``; docs/operation.md lists its codes.
"""

FAILED = 1
BAD_ARGUMENTS = 2  # as of argparse
INTERRUPTED = 130  # SIGINT
UNHEARD = 141  # SIGPIPE
