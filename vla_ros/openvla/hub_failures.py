# SPDX-License-Identifier: Apache-2.0
"""Failures of the hub's client as sentences: the cause, and what to do.

huggingface_hub raises errors of its own, of its HTTP client, of the JSON parser and of the system.
The HTTP client's are told by their names, because its package changes (requests, httpx, httpx2).
Any thread.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vla_ros.openvla.errors import CheckpointError

_CONNECT = 'check the network and HF_ENDPOINT, or download it elsewhere and set model to the folder'
_PROXY = 'log in to the network, or correct HTTPS_PROXY and NO_PROXY'
_STATUS = {
    401: 'correct HF_TOKEN, or log in with `hf auth login`',
    403: 'set HF_TOKEN to a token that may read it',
    407: f'{_PROXY}: it is the answer of a proxy that asks for a password',
    429: 'wait, or set HF_TOKEN: it has had too many requests from here',
}
_ADDRESS = ('InvalidURL', 'UnsupportedProtocol', 'LocalProtocolError', 'MissingSchema')
_SILENT = ('TimeoutException', 'Timeout', 'TimeoutError')
_UNREACHABLE = ('TransportError', 'RequestException', 'ConnectionError')
# Answers that the client cannot read, by whichever part of it stumbles over them.
_GARBLED = (JSONDecodeError, UnicodeError, KeyError, TypeError, AttributeError, FileMetadataError)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class About(Enum):
    """The subject of a failure."""

    NAME = auto()  # no model can have this name or revision, also none in the cache
    MODEL = auto()  # the hub does not give this model
    WAY = auto()  # the hub could not be asked


class HubFailure(Exception):
    """A question to the hub that failed.

    :param cause: what failed, as a clause.
    :param advice: what to do.
    """

    def __init__(self, cause: str, advice: str, about: About = About.WAY) -> None:
        super().__init__(cause)
        self.cause = cause
        self.advice = advice
        self.about = about

    def error(self, repo_id: str) -> CheckpointError:
        """Return the error for a model that is not in the cache."""
        before = 'it is not in the local cache, and ' if self.about is About.WAY else ''
        return CheckpointError(
            f'model {repo_id!r}: {before}{self.cause}',
            f'{self.advice}; if a folder is meant: {Path.cwd()} has none of this name',
        )


@contextmanager
def hub_calls(revision: str | None) -> Iterator[None]:
    """Raise every failure of the hub's client as one that the user can fix.

    :raises HubFailure: for each.
    """
    try:
        yield
    except Exception as error:  # the client passes on what its own libraries raise
        raise _failure(list(_chain(error)), revision) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _failure(chain: list[BaseException], revision: str | None) -> HubFailure:
    for tell in (_refused, _answered, _unanswered, _unreadable, _unwritable):
        for error in chain:
            failure = tell(error, revision)
            if failure is not None:
                return failure
    about = About.NAME if isinstance(chain[0], ValueError) else About.WAY
    return HubFailure(_first_line(chain[0]), 'correct it', about)


def _refused(error: BaseException, revision: str | None) -> HubFailure | None:
    """Return the failure if the hub, or its client, rejects this model."""
    if isinstance(error, HFValidationError):
        return HubFailure(str(error), 'correct the name', About.NAME)
    if isinstance(error, RevisionNotFoundError):
        return HubFailure(
            f'it has no revision {revision!r}', 'name a branch, tag or commit of it', About.NAME
        )
    if isinstance(error, GatedRepoError):
        return HubFailure(
            'access to it must be granted',
            'log in with `hf auth login` or set HF_TOKEN',
            About.MODEL,
        )
    if isinstance(error, RepositoryNotFoundError):
        return HubFailure(
            'the hub has no such model',
            'correct its name, or set HF_TOKEN if it is private',
            About.MODEL,
        )
    if isinstance(error, DisabledRepoError):
        return HubFailure('the hub has disabled it', 'take another model', About.MODEL)
    return None


def _answered(error: BaseException, _: str | None) -> HubFailure | None:
    """Return the failure if the hub, or a proxy, answers with the status of an error."""
    if not isinstance(error, HfHubHTTPError) or error.response is None:
        return None
    status = error.response.status_code
    advice = _STATUS.get(status, 'try again later' if status >= 500 else _CONNECT)
    return HubFailure(f'the hub ({constants.ENDPOINT}) answers with status {status}', advice)


def _unanswered(error: BaseException, _: str | None) -> HubFailure | None:
    """Return the failure if there is no answer."""
    hub, names = f'the hub ({constants.ENDPOINT})', {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OfflineModeIsEnabled):
        return HubFailure(
            'HF_HUB_OFFLINE is set',
            'download it once without, or elsewhere and set model to the folder',
        )
    if 'ProxyError' in names:
        return HubFailure(f'the proxy before {hub} refuses: {_first_line(error)}', _PROXY)
    if names.intersection(_ADDRESS):
        return HubFailure(
            f'HF_ENDPOINT is not the address of a hub: {constants.ENDPOINT!r} '
            f'({_first_line(error)})',
            'correct it, or unset it',
        )
    if names.intersection(_SILENT):
        return HubFailure(f'{hub} does not answer: {_first_line(error)}', _CONNECT)
    if 'CERTIFICATE_VERIFY_FAILED' in str(error):
        return HubFailure(
            f'the certificate of {hub} is not accepted: {_first_line(error)}',
            'set the clock of this machine; behind a proxy, set SSL_CERT_FILE to its certificates',
        )
    if names.intersection(_UNREACHABLE):
        return HubFailure(f'there is no network to {hub}: {_first_line(error)}', _CONNECT)
    return None


def _unreadable(error: BaseException, _: str | None) -> HubFailure | None:
    """Return the failure if another server answers: a network's login page, a wrong address."""
    if isinstance(error, _GARBLED) or type(error).__name__ in ('DecodingError', 'TooManyRedirects'):
        return HubFailure(
            f'{constants.ENDPOINT} answers, but not as a hub does ({type(error).__name__})',
            'log in to the network if it shows a login page to browsers, or correct HF_ENDPOINT',
        )
    return None


def _unwritable(error: BaseException, _: str | None) -> HubFailure | None:
    """Return the failure if the cache cannot be written."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return HubFailure(
            f'the cache {constants.HF_HUB_CACHE} cannot be written: {_first_line(error)}',
            'free disk space or correct its permissions, or set HF_HOME to another folder',
        )
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0][:200] or type(error).__name__
