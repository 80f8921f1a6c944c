# SPDX-License-Identifier: Apache-2.0
"""Replicas on Ray Serve. The only file that uses Ray.

Import it after :mod:`vla_ros.serving.ray_environment` has set the environment. The deployment of a
policy is itself the ingress: a robot's frames reach the replica through one proxy and no other
process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve._private import replica as ray_replica
from ray.serve.config import HTTPOptions

from vla_ros.motion import load_contracts
from vla_ros.policy_request import PolicyRequest
from vla_ros.serving.access import Access
from vla_ros.serving.application import Application
from vla_ros.serving.errors import ServingError
from vla_ros.serving.loading import load
from vla_ros.serving.options import ServeOptions
from vla_ros.serving.ports import check_ports
from vla_ros.serving.replica import Replica

_OBJECT_STORE_BYTES = 80_000_000  # Ray's least is 75 MB; images do not go through it
_SPARE_CONNECTIONS = 256  # connections that are turned away count, too
_END_S = 8.0  # for a replica that is replaced: 2 s more of requests, then the close of connections
_START_ATTEMPTS = 4
_ALL_ADDRESSES = '[::]:'
_CAUSE = re.compile(r'(?:ServingError|PolicyError): (.+)')

_log = logging.getLogger('vla_serve')


class PolicyServer:
    """The deployment: one replica in one process. Serve makes it, and calls the other methods."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, options: ServeOptions, request: PolicyRequest
    ) -> None:
        """Load the policy and let it check itself.

        :raises ServingError: if that fails; Serve then keeps the old replicas.
        """
        if options.is_here:
            _bind_to_loopback()
        _log_to_stderr()
        self._options = options
        load_this = functools.partial(load, request, options.max_batch_size)
        self._replica = Replica(load_this, options.limits)
        await self._replica.start()

    def __serve_build_asgi_app__(self) -> Application:
        """Return the application, after the constructor."""
        contracts = load_contracts(self._options.contracts or None)
        access = Access(self._options.token_digest)
        return Application(self._replica, access, self._options.keys, contracts)

    async def check_health(self) -> None:
        """Raise ServingError if this replica must be replaced."""
        self._replica.check()

    def __del__(self) -> None:
        """Tell the counters, when Serve ends this replica."""
        _log.info('this replica ends: %s', json.dumps(self._replica.counters.to_map()))


@contextlib.contextmanager
def cluster(options: ServeOptions, variables: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Start Ray on this machine, or connect to a cluster; end what was started.

    :param variables: the environment of the processes of a cluster.
    :param folder: for Ray's files, if it is started here.
    :returns: the address of the cluster.
    """
    if options.starts_ray:
        ray.init(
            num_cpus=1,  # as many processes are started in advance
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
    else:
        _join(options, variables)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        # Without serve.shutdown: it waits half a minute for replicas with open connections.
        ray.shutdown()


def _join(options: ServeOptions, variables: Mapping[str, str]) -> None:
    """Connect to a cluster.

    :raises ServingError: if it does not answer, or rejects this user's token.
    """
    try:
        ray.init(
            address=options.address,
            runtime_env=None if options.is_here else {'env_vars': dict(variables)},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ServingError(
            f'no Ray cluster answers at {options.address}',
            'start one with ray start --head, and copy ~/.ray/auth_token from its machine',
            value=options.address,
        ) from error


def deploy(options: ServeOptions, expose: bool = False) -> None:
    """Serve the policies, or replace those that are served by new versions of them.

    A new replica must have passed its self-check before an old one ends. Returns when all replicas
    answer.

    :param expose: whether ports may be open beside the server's own.
    :raises ServingError: if a policy can't be served; an old version then goes on.
    """
    logging.getLogger('ray.serve').setLevel(logging.WARNING)
    tls = {'ssl_certfile': options.tls_cert, 'ssl_keyfile': options.tls_key}
    http = HTTPOptions(
        host=options.host,
        port=options.port,
        **{name: str(file) for name, file in tls.items() if file is not None},
    )
    _start_proxies(http)
    for name, request in options.policies.items():
        try:
            serve.run(_bound(options, request), name=name or 'policy', route_prefix=f'/{name}')
        except (RuntimeError, TimeoutError) as error:
            raise ServingError(f'{request.model} is not served', _reason(error, name)) from error
    if options.starts_ray and not expose:
        check_ports(os.getpid(), {options.port})


def _start_proxies(http: HTTPOptions) -> None:
    """Start the controller and the proxies; on a busy machine that takes minutes.

    :raises ServingError: if they do not answer.
    """
    for _ in range(_START_ATTEMPTS):
        with contextlib.suppress(TimeoutError):  # after a minute; a second call waits on
            serve.start(http_options=http)
            return
    raise ServingError(
        f'the proxy on port {http.port} does not answer',
        'check that nothing else listens on the port, and that the machine has memory left',
    )


def _bound(options: ServeOptions, request: PolicyRequest) -> Any:
    deployment = serve.deployment(serve.ingress()(PolicyServer))
    # In a cluster replicas without a GPU are spread by their CPUs.
    needs_cpu = not (options.is_here or options.gpus_per_replica)
    return deployment.options(
        num_replicas=options.replicas,
        ray_actor_options={
            'num_cpus': 1 if needs_cpu else 0,
            'num_gpus': options.gpus_per_replica,
        },
        max_ongoing_requests=options.limits.max_sessions + _SPARE_CONNECTIONS,
        health_check_period_s=1.0,
        health_check_timeout_s=2.0,
        graceful_shutdown_timeout_s=_END_S,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=1,
        max_surge_percent=0 if options.in_place else 1,  # rounded up to one replica
    ).bind(options, request)


def _reason(error: Exception, name: str) -> str:
    """Return the line of a failure that names the cause, from the status or the error."""
    status = serve.status().applications.get(name or 'policy')
    texts = [str(error)]
    if status is not None:
        texts += [one.message for one in status.deployments.values()]
    found = _CAUSE.findall('\n'.join(texts))
    return found[-1] if found else texts[-1].strip().rpartition('\n')[2]


def _log_to_stderr() -> None:
    """Let the log of this replica reach the terminal of vla_serve, through Ray.

    Serve has turned sys.stderr into a file of its own.
    """
    _log.setLevel(logging.INFO)
    _log.addHandler(logging.StreamHandler(sys.__stderr__))


def _bind_to_loopback() -> None:
    """Let this replica's server for calls between deployments listen for this machine only.

    Ray 2.60 has no setting for it. Where a later Ray does without this function, the check of the
    ports says so.
    """
    original = getattr(ray_replica, 'add_port_to_grpc_server', None)
    if original is None:
        return

    def add_port(server: Any, address: str) -> int:
        port: int = original(server, address.replace(_ALL_ADDRESSES, '127.0.0.1:'))
        return port

    ray_replica.add_port_to_grpc_server = add_port
