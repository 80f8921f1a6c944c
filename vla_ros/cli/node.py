"""``vla_node``: the node in a process of its own, and what its end tells."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

EXIT_BAD_ARGUMENTS = 2


def main(arguments: list[str] | None = None, **options: Any) -> int:
    """Run the node; the exit code is 0, 2 (unusable arguments) or 70 (a hung inference).

    :param options: for VlaNode, such as another ``load_policy``.
    """
    try:
        return _run(arguments, options)
    except KeyboardInterrupt:  # while Python imports
        return 0


def _run(arguments: list[str] | None, options: dict[str, Any]) -> int:
    # Imported here so that Ctrl-C ends the imports, too, without a traceback.
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.signals import SignalHandlerOptions

    from vla_ros.ros.console import heed, unbuffer_output
    from vla_ros.ros.executor import GuardedExecutor
    from vla_ros.ros.node import VlaNode
    from vla_ros.ros.parameters import ParameterError

    unbuffer_output()
    stopped = heed(signal.SIGINT, signal.SIGTERM)
    try:
        # Its own handlers would close the context, and with it the way to say that robots stop.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = VlaNode(**options)
    except (ParameterError, RuntimeError) as error:
        print(f'vla_node: unusable arguments: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return EXIT_BAD_ARGUMENTS
    executor = GuardedExecutor(node.requests)
    executor.add_node(node)
    try:
        node.autostart()
        # Not spin_until_future_complete: it adds a callback to the future every time it wakes.
        node.ended.add_done_callback(lambda _: executor.wake())
        while not (node.ended.done() or stopped.is_set()):
            executor.spin_once()
        exit_code = node.ended.result() or 0
    except ExternalShutdownException:
        exit_code = 0
    except Exception:
        # Where the context is gone, a callback was publishing when the signal came.
        exit_code = 1 if node.context.ok() else 0
        if exit_code:
            traceback.print_exc()
    ended = node.close()
    rclpy.try_shutdown()
    if not ended:
        os._exit(exit_code)  # the thread that does not end would keep the interpreter
    return exit_code


if __name__ == '__main__':
    sys.exit(main())
