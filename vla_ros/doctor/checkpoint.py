"""Whether the loader would take the checkpoint, and whose actions it has. No weight is read."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator
from pathlib import Path

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, gigabytes, ok, refused, warn
from vla_ros.scripted.script import is_scripted, read_script
from vla_ros.types import PolicyError


def check_checkpoint(facts: Facts) -> Iterator[Finding]:
    model, revision = facts.choice.model, facts.choice.revision or None
    if not model:
        yield warn('no model was named: no policy is looked at', 'vla_doctor MODEL')
        return
    try:
        if is_scripted(model):
            read_script(model)
            yield ok(f'{model}: a policy without a checkpoint')
            return
        from vla_ros.openvla.hub import downloaded_model

        directory = downloaded_model(model, revision)
        if directory is None:
            yield from _not_downloaded(model, revision)
        else:
            yield from _inspect(facts, directory)
    except PolicyError as error:
        yield refused(error, 'download or copy the checkpoint again, or name another')


def _inspect(facts: Facts, directory: Path) -> Iterator[Finding]:
    """What the loader does before it reads weights.

    :raises CheckpointError: if the loader would not take it.
    """
    from vla_ros.openvla.checkpoint import Checkpoint
    from vla_ros.openvla.config import OpenVLAConfig
    from vla_ros.openvla.loading import build_model
    from vla_ros.openvla.plain import check_folder
    from vla_ros.openvla.processor import load_processors

    check_folder(directory)
    facts.config = OpenVLAConfig.from_directory(directory)
    load_processors(directory, facts.config)
    checkpoint = Checkpoint(directory)
    build_model(checkpoint, facts.config)
    facts.directory = directory
    dtypes = ', '.join(sorted(str(dtype).removeprefix('torch.') for dtype in checkpoint.dtypes))
    yield ok(
        f'{directory}: {len(checkpoint.shapes)} tensors in {dtypes}, of the names and shapes that '
        'config.json wants; their values are looked at when it is loaded'
    )


def _not_downloaded(model: str, revision: str | None) -> Iterator[Finding]:
    """:raises CheckpointError: if the hub does not give it."""
    from huggingface_hub import constants

    from vla_ros.openvla.hub import bytes_to_download

    needed = bytes_to_download(model, revision)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        yield fail(
            f'{model} is not downloaded yet: {gigabytes(needed)}, of which the disk of {cache} has '
            f'{gigabytes(free)} free',
            'free some, or set HF_HOME to a folder on a larger disk',
        )
        return
    at_revision = f' --revision {revision}' if revision else ''
    yield warn(
        f'{model} is not downloaded yet: {gigabytes(needed)}',
        f'hf download {model}{at_revision}; otherwise the node does it, within load_timeout_s',
    )


def check_unnorm_key(facts: Facts) -> Iterator[Finding]:
    """Whose statistics scale the actions."""
    if facts.config is None:
        facts.unnorm_key = facts.choice.unnorm_key  # as it will be, if it is there
        return
    from vla_ros.openvla.errors import UnnormKeyError, listing
    from vla_ros.openvla.normalization import select_statistics

    norm_stats = facts.config.norm_stats
    there = listing(norm_stats, most=40)
    try:
        facts.unnorm_key, statistics = select_statistics(norm_stats, facts.choice.unnorm_key)
    except UnnormKeyError as error:
        close = difflib.get_close_matches(facts.choice.unnorm_key, norm_stats, n=1)
        meant = f'did you mean {close[0]}? ' if close else ''
        yield fail(error.what, f'{meant}set unnorm_key to one of: {there}')
        return
    yield ok(f'{facts.unnorm_key}: actions of {statistics.action_dim} values; there are: {there}')
