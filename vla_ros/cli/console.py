# SPDX-License-Identifier: Apache-2.0
"""``vla_console``: a web page that shows and operates robots (docs/console.md).

It finds the robots on the ROS graph. Open http://localhost:8080/ on this machine. Other machines
need --host, --token-file, and TLS unless the network is private.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import port
from vla_ros.console import catch_signals, complain, ignore_signals, say, unbuffer_output
from vla_ros.errors import VlaError
from vla_ros.hosts import is_loopback
from vla_ros.web.access import Access
from vla_ros.web.server import Address
from vla_ros.wire.token import read_token


def main(arguments: list[str] | None = None) -> int:
    unbuffer_output()
    argv = sys.argv[1:] if arguments is None else arguments
    own = argv[: argv.index('--ros-args')] if '--ros-args' in argv else argv
    asked = _parser().parse_args(own)
    address = Address(asked.host, asked.port, asked.tls_cert, asked.tls_key)
    ended = catch_signals()
    try:
        token = asked.token_file
        access = Access() if token is None else Access.with_token(read_token(token))
        if not is_loopback(address.host) and address.tls_cert is None:
            say('without TLS others on the network can read the token: give --tls-cert, --tls-key')
        from vla_ros.operating.run import run

        asyncio.run(run(access, address, argv[len(own) :], ended))
    except VlaError as error:
        complain('vla_console', error)
        return exit_codes.FAILED
    ignore_signals()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='vla_console', description=__doc__)
    add = parser.add_argument
    add('--host', default='127.0.0.1', help='others than this machine need a token')
    add('--port', type=port, default=8080, help='0: any that is free (default: %(default)s)')
    add('--token-file', type=Path, help='file with the token that users sign in with')
    add('--tls-cert', type=Path, help='PEM file; with it the page is at https://')
    add('--tls-key', type=Path, help='PEM file')
    return parser


if __name__ == '__main__':
    sys.exit(main())
