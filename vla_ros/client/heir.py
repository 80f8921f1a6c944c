# SPDX-License-Identifier: Apache-2.0
"""A process that takes an instruction back if the process that gave it dies (``lease.py``).

It waits on standard input, and loads ROS only if that process ends without a word.
"""

from __future__ import annotations

import contextlib
import sys

from vla_ros.console import catch_signals

NOTHING_LEFT = b'nothing left to do'

_FOUND_WITHIN_S = 20.0  # for us and the node to find each other


def main() -> int:
    """Wait for the end of the other process, and return the exit code."""
    catch_signals()  # a service manager sends its signals to all processes of a service
    if sys.stdin.buffer.read() == NOTHING_LEFT:
        return 0
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from vla_ros.client.lease import Lease
    from vla_ros.client.vla_client import VlaClient

    instruction, *ros_arguments = sys.argv[1:]
    rclpy.init(args=ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('vla_check_heir')
    client = VlaClient(node=node)
    taken_back = Lease(client, instruction).take_back(_FOUND_WITHIN_S)
    client.close()
    node.destroy_node()
    rclpy.shutdown()
    done = 'was taken back' if taken_back else 'may be in force: no node confirmed its end'
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f'vla_check ended without a word; its instruction {done}', file=sys.stderr)
    return 0 if taken_back else 1


if __name__ == '__main__':
    sys.exit(main())
