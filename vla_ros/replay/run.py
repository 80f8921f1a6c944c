# SPDX-License-Identifier: Apache-2.0
"""Replay of one recording with one policy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla_ros.clock import Clock, SystemClock
from vla_ros.console import Say
from vla_ros.errors import VlaError
from vla_ros.motion import describe, load_contracts
from vla_ros.policies import load_policy, recipe
from vla_ros.policy_request import PolicyRequest
from vla_ros.replay.actions import ActionFiles, ActionRow, action_row
from vla_ros.replay.bag import Bag
from vla_ros.replay.frames import Frame, Frames, Instructions, Sampling, Skipped
from vla_ros.replay.plot import plot_actions
from vla_ros.replay.recorded import read_recorded
from vla_ros.replay.topics import Topics, find_topics
from vla_ros.types import (
    InstructionError,
    Policy,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Progress,
    Session,
    all_predicted,
)

PLOT_NAME = 'actions.png'
SUMMARY_NAME = 'summary.json'

_SAY_EVERY_S = 10.0

Summary = dict[str, Any]


class NoAction(VlaError):
    """No image of the recording gave an action."""


@dataclass(frozen=True)
class Task:
    """The settings that all policies share.

    :param image_topics: the requested ones, as :func:`~vla_ros.replay.topics.find_topics` takes
        them. So is ``state_topic``.
    :param sync_tolerance_s: maximum time between the captures of the parts of one observation.
    :param draft: whether the previous action is offered as a draft, as in the node.
    :param recipe: the command's options, for the summary.
    """

    image_topics: Sequence[str]
    state_topic: str | None
    instructions: Instructions
    sampling: Sampling
    sync_tolerance_s: float
    draft: bool
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def topics(self, bag: Bag, spec: PolicySpec) -> Topics:
        """Return the topics of a policy's inputs.

        :raises BagError: as :func:`~vla_ros.replay.topics.find_topics`.
        """
        return find_topics(bag, self.image_topics, self.state_topic, spec)

    def recipe_of(self, topics: Topics) -> Summary:
        """Return the recipe with the topics that were found; a single image as before 1.0."""
        images = list(topics.images.values())
        if not topics.are_joined:
            return {**self.recipe, 'image': images[0]}
        parts = {'state': topics.state, 'sync_tolerance_s': self.sync_tolerance_s}
        return {**self.recipe, 'image': images, **parts}


@dataclass(frozen=True)
class Replayed:
    """The results of one policy.

    :param recipe: the task's recipe, with the topics.
    :param rows: one for each observation that has an answer.
    :param topics: of the policy's inputs.
    :param names: of the columns of an action.
    """

    recipe: Summary
    summary: Summary
    rows: Sequence[ActionRow]
    topics: Topics
    names: Sequence[str]


def run(bag: Bag, task: Task, request: PolicyRequest, folder: Path, say: Say) -> Replayed:
    """Load the policy, warm it up, replay, and write all files into an existing folder.

    :returns: with a summary. In it, the number of images is ``used`` times the number of cameras,
        plus all in ``skipped``; ``invalid`` of the used observations have an invalid action.
    :raises PolicyError: if the policy can't be loaded, fails a self-check, or can't continue.
    :raises NoAction: if there are no rows.
    :raises BagError: where the recording is damaged, or lacks what the policy needs.
    :raises OSError: if the files can't be written.
    """
    rows: list[ActionRow] = []

    def progress(step: Progress) -> None:
        say(f'{request.label}: {step.text}, {step.done} of {step.total}')

    policy = load_policy(request, progress=progress, repeatable=True)
    try:
        session = policy.session(request.unnorm_key or None)
        topics = task.topics(bag, session.spec)
        policy.warmup(progress)
        frames = Frames(
            bag, topics, session.spec, task.instructions, task.sampling, task.sync_tolerance_s, say
        )
        with ActionFiles(folder, session.spec) as files:
            inputs = _with_progress(frames, say)
            for row in ask(policy, session, inputs, task.draft, frames.skipped):
                files.write(row)
                rows.append(row)
        info = policy.info
    finally:
        policy.close()
    if not rows:
        raise NoAction(
            f'no image on {", ".join(topics.images.values())} of bag {bag.path} gave an action: '
            f'{frames.skipped_text() or "there are none"}'
        )
    summary = _summary(request, info, frames, rows)
    names = _column_names(request, session.spec, rows[0].unnorm_key)
    replayed = Replayed(task.recipe_of(topics), summary, rows, topics, names)
    title = f'{bag.path.name}, {request.label}'
    plot_actions(folder / PLOT_NAME, title, rows, read_recorded(bag, say))
    text = json.dumps({**replayed.recipe, **replayed.summary}, indent=2)
    (folder / SUMMARY_NAME).write_text(f'{text}\n')
    return replayed


def _column_names(request: PolicyRequest, spec: PolicySpec, unnorm_key: str) -> Sequence[str]:
    """Return the names of an action's columns, by the data set's contract if there is one."""
    return describe(spec, load_contracts(request.contracts or None).get(unnorm_key)).names


def _summary(
    request: PolicyRequest, info: PolicyInfo, frames: Frames, rows: Sequence[ActionRow]
) -> Summary:
    cameras = len(frames.topics.images)
    summary = {
        'name': request.label,
        **asdict(info),
        **recipe(request),
        'images': cameras * len(rows) + frames.skipped.counts.total(),
        'used': len(rows),
        'invalid': sum(not row.valid for row in rows),
        'skipped': dict(sorted(frames.skipped.counts.items())),
    }
    if frames.topics.state is not None:
        summary['states'] = frames.states_used + frames.skipped_states.counts.total()
        summary['states_skipped'] = dict(sorted(frames.skipped_states.counts.items()))
    return summary


def ask(
    policy: Policy,
    session: Session,
    inputs: Iterable[Frame],
    drafts: bool,
    skipped: Skipped,
) -> Iterator[ActionRow]:
    """Yield one row for each frame that the policy answers; count the images of the others.

    :param drafts: whether the session offers the previous action as a draft.
    :raises PolicyError: if the policy can't continue: out of memory, no such unnorm_key.
    """
    for frame in inputs:
        if frame.starts_over or not drafts:
            session.reset()
        observation = frame.observation
        images = len(observation.images)
        try:
            policy.check_instruction(observation.instruction)
            [prediction] = all_predicted(policy.predict([(session, observation)]))
        except InstructionError as error:
            skipped.add('unusable_instruction', str(error), frame.number, images)
            session.reset()
            continue
        except PolicyError:
            raise  # the next image would fail, too
        except Exception as error:  # as in the node, one bad inference does not end the replay
            skipped.add('failed', f'{type(error).__name__}: {error}', frame.number, images)
            continue
        yield action_row(frame, prediction, session.spec)


def _with_progress(frames: Frames, say: Say, clock: Clock = SystemClock()) -> Iterator[Frame]:
    """Yield the frames, and report the progress every _SAY_EVERY_S."""
    said_s = clock.monotonic_s()
    for frame in frames:
        if clock.monotonic_s() - said_s > _SAY_EVERY_S:
            said_s = clock.monotonic_s()
            say(f'image {frame.number} of {frames.count}')
        yield frame
