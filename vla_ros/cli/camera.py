# SPDX-License-Identifier: Apache-2.0
"""``vla_camera``: publish image files as a camera does; for the demo and for trials."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.console import EndRequest, catch_signals, complain


def main(arguments: list[str] | None = None) -> int:
    stopped = catch_signals()  # also for a Ctrl-C during the imports that follow
    return _publish(sys.argv if arguments is None else ['vla_camera', *arguments], stopped)


def _publish(argv: list[str], stopped: EndRequest) -> int:
    from rclpy.utilities import remove_ros_args

    from vla_ros.demo.file_camera import publish_files
    from vla_ros.images.files import UnreadableImage

    parser = argparse.ArgumentParser(prog='vla_camera', description=__doc__)
    parser.add_argument('files', type=Path, nargs='+', help='image files; published at 640x480')
    parser.add_argument('--rate', type=float, default=30.0, help='rate [Hz] (default: %(default)s)')
    parser.add_argument('--best-effort', action='store_true', help='QoS of many camera drivers')
    options = parser.parse_args(remove_ros_args(argv)[1:])
    if not 0 < options.rate <= 1000:
        parser.error(f'--rate is {options.rate:g} Hz; allowed: above 0 and at most 1000')
    try:
        publish_files(options.files, options.rate, options.best_effort, argv, stopped)
    except UnreadableImage as error:
        complain('vla_camera', error)
        return exit_codes.FAILED
    return 0


if __name__ == '__main__':
    sys.exit(main())
