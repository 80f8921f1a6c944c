# SPDX-License-Identifier: Apache-2.0
"""The whole node with a policy on a server that goes, comes and changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState

from support.graph import noise, running_node
from support.in_process import unstarted_node
from support.rest_servers import CONTRACT
from support.servers import SERVED, FakeServer, fake_server
from vla_ros.reasons import Reason, State
from vla_ros.ros.loading import load_policy
from vla_ros.serving.ports import free_port
from vla_ros.wire import pack


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


def test_whom_it_waits_for_is_in_rosout() -> None:
    """The rooms below ROS write to Python's log; the node's process takes it to its own."""
    with running_node(f'model:=ws://localhost:{free_port()}') as running:
        heard: list[Log] = []
        kept = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        running.robot.create_subscription(Log, '/rosout', heard.append, kept)
        running.robot.wait_for(
            lambda: any('Connection refused' in one.msg and one.level == 30 for one in heard)
        )


def test_a_served_pi0_moves_a_robot(tmp_path: Path) -> None:
    """Two cameras, a state and chunks of ten rows, by the contract alone."""
    file = tmp_path / 'contracts.yaml'
    file.write_text(CONTRACT)

    async def act(connection: Any, request: Any) -> None:
        rows = np.zeros((10, 7))
        rows[:, 0] = 0.005 + 1e-6 * request['observation/image'].mean()
        rows[:, 1] = 1e-4 * len(request['prompt'])
        await connection.send(pack({'actions': rows}))

    with fake_server() as server:
        server.metadata, server.act = {}, act
        with unstarted_node(
            load_policy,
            model=server.url,
            unnorm_key='pi0',
            contracts=str(file),
            instruction='push',
            motion='twist',
            frame_id='base',
            inference_timeout_s=20.0,
            max_image_age_s=20.0,
            max_action_age_s=30.0,
        ) as (robot, _):
            twists: list[TwistStamped] = []
            robot.create_subscription(TwistStamped, 'twist', twists.append, 10)
            cameras = [
                robot.create_publisher(Image, f'{name}/image', 1) for name in ('image', 'wrist')
            ]
            joints = robot.create_publisher(JointState, 'joint_states', 1)

            def moves() -> bool:
                stamp = robot.get_clock().now().to_msg()
                state = JointState(name=['j1', 'j2'], position=[0.25, 0.5])
                for publisher, message in (*((one, noise()) for one in cameras), (joints, state)):
                    message.header.stamp = stamp
                    publisher.publish(message)
                return any(one.twist.linear.x > 0.05 for one in twists)

            robot.wait_for(moves)
            assert robot.actions[-1].horizon == 10 and robot.actions[-1].names[0] == 'x'
            assert server.requests[-1]['observation/state'].tolist() == [0.25, 0.5]
            assert server.requests[-1]['images']['wrist'].shape == (48, 64, 3)
