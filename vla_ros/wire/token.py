# SPDX-License-Identifier: Apache-2.0
"""The token that a client shows to a server, in the header of its first request.

openpi's clients write ``Authorization: Api-Key TOKEN``; ``Bearer TOKEN`` is the usual form. Tokens
come from files, which only their owner should read, and appear in no error. Servers keep digests.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from vla_ros.files import read_text
from vla_ros.wire.errors import WireError

HEADER = 'Authorization'
_TOKEN = re.compile(r'[\x21-\x7e]{16,512}')
_HEADER = re.compile(r'(?:api-key|bearer) +([\x21-\x7e]{1,512})', re.IGNORECASE)
_MAX_FILE_BYTES = 4096


def read_token(path: Path) -> str:
    """Return the token in a file.

    :raises FileError: if the file can't be read.
    :raises WireError: if it is not one line of 16 to 512 visible ASCII characters.
    """
    token = read_text(path, _MAX_FILE_BYTES).strip()
    if not _TOKEN.fullmatch(token):
        raise WireError(
            f'{path} holds no token',
            'write one into it, for example by: openssl rand -hex 32',
            expected='one line of 16 to 512 visible ASCII characters',
        )
    return token


def authorization(token: str) -> str:
    """Return the value of the header for a token."""
    return f'Bearer {token}'


def digest_of(token: str) -> bytes:
    """Return the SHA-256 of a token, or of whatever a stranger sends in its place."""
    return hashlib.sha256(token.encode(errors='surrogatepass')).digest()


def is_authorized(header: str | None, digest: bytes) -> bool:
    """Return whether a request's header has the token, in a time that does not depend on it.

    :param digest: of the token, see :func:`digest_of`.
    """
    match = _HEADER.fullmatch((header or '').strip())
    return hmac.compare_digest(digest_of(match[1] if match else ''), digest)
