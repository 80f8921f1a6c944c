# SPDX-License-Identifier: Apache-2.0
"""Asks a policy in few words: a session for each question."""

from __future__ import annotations

from collections.abc import Sequence

from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.request import Request
from vla_ros.openvla.session import OpenVLASession
from vla_ros.types import Observation, PolicyError, Prediction


def asked(policy: OpenVLAPolicy, request: Request) -> tuple[OpenVLASession, Observation]:
    """A new session that has the request's draft, and what it is asked about."""
    session = policy.session(request.unnorm_key)
    session.draft = request.draft
    cameras = session.spec.cameras
    images = dict(zip(cameras, request.images, strict=True))
    stamps_ns = dict.fromkeys(cameras, 0)
    return session, Observation(images, request.instruction, stamps_ns, request.state)


def predict(policy: OpenVLAPolicy, requests: Sequence[Request]) -> list[Prediction | PolicyError]:
    """All in one batch, each in a session of its own."""
    return policy.predict([asked(policy, request) for request in requests])
