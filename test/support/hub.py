"""A small hub on this machine that answers like the real one."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import _tree_cache

from support.places import HUB_HOME, HUB_PORT

REPO = 'someone/tiny-vla'
COMMITS = {'main': 'a' * 40, 'v1': 'b' * 40}


class Hub:
    """Serves one model's files: under the name `main` all, under `v1` all as well."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, folder, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, folder, with_body=False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(('127.0.0.1', HUB_PORT), Handler)

    def answer(self, request: BaseHTTPRequestHandler, folder: Path, with_body: bool) -> None:
        self.asked.append(request.path)
        parts = request.path.split('?')[0].strip('/').split('/')
        code, headers, body = 404, {'X-Error-Code': 'RepoNotFound'}, b''
        if parts[:4] == ['api', 'models', *REPO.split('/')]:
            code, headers, body = self.listing(folder, parts[4], parts[5])
        elif parts[:3] == [*REPO.split('/'), 'resolve'] and parts[3] in COMMITS.values():
            body = (folder / parts[4]).read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            code, headers = 200, {'X-Repo-Commit': parts[3], 'ETag': f'"{etag}"'}
        request.send_response(code)
        for name, value in {**headers, 'Content-Length': str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    @staticmethod
    def listing(folder: Path, what: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        """What the model is (``revision``), or its files (``tree``)."""
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            return 404, {'X-Error-Code': 'RevisionNotFound'}, b''
        files = [
            {'type': 'file', 'path': file.name, 'size': file.stat().st_size, 'oid': '0' * 40}
            for file in sorted(folder.iterdir())
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
    hub.server.shutdown()
    thread.join(10)
    hub.server.server_close()
