# SPDX-License-Identifier: Apache-2.0
"""Options for a model that is on a server."""

from __future__ import annotations

import argparse
from dataclasses import replace

from vla_ros.cli.server_options import add_server_options, with_server
from vla_ros.policy_request import PolicyRequest


def test_each_is_a_field_of_the_request() -> None:
    parser = argparse.ArgumentParser()
    add_server_options(parser)
    request = PolicyRequest('ws://gpu:8000', unnorm_key='bridge_orig')
    assert with_server(request, parser.parse_args([])) == request
    given = ['--remote-token-file', 't', '--remote-ca-file', 'c', '--remote-image', 'png']
    files = {'remote_token_file': 't', 'remote_ca_file': 'c', 'remote_image': 'png'}
    assert with_server(request, parser.parse_args(given)) == replace(request, **files)
