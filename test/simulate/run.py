# SPDX-License-Identifier: Apache-2.0
"""Runs many seeds on all cores: ``python -m simulate.run 0-999``.

Prints how fast it was, which faults occurred and what the oracle found, with the command that
repeats it. With ``--trace`` also all that happened in a seed.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulate.simulation import Outcome

_MOST_REAL_S = 600.0  # of one seed; it takes one second, more on a machine with much else to do
_SHOWN = 3  # violations of a seed
_CHUNK = 5  # seeds


def seeds_of(text: str) -> list[int]:
    """Read ``0-999``, ``7`` or ``1,5,8-12``."""
    seeds: list[int] = []
    for part in text.split(','):
        first, _, last = part.partition('-')
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def run_seed(seed: int, keep_trace: bool = False) -> Outcome:
    """Run one seed in this process, which must not have imported rclpy otherwise."""
    from simulate.simulation import simulate

    faulthandler.dump_traceback_later(_MOST_REAL_S, exit=True)
    outcome = simulate(seed, keep_trace)
    faulthandler.cancel_dump_traceback_later()
    return outcome


def run_seeds(seeds: Iterable[int], jobs: int | None = None) -> Iterator[Outcome]:
    """Run seeds in processes of their own, in order.

    :raises BrokenProcessPool: if one of them took too long, or broke the process.
    """
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context('spawn')) as pool:
        yield from pool.map(run_seed, seeds, chunksize=_CHUNK)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='simulate', description=__doc__)
    parser.add_argument('seeds', type=seeds_of, help='such as 0-999, 7 or 1,5,8-12')
    parser.add_argument('--trace', action='store_true', help='print all that happens')
    parser.add_argument(
        '--first', action='store_true', help='in this process, until the first violation'
    )
    parser.add_argument('--jobs', type=int, help='processes; default: one for each core')
    options = parser.parse_args(arguments)
    if options.trace:
        for seed in options.seeds:
            outcome = run_seed(seed, keep_trace=True)
            print('\n'.join(outcome.trace))
            _report(outcome)
        return 0
    if options.first:
        return _until_first(options.seeds)
    started_s = time.monotonic()
    try:
        outcomes = []
        for outcome in run_seeds(options.seeds, options.jobs):
            outcomes.append(outcome)
            if outcome.violations:
                _report(outcome)
    except BrokenProcessPool:
        done = {outcome.seed for outcome in outcomes}
        left = [seed for seed in options.seeds if seed not in done]
        print(f'a process ended or took too long; it had one of the seeds from {left[0]} on')
        return 1
    return _summary(outcomes, time.monotonic() - started_s)


def _until_first(seeds: list[int]) -> int:
    for seed in seeds:
        outcome = run_seed(seed)
        if outcome.violations:
            _report(outcome)
            return 1
    return 0


def _report(outcome: Outcome) -> None:
    print(f'seed {outcome.seed}: {len(outcome.violations)} violations; faults: ', end='')
    print(', '.join(outcome.kinds))
    for violation in outcome.violations[:_SHOWN]:
        print(f'    {violation}')
    print(f'    repeat: make simulate SEEDS={outcome.seed}  (ARGS=--trace shows all)', flush=True)


def _summary(outcomes: list[Outcome], real_s: float) -> int:
    from simulate.faults import KINDS

    virtual_s = sum(outcome.virtual_s for outcome in outcomes)
    cpu_s = sum(outcome.cpu_s for outcome in outcomes)
    kinds = Counter(kind for outcome in outcomes for kind in outcome.kinds)
    failed = [outcome.seed for outcome in outcomes if outcome.violations]
    print('faults, and in how many places they occurred:')
    for name in KINDS:
        print(f'    {name:36} {kinds[name]}')
    print(
        f'{len(outcomes)} seeds: {virtual_s:.0f} virtual seconds in {real_s:.0f} s, '
        f'{virtual_s / real_s:.0f} times real time, {virtual_s / cpu_s:.0f} times by a core; '
        f'{sum(outcome.actions for outcome in outcomes)} actions; '
        f'{min(len(outcome.kinds) for outcome in outcomes)} faults or more in each'
    )
    print(f'violations in {len(failed)} seeds{": " if failed else ""}{failed or ""}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
