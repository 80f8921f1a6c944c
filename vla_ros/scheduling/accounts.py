# SPDX-License-Identifier: Apache-2.0
"""The equations between counters: every image and every inference is counted under one name.

Each counter is a field of the dataclass of the object that counts it, and a field of the same name
in VlaCounters. The equations take the names from the dataclasses, so a new field of CameraCounters
or OutcomeCounters joins its equation automatically. Pure functions; any thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from vla_ros.scheduling.camera import CameraCounters
from vla_ros.scheduling.gate import OutcomeCounters
from vla_ros.scheduling.slot import SlotStatistics


def _names(counters: type, *without: str) -> tuple[str, ...]:
    return tuple(one.name for one in dataclasses.fields(counters) if one.name not in without)


# A counter -> the counters whose sum it is, at every moment.
EQUATIONS: Mapping[str, tuple[str, ...]] = {
    'received': (
        'rejected',
        *_names(CameraCounters),
        'idle',
        'replaced',
        'pending',
        'joined',
    ),
    'observations': _names(SlotStatistics, 'observations'),
    'taken': (*_names(OutcomeCounters), 'in_flight'),
}
# Only where published actions become twists.
TWIST_EQUATIONS: Mapping[str, tuple[str, ...]] = {'published': ('motions', 'motions_refused')}

# Current numbers. All other counters only rise.
GAUGES = ('pending', 'waiting', 'in_flight', 'recording_waiting')


def unaccounted(
    counters: object, equations: Mapping[str, tuple[str, ...]] = EQUATIONS
) -> dict[str, int]:
    """Return the difference between each sum and its parts; empty if all balance.

    :param counters: a VlaCounters, or another object with the counters as attributes.
    """
    differences = {
        total: getattr(counters, total) - sum(getattr(counters, name) for name in parts)
        for total, parts in equations.items()
    }
    return {total: difference for total, difference in differences.items() if difference}
