# SPDX-License-Identifier: Apache-2.0
"""Checks whether the loader accepts the checkpoint, and its data sets. Reads no weights."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator
from pathlib import Path

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, gigabytes, ok, refused, warn
from vla_ros.policies import inspect
from vla_ros.types import PolicyError


def check_checkpoint(facts: Facts) -> Iterator[Finding]:
    model, revision = facts.request.model, facts.request.revision or None
    if not model:
        yield warn('no model is named; no policy is checked', 'vla_doctor MODEL')
        return
    if facts.is_remote:
        return
    try:
        facts.inspection = inspect(facts.request)
        if facts.inspection is None:
            yield from _not_downloaded(model, revision)
        else:
            yield ok(facts.inspection.check())
            facts.is_whole = True
    except PolicyError as error:
        yield refused(error, 'download or copy the checkpoint again, or name another')


def _not_downloaded(model: str, revision: str | None) -> Iterator[Finding]:
    """Yield a finding about the download.

    :raises CheckpointError: if the hub does not have the model.
    """
    from huggingface_hub import constants

    from vla_ros.openvla.hub import bytes_to_download

    needed = bytes_to_download(model, revision)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        yield fail(
            f'{model} is not downloaded yet: {gigabytes(needed)}, but the disk of {cache} has '
            f'{gigabytes(free)} free',
            'free disk space, or set HF_HOME to a folder on a larger disk',
        )
        return
    at_revision = f' --revision {revision}' if revision else ''
    yield warn(
        f'{model} is not downloaded yet: {gigabytes(needed)}',
        f'hf download {model}{at_revision}; otherwise the node does it, within load_timeout_s',
    )


def check_unnorm_key(facts: Facts) -> Iterator[Finding]:
    """Check which statistics scale the actions."""
    asked, inspection = facts.request.unnorm_key, facts.inspection
    if facts.is_remote:
        return
    if inspection is None:
        facts.unnorm_key = asked  # as it will be, if it is there
        return
    if not inspection.unnorm_keys:
        facts.unnorm_key, facts.rows = asked, inspection.spec(asked).horizon
        return
    from vla_ros.openvla.errors import UnnormKeyError, listing

    there = listing(inspection.unnorm_keys, most=40)
    try:
        facts.unnorm_key = inspection.key(asked)
    except UnnormKeyError as error:
        close = difflib.get_close_matches(asked, inspection.unnorm_keys, n=1)
        meant = f'did you mean {close[0]}? ' if close else ''
        yield fail(error.what, f'{meant}set unnorm_key to one of: {there}')
        return
    spec = inspection.spec(facts.unnorm_key)
    facts.rows = spec.horizon
    yield ok(f'{facts.unnorm_key}: actions of {spec.action_dim} values; there are: {there}')
