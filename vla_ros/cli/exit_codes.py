"""Exit codes of the commands. Beyond 1 and 2 they are those of a shell: 128 + signal.

``vla_node`` also ends with 70, from ``ros/node.py``; docs/operation.md lists its codes.
"""

FAILED = 1
BAD_ARGUMENTS = 2  # as of argparse
INTERRUPTED = 130  # SIGINT
UNHEARD = 141  # SIGPIPE
