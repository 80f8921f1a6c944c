# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the server: its own page, and who shows the token.

A browser lets every page that a user visits send requests to every address it can reach. So a
request is checked for the site that sent it, before anything else:

* ``Host`` must be a name of this machine's loopback, unless a token is needed. Otherwise a foreign
  name that is made to lead here (DNS rebinding) would be the same site.
* ``Origin``, which browsers send with each POST and each websocket, must be that host.
* ``Sec-Fetch-Site`` may name no other site, except to open the page itself.
* A POST must be JSON, which a foreign page can't send without asking first; it gets no answer.

Beyond loopback a user signs in with the token. The page then has a cookie that no script reads and
no other site sends (HttpOnly, SameSite=Strict). Programs may send ``Authorization: Bearer TOKEN``.
Independent of aiohttp. Used by the thread of the server's loop.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from vla_ros.clock import Clock, SystemClock
from vla_ros.errors import VlaError
from vla_ros.hosts import is_loopback
from vla_ros.web.limits import SESSION_S
from vla_ros.wire.token import HEADER, digest_of, is_authorized

COOKIE = 'vla_console'
_MAX_SESSIONS = 64


class ConsoleError(VlaError):
    """A server that can't start as asked."""


class Refused(VlaError):
    """A request that is not allowed.

    :param status: of the HTTP answer.
    :param name: of its counter in :class:`Refusals`.
    """

    def __init__(self, status: int, name: str, what: str, advice: str = '') -> None:
        super().__init__(what, advice)
        self.status, self.name = status, name


@dataclass
class Refusals:
    """Counters of what was refused.

    :param foreign: requests with another site's Host, Origin or Sec-Fetch-Site.
    :param unauthorized: requests without the token or a session.
    :param malformed: requests and messages that can't be read.
    :param too_large: bodies and messages beyond their limit.
    :param too_many: pages, commands and messages beyond their number.
    :param too_slow: connections and pages that were closed because they sent or took nothing.
    """

    foreign: int = 0
    unauthorized: int = 0
    malformed: int = 0
    too_large: int = 0
    too_many: int = 0
    too_slow: int = 0

    def count(self, name: str) -> None:
        """Add one to a counter."""
        setattr(self, name, getattr(self, name) + 1)


@dataclass
class Access:
    """Judges requests.

    :param digest: SHA-256 of the token; empty: none is needed, which only loopback allows.
    """

    digest: bytes = b''
    clock: Clock = SystemClock()
    refused: Refusals = field(default_factory=Refusals)

    def __post_init__(self) -> None:
        self._sessions: dict[bytes, float] = {}  # end by digest of the cookie

    @classmethod
    def with_token(cls, token: str) -> Access:
        """Return the access of those who know the token."""
        return cls(digest_of(token))

    def check_site(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Raise Refused if another site's page may have sent the request.

        :param headers: without regard to case.
        """
        host = headers.get('Host', '')
        if not self.digest and not _names_loopback(host):
            raise Refused(
                421, 'foreign', 'the Host is not this machine', 'open http://localhost:PORT/'
            )
        origin = headers.get('Origin')
        if origin is not None and _place(origin) != host.lower():
            raise Refused(403, 'foreign', 'the request comes from another site')
        opens_page = method == 'GET' and path == '/' and headers.get('Sec-Fetch-Mode') == 'navigate'
        if headers.get('Sec-Fetch-Site', 'none') not in ('same-origin', 'none') and not opens_page:
            raise Refused(403, 'foreign', 'the request comes from another site')
        kind = headers.get('Content-Type', '').partition(';')[0].strip().lower()
        if method == 'POST' and kind != 'application/json':
            raise Refused(415, 'foreign', 'the body is not JSON', 'send application/json')

    def check_token(self, cookie: str, headers: Mapping[str, str]) -> None:
        """Raise Refused unless the request has a session or the token."""
        if not self.is_signed_in(cookie, headers):
            raise Refused(401, 'unauthorized', 'not signed in', 'sign in with the token')

    def is_signed_in(self, cookie: str, headers: Mapping[str, str]) -> bool:
        """Return whether the request has a session or the token, if one is needed."""
        if not self.digest:
            return True
        if HEADER in headers:
            return is_authorized(headers[HEADER], self.digest)
        # By digest, so that the time of the comparison tells nothing of the cookie.
        ends_s = self._sessions.get(digest_of(cookie)) if cookie else None
        return ends_s is not None and self.clock.monotonic_s() < ends_s

    def sign_in(self, token: str) -> str:
        """Return the cookie of a new session.

        The number of tries is not limited: no token of 16 characters is guessed, and strangers
        could keep the operator out.

        :raises Refused: if the token is wrong.
        """
        if self.digest and not is_authorized(f'Bearer {token}', self.digest):
            raise Refused(401, 'unauthorized', 'the token is wrong')
        now_s = self.clock.monotonic_s()
        self._sessions = {key: end for key, end in self._sessions.items() if end > now_s}
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda key: self._sessions[key])]
        cookie = secrets.token_urlsafe(32)
        self._sessions[digest_of(cookie)] = now_s + SESSION_S
        return cookie

    def sign_out(self, cookie: str) -> None:
        """End the session of a cookie."""
        self._sessions.pop(digest_of(cookie), None)


def _place(origin: str) -> str:
    """Return host and port of an Origin; empty if it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ''


def _names_loopback(host: str) -> bool:
    """Return whether the Host, with or without a port, is a name of the loopback."""
    try:
        name = urlsplit(f'//{host}').hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
