# SPDX-License-Identifier: Apache-2.0
"""The folder of a ``model``: a local one, or one that is downloaded from the hub.

A model that is wholly in the cache does not depend on the network: a commit is used without asking
the hub, and a branch if the hub does not answer soon. Runs in the thread that builds the policy.
The hub's own settings apply: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable
from concurrent import futures
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from huggingface_hub import (
    DryRunFileInfo,
    HfApi,
    constants,
    get_cached_repo_tree,
    snapshot_download,
)
from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
from tqdm import tqdm

from vla_ros.openvla.checkpoint import INDEX_NAME, SINGLE_NAME
from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.hub_failures import About, HubFailure, hub_calls
from vla_ros.openvla.json_files import read_json
from vla_ros.openvla.layout import LAYOUT_NAME, read_layout
from vla_ros.openvla.plain import check_config, check_names, is_training_state
from vla_ros.types import Progress, ProgressCallback

_ANSWER_S = 4.0  # for the hub's answer, if the model is in the cache
_PATIENCE_S = 30.0  # if it is not
_COMMIT = re.compile('[0-9a-f]{40}')
_DESCRIPTIONS = ['config.json', LAYOUT_NAME]  # what the first, small download takes
_SUFFIXES = ('.json', '.safetensors')  # never code, never pickles
_Answer = TypeVar('_Answer')


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
    cached = _cached(model, revision)
    try:
        if cached is None:
            return _download(model, revision, _PATIENCE_S, progress)
        may_ask = not constants.HF_HUB_OFFLINE  # else the user wants what is here
        if may_ask and (cached.name != revision or _listed(model, cached.name) is None):
            return _download(model, revision, _ANSWER_S, progress)
    except HubFailure as failure:
        if cached is None or failure.about is About.NAME:
            raise failure.error(model) from failure
        _report_cached(model, cached.name, failure, progress)
    _check_listing(model, cached.name)
    return cached


def downloaded_model(model: str, revision: str | None = None) -> Path | None:
    """Return the folder of a checkpoint if it is on this machine, without network.

    :raises CheckpointError: if it is neither a folder nor a hub id, or is not plain OpenVLA.
    """
    folder = _local_folder(model, revision)
    if folder is not None:
        return folder
    snapshot = _cached(model, revision)
    if snapshot is not None:
        _check_listing(model, snapshot.name)
    return snapshot


def bytes_to_download(repo_id: str, revision: str | None = None) -> int:
    """Ask the hub how many bytes of a model are not in the cache.

    :raises CheckpointError: if the hub does not answer, or the model is not plain OpenVLA.
    """

    def ask() -> list[DryRunFileInfo]:
        bar = _progress_bar(repo_id, None)
        return snapshot_download(repo_id, revision=revision, dry_run=True, tqdm_class=bar)

    try:
        with hub_calls(revision):
            files = _answer(ask, _PATIENCE_S)
    except HubFailure as failure:
        raise failure.error(repo_id) from failure
    check_names((file.filename for file in files), repo_id)
    return sum(
        file.file_size or 0 for file in files if file.will_download and _is_needed(file.filename)
    )


# -- the cache ---------------------------------------------------------------------------------


def _cached(repo_id: str, revision: str | None) -> Path | None:
    """Return the snapshot of a model that is wholly in the cache.

    :raises CheckpointError: if the name is not a hub id.
    """
    try:
        with hub_calls(revision):
            snapshot = Path(
                snapshot_download(
                    repo_id,
                    revision=revision,
                    allow_patterns=_DESCRIPTIONS,
                    local_files_only=True,
                )
            )
    except HubFailure as failure:
        if isinstance(failure.__cause__, LocalEntryNotFoundError):
            return None
        raise failure.error(repo_id) from failure
    names = _listed(repo_id, snapshot.name)
    if names is None:
        return snapshot if _is_whole(snapshot) else None
    needed = filter(_is_needed, names)
    return snapshot if all((snapshot / name).is_file() for name in needed) else None


def _listed(repo_id: str, commit: str) -> list[str] | None:
    """Return the names of all files on the hub; None if an older huggingface_hub kept no list."""
    try:
        return [file.path for file in get_cached_repo_tree(repo_id, revision=commit)]
    except CachedRepoTreeNotFoundError:
        return None


def _is_whole(snapshot: Path) -> bool:
    """Return whether the files that every checkpoint has are there."""
    weights = [SINGLE_NAME]
    if (snapshot / INDEX_NAME).is_file():
        weight_map = read_json(snapshot / INDEX_NAME).get('weight_map')
        weights = list(map(str, weight_map.values())) if isinstance(weight_map, dict) else []
    names = {'config.json', 'tokenizer.json', *weights}
    return all((snapshot / name).is_file() for name in names)


def _check_listing(repo_id: str, commit: str) -> None:
    """Check the names of all files on the hub, also of those that are never downloaded.

    :raises CheckpointError: if they are not of plain OpenVLA.
    """
    check_names(_listed(repo_id, commit) or (), repo_id)


def _is_needed(name: str) -> bool:
    """Return whether the policy may need the file: not of older checkpoints, not of trainings."""
    return '/' not in name and name.endswith(_SUFFIXES) and not is_training_state(name)


def _point(snapshot: Path, revision: str) -> None:
    """Record in the cache which commit the revision is.

    huggingface_hub does so before a download. If the download fails, the older copy is lost.
    """
    ref = snapshot.parents[1] / 'refs' / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    new = ref.with_name(f'{ref.name}.{os.getpid()}.new')
    new.write_text(snapshot.name)
    new.replace(ref)


# -- the hub -----------------------------------------------------------------------------------


def _download(
    repo_id: str, revision: str | None, answer_s: float, progress: ProgressCallback | None
) -> Path:
    """Download the files that are not in the cache yet.

    :param answer_s: maximum duration until the hub has named the commit of the revision [s].
    :raises HubFailure: if the hub or the way to it fails.
    :raises CheckpointError: if the model is not plain OpenVLA.
    """
    wanted = revision or constants.DEFAULT_REVISION
    with hub_calls(revision):
        begun = _answer(partial(_begin, repo_id, wanted, answer_s), answer_s)
    names = _listed(repo_id, begun.name) or ()
    check_names(names, repo_id)
    if 'config.json' not in names:
        raise CheckpointError(
            f'{repo_id} has no config.json, so it is not an OpenVLA checkpoint',
            'name another model',
        )
    check_config(read_json(begun / 'config.json'), begun / 'config.json', read_layout(begun))
    with hub_calls(revision):
        snapshot_download(
            repo_id,
            revision=begun.name,
            allow_patterns=[glob.escape(name) for name in names if _is_needed(name)],
            tqdm_class=_progress_bar(repo_id, progress),
        )
        if begun.name != wanted:
            _point(begun, wanted)
    return begun


def _begin(repo_id: str, revision: str, answer_s: float) -> Path:
    """Download a small file of the revision: the list of all files comes with it.

    :returns: the snapshot, named like its commit.
    :raises TypeError: if the answer is not that of a hub.
    """
    commit = revision
    if not _COMMIT.fullmatch(revision):
        answer = HfApi().model_info(repo_id, revision=revision, timeout=answer_s)
        commit = str(answer.sha)
    if not _COMMIT.fullmatch(commit):
        raise TypeError(f'{commit!r} is not a commit')
    return Path(
        snapshot_download(
            repo_id,
            revision=commit,
            allow_patterns=_DESCRIPTIONS,
            etag_timeout=answer_s,
            tqdm_class=_progress_bar(repo_id, None),
        )
    )


def _answer(ask: Callable[[], _Answer], seconds: float) -> _Answer:
    """Return the result of ``ask``, called in another thread: not all of its waits have a bound.

    :raises TimeoutError: if it takes longer. The thread may go on, and does no harm.
    """
    future: futures.Future[_Answer] = futures.Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name='hub', daemon=True).start()
    try:
        return future.result(seconds)
    except futures.TimeoutError:  # before Python 3.11 not the built-in one
        if future.done():
            raise
        raise TimeoutError(f'nothing within {seconds:g} s') from None


def _report_cached(
    repo_id: str, commit: str, failure: HubFailure, progress: ProgressCallback | None
) -> None:
    """Say that a newer version, if there is one, is not used."""
    text = f'{repo_id}: {failure.cause}; the copy in the cache is used (commit {commit[:12]})'
    logging.getLogger(__name__).warning('%s; %s', text, failure.advice)
    if progress is not None:
        progress(Progress(text, 0, 1))


# -- names and progress --------------------------------------------------------------------------


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
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (OSError, RuntimeError) as error:  # no such user, name too long, not permitted
        raise CheckpointError(f'model {model[:80]!r} cannot be looked up: {error}') from error
    if is_folder:
        if revision:
            raise CheckpointError(
                f'revision {revision!r} is set, but model {model!r} is a folder',
                'leave the revision out, or set model to a hub id',
            )
        return folder
    if is_file:
        check_names([folder.name], model)
        raise CheckpointError(f'model {model!r} is a file', 'name the folder of its checkpoint')
    if folder.is_absolute() or model.startswith(('.', '~')) or model.count('/') != 1:
        raise CheckpointError(
            f'model {model!r} is not a folder on this machine, nor of the form owner/name of a '
            'hub id',
            'name one or the other',
        )
    return None


def _progress_bar(repo_id: str, progress: ProgressCallback | None) -> type[tqdm]:
    """Return a tqdm that reports to ``progress`` and not to the terminal."""

    class ProgressBar(tqdm):
        monitor_interval = 0  # no thread looks after it: it draws nothing

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
