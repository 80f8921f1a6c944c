"""Reads a script: which fault happens when. The package's docstring tells the grammar."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.types import PolicyError

NAME = 'scripted'

_ANY_TIME = ('slow', 'stuck', 'hung', 'lock', 'exit', 'raise', 'oom')
_AT_WARMUP = ('unproved',)
_AT_CALLS = ('refuse', 'nan', 'inf', 'dim', 'unbounded', 'invalid', 'changed')
_FAULTS = {'load': _ANY_TIME, 'warmup': _ANY_TIME + _AT_WARMUP, 'call': _ANY_TIME + _AT_CALLS}
_OPTIONS = {'seed': 0, 'action_dim': 7}
_KINDS = {'whole number': r'[0-9]+', 'number': r'[0-9]+(\.[0-9]*)?|\.[0-9]+'}
_NUMBERS = {  # kind, lowest and highest
    'slow': ('number', 0, 86400),
    'hung': ('number', 0, 86400),
    'lock': ('number', 0, 86400),
    'exit': ('whole number', 0, 255),
    'dim': ('whole number', 0, 1000),
    'seed': ('whole number', 0, 2**32 - 1),
    'action_dim': ('whole number', 1, 1000),
}
_NUMBER_OPTIONAL = ('hung', 'lock', 'exit')


@dataclass(frozen=True)
class Fault:
    """One fault; at the calls ``first`` to ``last`` if there is no probability.

    :param text: as written.
    :param number: infinite if there is none.
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
        """Whether it happens at this call; draws once if it is at random."""
        if self.probability is not None:
            return random.random() < self.probability
        return self.phase == 'call' and self.first <= call <= self.last


def is_scripted(model: str) -> bool:
    """Whether the parameter ``model`` asks for this policy."""
    # The bare word too: YAML, and so the command line, takes 'scripted:' for a mapping.
    return model.partition(':')[0] == NAME


def read_script(model: str) -> tuple[list[Fault], dict[str, int]]:
    """
    :raises PolicyError: naming the first item that is not allowed, and what is.
    """
    script = model.partition(':')[2]
    faults: list[Fault] = []
    options: dict[str, int] = {}
    try:
        for text in script.split(',') if script else []:
            name, _, number = text.partition('=')
            if name in options:
                raise ValueError(f'{text!r}: {name} is allowed once')
            if name in _OPTIONS:
                options[name] = int(_read_number(text, name, number))
            else:
                faults.append(_read_fault(text))
        options = _OPTIONS | options
        for fault in faults:
            if fault.kind == 'dim' and fault.number == options['action_dim']:
                raise ValueError(f'{fault.text!r} is no fault: allowed is all but the action_dim')
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
