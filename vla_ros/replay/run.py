"""Replay of one recording with one policy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla_ros.clock import Clock, SystemClock
from vla_ros.errors import VlaError
from vla_ros.policies import load_policy, recipe
from vla_ros.policy_request import PolicyRequest
from vla_ros.replay.actions import ActionFiles, ActionRow, action_row
from vla_ros.replay.bag import Bag
from vla_ros.replay.frames import Frame, Instructions, Sampling, Say, Skipped, frames
from vla_ros.replay.plot import plot_actions
from vla_ros.replay.recorded import read_recorded
from vla_ros.types import (
    InstructionError,
    Observation,
    Policy,
    PolicyError,
    PolicyInfo,
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

    :param draft: whether the previous action is offered as a draft, as in the node.
    :param recipe: the command's options, for the summary.
    """

    image_topic: str
    instructions: Instructions
    sampling: Sampling
    draft: bool
    recipe: Mapping[str, Any] = field(default_factory=dict)


def run(
    bag: Bag, task: Task, request: PolicyRequest, folder: Path, say: Say
) -> tuple[Summary, list[ActionRow]]:
    """Load the policy, warm it up, replay, and write all files into an existing folder.

    :returns: the summary, and one row for each image that has an answer. In the summary, the number
        of images is ``used`` plus all in ``skipped``; ``invalid`` of the used ones have an invalid
        action.
    :raises PolicyError: if the policy can't be loaded, fails a self-check, or can't continue.
    :raises NoAction: if there are no rows.
    :raises BagError: where the recording is damaged.
    :raises OSError: if the files can't be written.
    """
    skipped = Skipped(say)
    rows: list[ActionRow] = []

    def progress(step: Progress) -> None:
        say(f'{request.label}: {step.text}, {step.done} of {step.total}')

    policy = load_policy(request, progress=progress)
    try:
        session = policy.session(request.unnorm_key or None)
        policy.warmup(progress)
        inputs = frames(bag, task.image_topic, task.instructions, task.sampling, skipped)
        with ActionFiles(folder, session.spec.action_dim) as files:
            inputs = _with_progress(inputs, bag.topics[task.image_topic].count, say)
            for row in ask(policy, session, inputs, task.draft, skipped):
                files.write(row)
                rows.append(row)
        info = policy.info
    finally:
        policy.close()
    if not rows:
        raise NoAction(
            f'no image on {task.image_topic} of bag {bag.path} gave an action: '
            f'{str(skipped) or "there are none"}'
        )
    summary = _summary(request, info, rows, skipped)
    plot_actions(
        folder / PLOT_NAME, f'{bag.path.name}, {request.label}', rows, read_recorded(bag, say)
    )
    (folder / SUMMARY_NAME).write_text(f'{json.dumps({**task.recipe, **summary}, indent=2)}\n')
    return summary, rows


def _summary(
    request: PolicyRequest, info: PolicyInfo, rows: Sequence[ActionRow], skipped: Skipped
) -> Summary:
    return {
        'name': request.label,
        **asdict(info),
        **recipe(request),
        'pictures': len(rows) + skipped.counts.total(),
        'used': len(rows),
        'invalid': sum(not row.valid for row in rows),
        'skipped': dict(sorted(skipped.counts.items())),
    }


def ask(
    policy: Policy,
    session: Session,
    inputs: Iterable[Frame],
    drafts: bool,
    skipped: Skipped,
) -> Iterator[ActionRow]:
    """Yield one row for each frame that the policy answers; count the others.

    :param drafts: whether the session offers the previous action as a draft.
    :raises PolicyError: if the policy can't continue: out of memory, no such unnorm_key.
    """
    for frame in inputs:
        if frame.starts_over or not drafts:
            session.reset()
        observation = Observation.of_one(frame.image, frame.instruction, frame.stamp_ns)
        try:
            policy.check_instruction(frame.instruction)
            [prediction] = all_predicted(policy.predict([(session, observation)]))
        except InstructionError as error:
            skipped.add('unusable_instruction', str(error), frame.number)
            session.reset()
            continue
        except PolicyError:
            raise  # the next image would fail, too
        except Exception as error:  # as in the node, one bad inference does not end the replay
            skipped.add('failed', f'{type(error).__name__}: {error}', frame.number)
            continue
        yield action_row(frame, prediction, session.spec)


def _with_progress(
    inputs: Iterable[Frame], count: int, say: Say, clock: Clock = SystemClock()
) -> Iterator[Frame]:
    """Yield the frames, and report the progress every _SAY_EVERY_S."""
    said_s = clock.monotonic_s()
    for frame in inputs:
        if clock.monotonic_s() - said_s > _SAY_EVERY_S:
            said_s = clock.monotonic_s()
            say(f'image {frame.number} of {count}')
        yield frame
