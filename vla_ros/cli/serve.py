# SPDX-License-Identifier: Apache-2.0
"""``vla_serve``: serve a policy to robots, simulators and benchmarks (docs/serving.md).

It starts what it needs, and serves until a signal ends it. With ``--address auto`` it
deploys to a cluster that ``ray start`` has made, and returns.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import assignment, count, positive
from vla_ros.console import catch_signals, complain, unbuffer_output
from vla_ros.errors import VlaError
from vla_ros.policy_request import PolicyRequest
from vla_ros.serving.inputs import read_keys
from vla_ros.serving.options import ServeOptions
from vla_ros.serving.replica import ReplicaLimits
from vla_ros.serving.server import serving
from vla_ros.wire.token import digest_of, read_token

_TICK_S = 0.2


def main(arguments: list[str] | None = None) -> int:
    unbuffer_output()
    asked = _parser().parse_args(arguments)
    logging.basicConfig(format='%(message)s', level=logging.INFO)
    try:
        options = _options(asked)
        options.check(asked.insecure)
        with serving(options, asked.expose) as server:
            print(f'serving {" ".join(server.urls)}; --address {server.cluster} replaces it')
            ended = catch_signals()  # now, since Ray has handlers of its own
            while options.starts_ray and not ended.is_set():
                time.sleep(_TICK_S)
    except VlaError as error:
        complain('vla_serve', error)
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    return 0


def _options(asked: argparse.Namespace) -> ServeOptions:
    """Return the options of the command line.

    :raises VlaError: if the token or the keys can't be read.
    """
    fields = ['revision', 'device', 'dtype', 'quantization', 'compile', 'unnorm_key']
    fields += ['contracts', 'preprocessing', 'rotate_180']
    shared = {name: getattr(asked, name) for name in fields}
    models = {'': asked.model, **dict(asked.also)}
    digest = b''
    if asked.token_file is not None:
        digest = digest_of(read_token(asked.token_file))
    return ServeOptions(
        {name: PolicyRequest(model=model, **shared) for name, model in models.items()},
        replicas=asked.replicas,
        gpus_per_replica=asked.gpus_per_replica,
        limits=ReplicaLimits(asked.max_sessions, asked.inference_timeout, asked.hang_timeout),
        max_batch_size=min(asked.max_batch, asked.max_sessions),
        host=asked.host,
        port=asked.port,
        address=asked.address,
        token_digest=digest,
        tls_cert=asked.tls_cert,
        tls_key=asked.tls_key,
        keys=read_keys(asked.keys),
        contracts=asked.contracts,
        in_place=asked.in_place,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='vla_serve', description=__doc__)
    add = parser.add_argument
    add('--model', required=True, help="as the node's parameter; served at /")
    add('--also', type=assignment, action='append', default=[], metavar='NAME:=MODEL')
    for name in ('revision', 'unnorm-key', 'contracts'):
        add(f'--{name}', default='', help="as the node's parameter")
    for name, default in (('device', 'auto'), ('dtype', 'auto'), ('quantization', 'none')):
        add(f'--{name}', default=default, help="as the node's (default: %(default)s)")
    add('--preprocessing', choices=('raw', 'training'), default='raw')
    add('--rotate-180', action='store_true')
    add('--compile', action='store_true')
    add('--replicas', type=count, default=1, help='copies of each policy (default: %(default)s)')
    add('--gpus-per-replica', type=positive, default=0.0, help='may be a fraction (default: none)')
    add('--max-sessions', type=count, default=16, help='robots of a replica (default: %(default)s)')
    add('--max-batch', type=count, default=8, help='observations a pass (default: %(default)s)')
    add('--inference-timeout', type=positive, default=5.0, help='[s] (default: %(default)s)')
    add('--hang-timeout', type=positive, default=10.0, help='[s] (default: %(default)s)')
    add('--keys', default='', help="a foreign client's keys: image=base_rgb,state=joints+gripper")
    add('--host', default='127.0.0.1', help='others than this machine need a token')
    add('--port', type=count, default=8000, help='(default: %(default)s)')
    add('--token-file', type=Path, help='file with the token that clients must show')
    add('--tls-cert', type=Path, help='PEM file; with it the addresses are wss://')
    add('--tls-key', type=Path, help='PEM file')
    add('--address', default='', help='of a Ray cluster: auto, or HOST:PORT (default: start one)')
    add('--in-place', action='store_true', help='an update needs no memory for a second replica')
    add('--insecure', action='store_true', help='let everyone connect, without a token')
    add('--expose', action='store_true', help='start even if other ports are open')
    return parser


if __name__ == '__main__':
    sys.exit(main())
