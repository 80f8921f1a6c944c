# SPDX-License-Identifier: Apache-2.0
"""A small hub on this machine that answers like the real one."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import _tree_cache

from support.places import HUB_HOME, HUB_PORT

REPO = 'someone/tiny-vla'
COMMITS = {'main': 'a' * 40, 'v1': 'b' * 40}


PORTAL = b'<!DOCTYPE html><html><body>Welcome to the hotel. Room number?</body></html>'


class Hub:
    """Serves one model's files: under the name `main` all, under `v1` all as well.

    ``is_silent``: it accepts connections and never answers. ``instead``: status, headers and body
    of every answer, as of a portal or a proxy. ``broken``: paths with this text are not answered.
    ``lost``: a file that is listed, and not there.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.is_silent = False
        self.instead: tuple[int, dict[str, str], bytes] | None = None
        self.broken = ''
        self.lost = ''
        self.commits = dict(COMMITS)
        self.is_over = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(OSError):  # the client has gone
                    hub.answer(self, folder, with_body=True)

            def do_HEAD(self) -> None:
                with suppress(OSError):
                    hub.answer(self, folder, with_body=False)

            do_CONNECT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(('127.0.0.1', HUB_PORT), Handler)

    def answer(self, request: BaseHTTPRequestHandler, folder: Path, with_body: bool) -> None:
        self.asked.append(request.path)
        if self.is_silent or (self.broken and self.broken in request.path):
            self.is_over.wait()
            self.instead = (404, {}, b'')  # so that nobody who still waits asks the next test's hub
        code, headers, body = self.instead or self.known(request, folder)
        request.send_response(code)
        for name, value in {**headers, 'Content-Length': str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def known(
        self, request: BaseHTTPRequestHandler, folder: Path
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a question about a model."""
        parts = request.path.split('?')[0].strip('/').split('/')
        if parts[:4] == ['api', 'models', *REPO.split('/')]:
            return self.listing(folder, parts[4], parts[5])
        if parts[:3] == [*REPO.split('/'), 'resolve'] and parts[3] in self.commits.values():
            if parts[4] == self.lost:
                return 404, {'X-Error-Code': 'EntryNotFound'}, b''
            body = folder.joinpath(*parts[4:]).read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            return 200, {'X-Repo-Commit': parts[3], 'ETag': f'"{etag}"'}, body
        return 404, {'X-Error-Code': 'RepoNotFound'}, b''

    def listing(self, folder: Path, what: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        """What the model is (``revision``), or its files (``tree``)."""
        commit = self.commits.get(revision, revision)
        if commit not in self.commits.values():
            return 404, {'X-Error-Code': 'RevisionNotFound'}, b''
        files = [
            {
                'type': 'file',
                'path': file.relative_to(folder).as_posix(),
                'size': file.stat().st_size,
                'oid': '0' * 40,
            }
            for file in sorted(folder.rglob('*'))
            if file.is_file()
        ]
        content = files if what == 'tree' else {'id': REPO, 'sha': commit, 'siblings': []}
        return 200, {'Content-Type': 'application/json'}, json.dumps(content).encode()


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    yield
    shutil.rmtree(HUB_HOME / 'hub', ignore_errors=True)
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()  # a commit never changes, but here


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Hub]:
    served = tmp_path / 'served'
    served.mkdir()
    for file in tiny_checkpoint.iterdir():
        (served / file.name).symlink_to(file)
    (served / 'modeling_prismatic.py').write_text('raise SystemExit("remote code was run")')
    (served / 'pytorch_model.bin').write_bytes(b'pickle')
    hub = Hub(served)
    thread = threading.Thread(target=hub.server.serve_forever)
    thread.start()
    yield hub
    hub.is_over.set()
    hub.server.shutdown()
    thread.join(10)
    hub.server.server_close()
