# SPDX-License-Identifier: Apache-2.0
"""A REST server of a policy in a thread of this process, which answers as the test says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vla_ros.wire import unpack_body

# Of a data set whose policy a foreign server has.
CONTRACT = """
pi0:
  robot: Panda
  period_s: 0.05
  frame: base
  metres_per_unit: 1.0
  rotation: rpy
  radians_per_unit: 1.0
  gripper_closed: 0
  gripper_open: 1
  max_linear_m_s: 1.0
  max_angular_rad_s: 1.0
  center_crop: false
  source: a test
  state:
    - value: joints
      joints: [j1, j2]
      zero: 0
      unit: 1
  server:
    images: {image: observation/image, wrist: [images, wrist]}
    state: observation/state
    prompt: prompt
    rows: 10
"""


class RestServer(ThreadingHTTPServer):
    """``act`` gets each request and its handler, and returns the body, or None after its own."""

    daemon_threads = True

    def __init__(self, act: Callable[[Any, Any], bytes | None]) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.act = act
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/act'

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client may go at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: RestServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.server.requests.append(unpack_body(body)[0])
        self.server.headers.append(dict(self.headers))
        answer = self.server.act(self.server.requests[-1], self)
        if answer is not None:
            self.send_response(200)
            self.send_header('Content-Length', str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def rest_server(act: Callable[[Any, Any], bytes | None]) -> Iterator[RestServer]:
    server = RestServer(act)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
