# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that load a policy themselves, for a model that is on a server.

Commands that start a node, or take its parameters as NAME:=VALUE, have them as parameters.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from vla_ros.policy_request import PolicyRequest

_NAMES = ('remote_token_file', 'remote_ca_file', 'remote_image')


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each parameter of a server."""
    group = parser.add_argument_group('a model of a server', "as the node's parameters")
    for name in _NAMES:
        group.add_argument(f'--{name.replace("_", "-")}', default=getattr(PolicyRequest, name))


def with_server(request: PolicyRequest, options: argparse.Namespace) -> PolicyRequest:
    """Return a request with these options."""
    given = {name: getattr(options, name) for name in _NAMES}
    return replace(request, **given)
