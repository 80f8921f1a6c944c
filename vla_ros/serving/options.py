# SPDX-License-Identifier: Apache-2.0
"""What ``vla_serve`` is asked for, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla_ros.hosts import check_host, is_loopback, server_tls
from vla_ros.policy_request import PolicyRequest
from vla_ros.serving.errors import ServingError
from vla_ros.serving.replica import ReplicaLimits
from vla_ros.text import is_name


@dataclass(frozen=True)
class ServeOptions:
    """The options of a server.

    :param policies: by name; the name is the prefix of its paths, and an empty one has none.
    :param replicas: copies of each policy.
    :param gpus_per_replica: GPUs of a replica, may be a fraction; 0: the policy's device decides.
    :param max_batch_size: observations that are predicted at a time.
    :param address: of a Ray cluster, as ``ray.init`` takes it; empty: start one on
        this machine.
    :param token_digest: SHA-256 of the token; empty: no token is needed.
    :param keys: which key of a foreign client is which input.
    :param contracts: YAML file, as the node's.
    :param in_place: an update stops an old replica before it starts a new one.
    """

    policies: Mapping[str, PolicyRequest]
    replicas: int = 1
    gpus_per_replica: float = 0.0
    limits: ReplicaLimits = field(default_factory=ReplicaLimits)
    max_batch_size: int = 8
    host: str = '127.0.0.1'
    port: int = 8000
    address: str = ''
    token_digest: bytes = b''
    tls_cert: Path | None = None
    tls_key: Path | None = None
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    contracts: str = ''
    in_place: bool = False

    @property
    def starts_ray(self) -> bool:
        """Whether this process starts all that is needed, and ends it."""
        return not self.address

    @property
    def is_here(self) -> bool:
        """Whether all runs on this machine, and other machines have no business with it."""
        return self.starts_ray or is_loopback(self.address.rpartition(':')[0])

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_cert is not None

    def check(self, insecure: bool = False) -> None:
        """Check that the options do not contradict each other.

        :param insecure: whether others may reach the server without a token.
        :raises HostError: if they could, and may not; or if the certificate can't be used.
        :raises ServingError: if there is another contradiction.
        """
        otherwise = ', or --insecure if everyone may move the robots'
        check_host(self.host, bool(self.token_digest) or insecure, otherwise)
        if not 0 < self.port < 2**16:
            raise ServingError(f'{self.port} is not a port', value=self.port, expected='1 to 65535')
        for name in self.policies:
            if name and not (is_name(name) and name.isidentifier()):
                raise ServingError(
                    f'{name!r} cannot be the prefix of a policy',
                    value=name,
                    expected='letters, digits and _',
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ServingError('of --tls-cert and --tls-key one is missing', 'give both or none')
        if self.tls_cert is not None:
            server_tls(self.tls_cert, self.tls_key)
