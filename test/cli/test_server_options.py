# SPDX-License-Identifier: Apache-2.0
"""Options for a model that is on a server."""

from __future__ import annotations

import argparse

from vla_ros.cli.server_options import add_server_options, server_options
from vla_ros.policy_request import PolicyRequest


def test_each_is_a_field_of_the_request() -> None:
    parser = argparse.ArgumentParser()
    add_server_options(parser)
    assert PolicyRequest(**server_options(parser.parse_args([]))) == PolicyRequest()
    given = ['--remote-token-file', 't', '--remote-ca-file', 'c', '--remote-image', 'png']
    asked = PolicyRequest(**server_options(parser.parse_args(given)))
    assert asked == PolicyRequest(remote_token_file='t', remote_ca_file='c', remote_image='png')
