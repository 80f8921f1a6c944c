"""The folder of a ``model``: a local one, or one that is downloaded from the hub.

Runs in the thread that builds the policy. The hub's own settings apply: HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE, HF_ENDPOINT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.plain import check_names
from vla_ros.types import Progress, ProgressCallback

_FILES = ['*.json', '*.safetensors']  # never code, never pickles


def resolve_model(
    model: str, revision: str | None = None, progress: ProgressCallback | None = None
) -> Path:
    """Return the folder of a checkpoint; download it if necessary.

    :param model: a folder, or a hub id such as ``openvla/openvla-7b``.
    :param revision: branch, tag or commit of a hub id.
    :raises CheckpointError: if the folder does not exist, the download fails, or the model on the
        hub is not plain OpenVLA.
    """
    folder = _local_folder(model, revision)
    if folder is not None:
        return folder
    with _explained(model, revision):
        # A small file first: the list of all files comes with it.
        bar = _progress_bar(model, None)
        begun = snapshot_download(
            model, revision=revision, allow_patterns=['config.json'], tqdm_class=bar
        )
        commit = Path(begun).name
        _check_listing(model, commit)
        bar = _progress_bar(model, progress)
        return Path(
            snapshot_download(model, revision=commit, allow_patterns=_FILES, tqdm_class=bar)
        )


def downloaded_model(model: str, revision: str | None = None) -> Path | None:
    """Return the folder of a checkpoint if it is on this machine, without network.

    :raises CheckpointError: if it is neither a folder nor a hub id, or is not plain OpenVLA.
    """
    folder = _local_folder(model, revision)
    if folder is not None:
        return folder
    with _explained(model, revision):
        try:
            snapshot = Path(
                snapshot_download(
                    model, revision=revision, allow_patterns=_FILES, local_files_only=True
                )
            )
        except LocalEntryNotFoundError:
            return None
        _check_listing(model, snapshot.name)
        return snapshot


def bytes_to_download(repo_id: str, revision: str | None = None) -> int:
    """Ask the hub how many bytes of a model are not in the cache.

    :raises CheckpointError: if the hub does not answer, or the model is not plain OpenVLA.
    """
    bar = _progress_bar(repo_id, None)
    with _explained(repo_id, revision):
        files = snapshot_download(repo_id, revision=revision, dry_run=True, tqdm_class=bar)
    check_names((file.filename for file in files), repo_id)
    return sum(
        file.file_size or 0
        for file in files
        if file.will_download and any(fnmatch(file.filename, pattern) for pattern in _FILES)
    )


def _check_listing(repo_id: str, commit: str) -> None:
    """Check the names of all files on the hub, also of those that are never downloaded.

    :raises CheckpointError: if they are not of plain OpenVLA.
    """
    try:
        files = get_cached_repo_tree(repo_id, revision=commit)
    except CachedRepoTreeNotFoundError:  # downloaded by an older huggingface_hub
        return
    check_names((file.path for file in files), repo_id)


def _local_folder(model: str, revision: str | None) -> Path | None:
    """Return the folder that ``model`` names; None if it is a hub id.

    :raises CheckpointError: if it is neither.
    """
    if not model:
        raise CheckpointError(
            'model is not set',
            'set it to a checkpoint folder or a hub id such as openvla/openvla-7b',
        )
    try:
        folder = Path(model).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError) as error:  # no such user, name too long, not permitted
        raise CheckpointError(f'model {model[:80]!r} cannot be looked up: {error}') from error
    if is_folder:
        if revision:
            raise CheckpointError(
                f'revision {revision!r} is set, but model {model!r} is a folder',
                'leave the revision out, or set model to a hub id',
            )
        return folder
    if folder.is_absolute() or model.startswith(('.', '~')) or model.count('/') != 1:
        raise CheckpointError(
            f'model {model!r} is not a folder on this machine, nor of the form owner/name of a '
            'hub id',
            'name one or the other',
        )
    return None


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Raise the errors of the hub's library as errors that the user can fix."""
    try:
        yield
    except (ValueError, HfHubHTTPError, OSError) as error:  # bad names, of the model or its files
        reason, advice = _reason(error, revision)
        raise CheckpointError(f'model {repo_id!r}: {reason}', advice) from error


def _reason(error: Exception, revision: str | None) -> tuple[str, str]:
    """Return what failed and what to do, or the library's own text."""
    if isinstance(error, DryRunError) and isinstance(error.__cause__, RepositoryNotFoundError):
        error = error.__cause__
    if isinstance(error, GatedRepoError):
        return 'access to it must be granted', 'log in with `hf auth login` or set HF_TOKEN'
    if isinstance(error, RepositoryNotFoundError):
        return 'the hub has no such model', 'correct its name, or set HF_TOKEN if it is private'
    if isinstance(error, RevisionNotFoundError):
        return f'it has no revision {revision!r}', 'name a branch, tag or commit of it'
    if isinstance(error, (LocalEntryNotFoundError, DryRunError)):
        return (
            'it is not in the local cache, and the hub cannot be reached (no network, or '
            'HF_HUB_OFFLINE is set)',
            'download it where there is network, and set model to the folder',
        )
    return str(error), ''


def _progress_bar(repo_id: str, progress: ProgressCallback | None) -> type[tqdm]:
    """Return a tqdm that reports to ``progress`` and not to the terminal."""

    class ProgressBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop('name', None)
            super().__init__(*args, **{**kwargs, 'disable': False, 'file': _Discard()})

        def update(self, n: float | None = 1) -> bool | None:
            updated = super().update(n)
            if progress is not None:
                unit = 'bytes' if self.unit == 'B' else 'files'
                text = f'downloading {repo_id} ({unit})'
                progress(Progress(text, int(self.n), int(self.total or 0)))
            return updated

    return ProgressBar


class _Discard:
    """A file that discards what is written to it."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
