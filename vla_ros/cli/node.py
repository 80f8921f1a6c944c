# SPDX-License-Identifier: Apache-2.0
"""``vla_node``: the node in its own process.

A watchdog process ends it when it is stuck, even if a native call in the policy's thread keeps the
interpreter's lock.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from vla_ros.cli import exit_codes
from vla_ros.watchdog import Watchdog

if TYPE_CHECKING:
    from vla_ros.console import EndRequest
    from vla_ros.ros.executor import GuardedExecutor
    from vla_ros.ros.node import VlaNode

_SPIN_S = 0.02
_START_LIMIT_S = 120.0  # imports from a slow disk, and the middleware


def main(arguments: list[str] | None = None, **options: Any) -> int:
    """Run the node, and end the process; return only if it cannot start.

    The exit code is 0, 2 (unusable arguments) or 70 (a hung inference, noticed in ``ros/node.py``).

    :param options: arguments of VlaNode, such as another ``load_policy``.
    """
    try:
        return _run(arguments, options)
    except KeyboardInterrupt:  # while Python imports
        return 0


def _run(arguments: list[str] | None, options: dict[str, Any]) -> int:
    if sys.stderr is not None:  # None after 2>&-
        faulthandler.enable()  # prints every thread's stack when the process is aborted or crashes
    watchdog = Watchdog('vla_node')
    watchdog.start()
    watchdog.beat(_START_LIMIT_S, f'the start may take {_START_LIMIT_S:g} s')
    # Imported here, so that Ctrl-C during the imports prints no traceback.
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from vla_ros.console import catch_signals, unbuffer_output
    from vla_ros.graph.arguments import ArgumentsError, usable_arguments
    from vla_ros.parameters.check import ParameterError
    from vla_ros.ros.executor import GuardedExecutor
    from vla_ros.ros.log import WarningsToLog
    from vla_ros.ros.node import CLOSE_LIMIT_S, VlaNode
    from vla_ros.shared_memory import remove_dead_segments

    unbuffer_output()
    stopped = catch_signals()
    removed = remove_dead_segments()
    try:
        with usable_arguments():
            # rclpy's handlers would close the context, and we could not tell robots to stop.
            rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
            node = VlaNode(beat=watchdog.beat, **options)
    except (ParameterError, ArgumentsError) as error:
        print(f'vla_node: unusable arguments: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return exit_codes.BAD_ARGUMENTS
    watchdog.warn = lambda text: node.get_logger().error(text)
    logging.getLogger('vla_ros').addHandler(WarningsToLog(node.get_logger()))
    if removed.segments:
        node.get_logger().info(str(removed))
    executor = GuardedExecutor(node.requests)
    executor.add_node(node)
    exit_code = _spin(node, executor, stopped)
    watchdog.end(CLOSE_LIMIT_S, f'the end of the process may take {CLOSE_LIMIT_S:g} s')
    _end_goals(node, executor)
    node.close()
    rclpy.try_shutdown()
    # All is closed, and the output is not buffered. A thread that hangs would keep the interpreter,
    # whose end with torch takes more seconds on a busy machine than the watchdog allows.
    os._exit(exit_code)


def _spin(node: VlaNode, executor: GuardedExecutor, stopped: EndRequest) -> int:
    """Spin until the node or a signal requests the end, and return the exit code."""
    from rclpy.executors import ExternalShutdownException

    try:
        node.autostart()
        # Not spin_until_future_complete: it adds a callback to the future every time it wakes.
        node.exit_code.add_done_callback(lambda _: executor.wake())
        while not (node.exit_code.done() or stopped.is_set()):
            executor.spin_once()
        return node.exit_code.result() or 0
    except ExternalShutdownException:
        return 0
    except Exception:
        # Without a context, a callback was publishing when the signal arrived.
        if not node.context.ok():
            return 0
        traceback.print_exc()
        return exit_codes.FAILED


def _end_goals(node: VlaNode, executor: GuardedExecutor) -> None:
    """Give open goals their results, which the executor sends."""
    try:
        while node.context.ok() and node.end_goals():
            executor.spin_once(timeout_sec=_SPIN_S)
    except Exception:  # the process ends anyway
        traceback.print_exc()


if __name__ == '__main__':
    sys.exit(main())
