# SPDX-License-Identifier: Apache-2.0
"""Policies of servers in the registry: addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vla_ros.policy_request import PolicyRequest
from vla_ros.remote.address import ELSEWHERE, is_address, read_address
from vla_ros.types import PolicyError, PolicySpec, ProgressCallback

if TYPE_CHECKING:  # importing it needs msgpack, which no other kind of policy does
    from vla_ros.remote.dialects import Dialect
    from vla_ros.remote.policy import RemotePolicy

_OF_THE_SERVER = {  # and what they are when they are not set
    'revision': ('',),
    'device': ('auto', ELSEWHERE),
    'dtype': ('auto', ELSEWHERE),
    'quantization': ('none',),
    'compile': (False,),
    'recomputed_patches': (1.0,),
    'preprocessing': ('raw',),
    'rotate_180': (False,),
}


@dataclass(frozen=True)
class RemoteInspection:
    """The properties of a server's policy, from its metadata and the contract."""

    dialect: Dialect
    folder: None = None

    def check(self) -> str:
        """Return what the server tells."""
        return f'{self.dialect.info.model}: a policy of a server that answers'

    @property
    def unnorm_keys(self) -> tuple[str, ...]:
        """The data sets whose statistics it has; empty if it takes any key, or tells none."""
        return self.dialect.unnorm_keys

    def key(self, unnorm_key: str) -> str:
        """Return the key to use; an empty one selects the only one.

        :raises PolicyError: if there are no such statistics.
        """
        return self.dialect.spec(unnorm_key or None)[0]

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec.

        :raises PolicyError: if there are no such statistics.
        """
        return self.dialect.spec(unnorm_key)[1]

    def needed_bytes(self, request: PolicyRequest, robots: int = 1) -> None:
        """Return None, since the weights are elsewhere."""


class Remote:
    """The kind of ``ws://``, ``wss://``, ``http://`` and ``https://``."""

    def owns(self, model: str) -> bool:
        """Return whether the model is an address."""
        return is_address(model)

    def resolve(self, request: PolicyRequest) -> PolicyRequest:
        """Return the request without ``auto``.

        :raises PolicyError: if it asks for what is the server's.
        """
        address = read_address(request.model)
        for name, unset in _OF_THE_SERVER.items():
            value = getattr(request, name)
            if value not in unset:
                raise PolicyError(
                    f'{name} is {value!r}, and the policy is that of the server {address}',
                    f'leave {name} out here, and set it where the server is started',
                    value=value,
                )
        return replace(request, device=ELSEWHERE, dtype=ELSEWHERE)

    def inspect(self, request: PolicyRequest) -> RemoteInspection:
        """Ask the server, once.

        :raises PolicyError: if it does not answer within seconds, or tells too little.
        """
        self.resolve(request)
        with _needed_packages():
            from vla_ros.remote.network import Network
            from vla_ros.remote.server import Server

        server, network = Server(request), Network()
        try:
            connection, dialect = network.run(server.open())
            network.run(_end(connection))
            return RemoteInspection(dialect)
        finally:
            network.close()

    def recipe(self, request: PolicyRequest, center_crop: bool) -> dict[str, Any]:
        """Return the encoding of images; the rest is the server's."""
        return {'remote_image': request.remote_image}

    def load(
        self,
        request: PolicyRequest,
        center_crop: bool,
        max_batch_size: int,
        progress: ProgressCallback,
        repeatable: bool,
    ) -> RemotePolicy:
        """Wait for the server, and connect to it.

        :raises PolicyError: if a user must act first, or the server has no such policy.
        """
        self.resolve(request)
        with _needed_packages():
            from vla_ros.remote.policy import RemotePolicy

        return RemotePolicy.load(request, max_batch_size, progress)


@contextlib.contextmanager
def _needed_packages() -> Iterator[None]:
    """Make the import error of a package that only servers need an error for the user."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PolicyError(
            f'a policy of a server needs {error.name}, which is not installed',
            'pip install websockets msgpack',
        ) from error


async def _end(connection: Any) -> None:
    connection.abort()
