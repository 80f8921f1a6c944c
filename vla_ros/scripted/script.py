# SPDX-License-Identifier: Apache-2.0
"""Reader of scripts: options and faults. The package's docstring has the grammar."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace

import numpy as np

from vla_ros.types import PolicyError

NAME = 'scripted'

_ANY_TIME = ('slow', 'stuck', 'hung', 'lock', 'exit', 'raise', 'oom')
_AT_WARMUP = ('self_check',)
_AT_CALLS = ('refuse', 'nan', 'inf', 'dim', 'row', 'unbounded', 'invalid', 'changed')
_FAULTS = {'load': _ANY_TIME, 'warmup': _ANY_TIME + _AT_WARMUP, 'call': _ANY_TIME + _AT_CALLS}
_KINDS = {'whole number': r'[0-9]+', 'number': r'[0-9]+(\.[0-9]*)?|\.[0-9]+'}
_NUMBERS = {  # kind, lowest and highest
    'slow': ('number', 0, 86400),
    'hung': ('number', 0, 86400),
    'lock': ('number', 0, 86400),
    'exit': ('whole number', 0, 255),
    'dim': ('whole number', 0, 1000),
    'row': ('whole number', 0, 1000),
    'seed': ('whole number', 0, 2**32 - 1),
    'action_dim': ('whole number', 1, 1000),
    'chunk': ('whole number', 1, 1000),
    'cameras': ('whole number', 1, 16),
    'state': ('whole number', 0, 1000),
    'period': ('number', 0.001, 3600),
    'tokens': ('whole number', 0, 1),
}
_NUMBER_OPTIONAL = ('hung', 'lock', 'exit')


@dataclass(frozen=True)
class Options:
    """The options of a scripted policy.

    :param seed: seed of random faults.
    :param action_dim: columns of a valid action.
    :param chunk: rows of a valid action.
    :param cameras: number of cameras.
    :param state: number of values of the state.
    :param period: time between two rows [s]; None if unknown.
    :param tokens: 1 if it emits tokens, else 0.
    """

    seed: int = 0
    action_dim: int = 7
    chunk: int = 1
    cameras: int = 1
    state: int = 0
    period: float | None = None
    tokens: int = 1


_OPTIONS = tuple(field.name for field in fields(Options))


@dataclass(frozen=True)
class Fault:
    """One fault, at the calls ``first`` to ``last`` if there is no probability.

    :param text: the fault as written in the script.
    :param number: the number after ``=``; infinite if there is none.
    :param phase: ``load``, ``warmup`` or ``call``.
    """

    text: str
    kind: str
    number: float = math.inf
    phase: str = 'call'
    first: float = 1
    last: float = math.inf
    probability: float | None = None

    def is_due(self, call: int, random: np.random.Generator) -> bool:
        """Return whether the fault occurs at this call; a random fault draws one number."""
        if self.probability is not None:
            return random.random() < self.probability
        return self.phase == 'call' and self.first <= call <= self.last


def is_scripted(model: str) -> bool:
    """Return whether the parameter ``model`` names a scripted policy."""
    # The bare word too: YAML, and so the command line, reads 'scripted:' as a mapping.
    return model.partition(':')[0] == NAME


def read_script(model: str) -> tuple[list[Fault], Options]:
    """Read the faults, slow ones first, and the options.

    :raises PolicyError: if an item is not allowed; it names the first one, and what is allowed.
    """
    script = model.partition(':')[2]
    faults: list[Fault] = []
    given: dict[str, float] = {}
    try:
        for text in script.split(',') if script else []:
            name, _, number = text.partition('=')
            if name in given:
                raise ValueError(f'{text!r}: {name} is allowed once')
            if name in _OPTIONS:
                value = _read_number(text, name, number)
                given[name] = int(value) if _NUMBERS[name][0] == 'whole number' else value
            else:
                faults.append(_read_fault(text))
        options = Options(**given)  # type: ignore[arg-type]
        for kind, option in (('dim', 'action_dim'), ('row', 'chunk')):
            for fault in faults:
                if fault.kind == kind and fault.number == getattr(options, option):
                    raise ValueError(f'{fault.text!r} is not a fault: it equals the {option}')
    except ValueError as error:
        example = 'scripted:slow=0.3@10-20,nan@5%,seed=1'
        raise PolicyError(f'model {model!r}: {error}', f'for example {example}') from None
    return sorted(faults, key=lambda fault: fault.kind != 'slow'), options


def _read_fault(text: str) -> Fault:
    what, at, when = text.partition('@')
    kind, equals, number = what.partition('=')
    fault = _read_when(Fault(text, kind), when) if at else Fault(text, kind)
    if kind not in _FAULTS[fault.phase]:
        raise ValueError(
            f'{text!r} is not allowed; at load, warmup and calls there may be '
            f'{", ".join(_ANY_TIME)}; at warmup also {", ".join(_AT_WARMUP)}; at calls also '
            f'{", ".join(_AT_CALLS)}; '
            f'options are {", ".join(_OPTIONS)}',
        )
    if not equals and (kind not in _NUMBERS or kind in _NUMBER_OPTIONAL):
        return fault
    return replace(fault, number=_read_number(text, kind, number))


def _read_number(text: str, name: str, number: str) -> float:
    if name not in _NUMBERS:
        raise ValueError(f'{text!r}: {name} takes no number')
    kind, low, high = _NUMBERS[name]
    if not re.fullmatch(_KINDS[kind], number) or not low <= float(number) <= high:
        raise ValueError(f'{text!r}: {name}= needs a {kind} from {low} to {high}')
    return float(number)


def _read_when(fault: Fault, when: str) -> Fault:
    if when in ('load', 'warmup'):
        return replace(fault, phase=when)
    calls = re.fullmatch(r'([0-9]+)(-([0-9]*))?', when)
    if calls:
        first = float(calls[1])
        last = float(calls[3] or math.inf) if calls[2] else first
        if 1 <= first <= last:
            return replace(fault, first=first, last=last)
    share = re.fullmatch(r'([0-9]+(\.[0-9]+)?)%', when)
    if share and float(share[1]) <= 100:
        return replace(fault, probability=float(share[1]) / 100)
    raise ValueError(
        f'{fault.text!r}: after @ there may be load, warmup, calls N, N-M or N- (from 1), '
        'or P% of the calls'
    )
