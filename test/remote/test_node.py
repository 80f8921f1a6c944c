# SPDX-License-Identifier: Apache-2.0
"""The whole node with a policy on a server that goes, comes and changes."""

from __future__ import annotations

from dataclasses import replace

from support.graph import noise
from support.in_process import unstarted_node
from support.servers import SERVED, FakeServer, fake_server, free_port
from vla_ros.reasons import Reason, State
from vla_ros.ros.loading import load_policy


def test_a_node_whose_server_goes_comes_and_changes() -> None:
    port = free_port()
    url = f'ws://localhost:{port}'
    with unstarted_node(
        load_policy,
        model=url,
        unnorm_key='fake',
        instruction='push',
        max_action_age_s=30.0,
        inference_timeout_s=20.0,
        max_image_age_s=20.0,
    ) as (robot, _):
        robot.wait_for_state(State.LOADING, f'waits for {url}')
        robot.wait_for_state(State.LOADING, 'Connection refused')
        with fake_server(port=port) as server:
            robot.wait_for_state(State.HOLDING)
            robot.wait_until_heard()
            robot.recovers()
            assert robot.actions[-1].unnorm_key == 'fake'
            assert robot.status.policy.model == f'{url} (tiny)'
        robot.see(noise())
        robot.wait_for_state(State.HOLDING, Reason.POLICY_FAILED, url)
        with fake_server(port=port) as server:
            robot.recovers()
            server.kill_all()
            robot.recovers()
        server = FakeServer(port=port)
        server.metadata = replace(SERVED, identity='2').to_metadata()
        server.start()
        try:
            robot.see(noise())
            robot.wait_for_state(State.ERROR, Reason.CHECKPOINT_CHANGED, 'another policy')
        finally:
            server.stop()
