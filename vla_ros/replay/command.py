# SPDX-License-Identifier: Apache-2.0
"""A replay as ``vla_replay`` runs it: one recording, all policies, and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_ros.console import Say
from vla_ros.measure.statistics import table
from vla_ros.policies import PolicyRequest, inspect, product, resolve_all
from vla_ros.replay.actions import ActionRow, ActionsError, read_actions
from vla_ros.replay.bag import Bag
from vla_ros.replay.compare import compare_all, comparison_tables
from vla_ros.replay.frames import Instructions, Sampling
from vla_ros.replay.recorded import message_definitions
from vla_ros.replay.rerun_file import require_rerun
from vla_ros.replay.run import SUMMARY_NAME, Replayed, Summary, Task, run
from vla_ros.replay.timeline import TIMELINE_NAME, Answers, write_timeline
from vla_ros.replay.topics import find_instruction_topic, find_topics
from vla_ros.types import check_instruction


@dataclass(frozen=True)
class Setup:
    """The options of a replay.

    :param request: the policy, without the options that have lists.
    :param lists: values by field of the request; every combination is replayed.
    :param output: folder to write; with several combinations, each has a folder in it.
    :param compare: folders of earlier replays.
    :param images: topics, in the order of the policy's cameras; empty: found by the recording.
    :param state: topic; None: found by the recording. So is ``instruction_topic``.
    :param instruction: for all images; None: the recorded ones.
    :param rerun: whether to write a file for the viewer of rerun, too.
    """

    bag: Path
    request: PolicyRequest
    lists: Mapping[str, Sequence[str | float]]
    output: Path
    compare: Sequence[Path]
    images: Sequence[str]
    state: str | None
    sync_tolerance_s: float
    instruction: str | None
    instruction_topic: str | None
    sampling: Sampling
    draft: bool
    rerun: bool = False


def replay(setup: Setup, say: Say) -> str:
    """Replay the recording with every policy, write all files, and return the report as text.

    :raises BagError: if the recording can't be read, or lacks what the policies need.
    :raises ActionsError: if a folder to write has a replay, or one to compare has none.
    :raises PolicyError: if a policy can't be loaded, fails a self-check, or can't continue.
    :raises NoAction: if a policy gave no action.
    :raises RerunError: if rerun is asked for and not installed, or its file can't be written.
    :raises OSError: if the files can't be written.
    """
    if setup.rerun:
        require_rerun()
    if setup.instruction is not None:
        check_instruction(setup.instruction)
    rows: dict[str, Sequence[ActionRow]] = {
        f'{folder}/': read_actions(folder) for folder in setup.compare
    }
    requests = resolve_all(product(setup.request, **setup.lists))
    several = len(requests) > 1
    folders = [setup.output / one.label if several else setup.output for one in requests]
    results: list[Replayed] = []
    with Bag(setup.bag, message_definitions()) as bag:
        _check_topics(bag, setup, requests[0])
        task = _task(bag, setup, say)
        for folder in folders:
            _make_folder(folder)
        for request, folder in zip(requests, folders, strict=True):
            results.append(run(bag, task, request, folder, say))
            rows[request.label] = results[-1].rows
        timeline = _timeline(bag, setup, rows, results[-1], say) if setup.rerun else {}
    runs = [one.summary for one in results]
    comparisons = compare_all(rows)
    return _report({**results[0].recipe, 'runs': runs, 'comparisons': comparisons, **timeline})


def show(path: Path, output: Path, compare: Sequence[Path], camera: str | None, say: Say) -> str:
    """Write a file of rerun with what was recorded, without a policy; return the counts as JSON.

    :param path: of the recording.
    :param output: folder to write.
    :param compare: folders of earlier replays, whose answers are shown, too.
    :param camera: topic whose images are counted as frames; None: the first topic of images.
    :raises RerunError: if rerun is not installed, or its file can't be written.
    :raises BagError: if the recording can't be read, or has no such topic.
    :raises ActionsError: if a folder to compare has no replay.
    :raises OSError: if the file can't be written.
    """
    require_rerun()
    answers = {f'{folder}/': Answers(read_actions(folder)) for folder in compare}
    with Bag(path, message_definitions()) as bag:
        output.mkdir(parents=True, exist_ok=True)
        told = write_timeline(output / TIMELINE_NAME, bag, answers, camera, say)
    return json.dumps({'bag': str(path), 'rerun': told})


def _timeline(
    bag: Bag, setup: Setup, rows: Mapping[str, Sequence[ActionRow]], last: Replayed, say: Say
) -> Summary:
    """Write the file of rerun; return what the report says of it."""
    names = last.names  # columns of an earlier replay have no names of their own
    answers = {name: Answers(one, names) for name, one in rows.items()}
    camera = next(iter(last.topics.images.values()))
    return {'rerun': write_timeline(setup.output / TIMELINE_NAME, bag, answers, camera, say)}


def _task(bag: Bag, setup: Setup, say: Say) -> Task:
    topic = None
    if setup.instruction is not None:
        instructions = Instructions.always(setup.instruction)
    else:
        topic = find_instruction_topic(bag, setup.instruction_topic)
        if bag.topics[topic].missing:
            say(f'instructions are missing: {bag.topics[topic].missing_message} on {topic}')
        instructions = Instructions.recorded(bag, topic)
    sampling = setup.sampling
    recipe = {
        'bag': str(setup.bag),
        'image': setup.images,
        'instruction': setup.instruction,
        'instruction_topic': topic,
        'unnorm_key': setup.request.unnorm_key or None,
        'every': sampling.every,
        'rate_hz': sampling.rate_hz,
        'limit': sampling.limit,
        'draft': setup.draft,
    }
    return Task(
        setup.images,
        setup.state,
        instructions,
        sampling,
        setup.sync_tolerance_s,
        setup.draft,
        recipe,
    )


def _check_topics(bag: Bag, setup: Setup, request: PolicyRequest) -> None:
    """Check the topics before anything is loaded, unless the policy must be downloaded first."""
    inspection = inspect(request)
    if inspection is not None:
        find_topics(bag, setup.images, setup.state, inspection.spec(request.unnorm_key or None))


def _make_folder(folder: Path) -> None:
    """Make a folder for the files of a replay.

    :raises ActionsError: if it holds a replay already.
    """
    if (folder / SUMMARY_NAME).exists():
        raise ActionsError(
            f'{folder} holds a replay already', 'name another folder with --output, or remove it'
        )
    folder.mkdir(parents=True, exist_ok=True)


def _report(report: Summary) -> str:
    """Return tables of the counts and the comparisons, and a last line of JSON."""
    runs, comparisons = report['runs'], report['comparisons']
    names = [one['name'] for one in runs]
    parts = [table('policy', names, _counts(runs))]
    if comparisons:
        parts.append(comparison_tables(comparisons))
    return '\n\n'.join([*parts, json.dumps(report)])


def _counts(runs: Sequence[Summary]) -> list[dict[str, str]]:
    """Return the cells of each run; every run has the same columns."""
    skipped = sorted({name for one in runs for name in one['skipped']})
    states = sorted({name for one in runs for name in one.get('states_skipped', {})})
    return [
        {'images': str(one['images']), 'used': str(one['used']), 'invalid': str(one['invalid'])}
        | {name: str(one['skipped'].get(name, 0)) for name in skipped}
        | {f'{name} (states)': str(one['states_skipped'].get(name, 0)) for name in states}
        for one in runs
    ]
