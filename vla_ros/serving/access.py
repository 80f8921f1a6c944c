# SPDX-License-Identifier: Apache-2.0
"""Who may connect: clients with the token, and never a web page on its own.

Replicas get the token's digest only. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from vla_ros.wire.token import digest_of, is_authorized

Headers = Iterable[tuple[bytes, bytes]]


class Refusal(IntEnum):
    """Why a client may not connect, as the status of the reply."""

    UNAUTHORIZED = 401
    FOREIGN = 403


@dataclass(frozen=True)
class Access:
    """What a client must show.

    :param digest: SHA-256 of the token; empty: no token is needed.
    """

    digest: bytes = b''

    @classmethod
    def with_token(cls, token: str) -> Access:
        """Return the access of those who know the token."""
        return cls(digest_of(token))

    def refusal(self, headers: Headers) -> Refusal | None:
        """Return why a client with these headers may not connect, or None.

        The comparison takes as long for any token. Without a token, browsers are refused, which
        always send an Origin: any page that a user visits could talk to this machine otherwise.
        """
        given = {name.lower(): value for name, value in headers}
        if not self.digest:
            return Refusal.FOREIGN if b'origin' in given else None
        shown = given.get(b'authorization', b'').decode('latin-1')
        return None if is_authorized(shown, self.digest) else Refusal.UNAUTHORIZED
