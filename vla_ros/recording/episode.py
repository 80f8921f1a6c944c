# SPDX-License-Identifier: Apache-2.0
"""One episode: its name, its topics, and the facts that are kept with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

FACT_PREFIX = 'vla_ros.'  # of the keys in metadata.yaml
_MAX_SLUG = 40


class NameTaken(Exception):
    """An episode whose folder exists already: it is another's."""


@dataclass
class Episode:
    """An episode of one robot. The track's lock guards what changes.

    :param name: of the folder; changes where another one has it.
    :param topics: message types by topic.
    :param facts: known at its beginning, texts by name: instruction, policy, parameters.
    :ivar success: whether it was marked as a success.
    :ivar lost: messages of it that were not written.
    """

    name: str
    topics: Mapping[str, str]
    facts: Mapping[str, str]
    success: bool = field(default=False, init=False)
    lost: int = field(default=0, init=False)

    def custom_data(self, end: str) -> dict[str, str]:
        """Return all facts, as they are kept in metadata.yaml.

        :param end: why it ended; empty: it has not.
        """
        facts = {
            **self.facts,
            'success': str(self.success).lower(),
            'messages_lost': str(self.lost),
            'end': end,
        }
        return {f'{FACT_PREFIX}{name}': text for name, text in facts.items()}


def episode_name(system_ns: int, robot: str, instruction: str) -> str:
    """Return a name that sorts by time: ``20261128T134012.345Z_left_open-the-drawer``.

    :param system_ns: when it begins, by the system's clock.
    :param robot: its name; empty: none.
    """
    begun = datetime.fromtimestamp(system_ns / 1e9, tz=timezone.utc)
    time = f'{begun:%Y%m%dT%H%M%S}.{begun.microsecond // 1000:03d}Z'
    slug = re.sub('[^a-z0-9]+', '-', instruction.lower())[:_MAX_SLUG].strip('-')
    return '_'.join(part for part in (time, robot, slug) if part)
