# SPDX-License-Identifier: Apache-2.0
"""A server from its start to its end: a folder, Ray's environment, replicas."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vla_ros.serving import ray_environment
from vla_ros.serving.errors import ServingError
from vla_ros.serving.options import ServeOptions


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    :param urls: of its policies.
    :param cluster: the address with which another call replaces its policies.
    """

    urls: tuple[str, ...]
    cluster: str


@contextlib.contextmanager
def serving(options: ServeOptions, expose: bool = False) -> Iterator[Serving]:
    """Serve policies; on one machine, until the block ends.

    Importing Ray takes a second. The options have been checked.

    :param expose: whether ports may be open beside the server's own.
    :raises ServingError: if Ray is not installed, or a policy can't be served.
    """
    # Short, since the paths of Ray's sockets must have less than 108 characters.
    with tempfile.TemporaryDirectory(prefix='vla-', dir='/tmp', ignore_cleanup_errors=True) as made:
        # Ray lets everyone write to its folder. The one around it is only its owner's.
        folder = Path(made) / 'ray'
        folder.mkdir()
        variables = ray_environment.environment(options, folder)
        ray_environment.apply(variables)
        ray_environment.protect_token(Path.home())
        try:
            from vla_ros.serving import cluster
        except ImportError as error:
            raise ServingError(
                f'Ray is not installed ({error})',
                'run make setup-serve, or pip install -r requirements/serve.txt',
            ) from error
        with cluster.cluster(options, variables, folder) as address:
            cluster.deploy(options, expose)
            scheme = 'wss' if options.has_tls else 'ws'
            base = f'{scheme}://{options.host}:{options.port}/'
            yield Serving(tuple(base + name for name in options.policies), address)
