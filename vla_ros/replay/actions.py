# SPDX-License-Identifier: Apache-2.0
"""Files of a policy's answers to each image: actions.csv and actions.jsonl.

Both have the same content; only actions.jsonl is read back. Numbers have enough digits to be read
back exactly, so equal answers give equal bytes.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.errors import VlaError
from vla_ros.files import FileError, read_text
from vla_ros.replay.frames import Frame
from vla_ros.text import printable, quoted
from vla_ros.types import PolicySpec, Prediction, invalid_reason

JSONL_NAME = 'actions.jsonl'
CSV_NAME = 'actions.csv'

_VERSION = 2
_ROWS = ('actions', 'normalized_actions')
_TOKENS = ('token_ids', 'token_probabilities')
_LISTS = (*_ROWS, *_TOKENS)
_ROW_COLUMNS = ('action', 'normalized_action')  # in the CSV, numbered
_TOKEN_COLUMNS = ('token_id', 'token_probability')

_MAX_BYTES = 1_000_000_000  # a day of images at 10 Hz
_WHOLE: tuple[tuple[type, ...], str] = ((int,), 'whole numbers')
_NUMBER: tuple[tuple[type, ...], str] = ((int, float), 'numbers')
_TEXT: tuple[tuple[type, ...], str] = ((str,), 'text')
_TYPES = {
    **dict.fromkeys(('frame', 'bag_time_ns', 'stamp_ns', 'token_ids'), _WHOLE),
    **dict.fromkeys(('actions', 'normalized_actions', 'token_probabilities'), _NUMBER),
    **dict.fromkeys(('instruction', 'unnorm_key', 'invalid_reason'), _TEXT),
    'valid': ((bool,), 'true or false'),
}


class ActionsError(VlaError):
    """A folder that does not hold the files of a replay."""


Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ActionRow:
    """The answer to one observation.

    :param frame: number of the first camera's image in its topic, from 0.
    :param stamp_ns: capture time of the oldest image.
    :param valid: whether the node would publish the action if it were in time.
    :param actions: [K][D], un-normalised; a value that is not finite is null in actions.jsonl.
    :param normalized_actions: [K][D] before un-normalising; empty if the policy has none.
    :param token_ids: at most K x D tokens; empty if the policy decodes none.
    :param token_probabilities: K x D, probability of each token among the action tokens, or empty.
    """

    frame: int
    bag_time_ns: int
    stamp_ns: int
    instruction: str
    unnorm_key: str
    valid: bool
    invalid_reason: str
    actions: Rows
    normalized_actions: Rows
    token_ids: tuple[int, ...]
    token_probabilities: tuple[float, ...]

    @property
    def action(self) -> tuple[float, ...]:
        """The first row, [D]."""
        return self.actions[0] if self.actions else ()


def action_row(frame: Frame, prediction: Prediction, spec: PolicySpec) -> ActionRow:
    """Return the row of the answer to a frame."""
    reason = invalid_reason(prediction, spec)
    normalized, tokens = prediction.normalized_actions, prediction.tokens
    return ActionRow(
        frame=frame.number,
        bag_time_ns=frame.bag_time_ns,
        stamp_ns=frame.observation.stamp_ns,
        instruction=frame.observation.instruction,
        unnorm_key=prediction.unnorm_key,
        valid=reason is None,
        invalid_reason='' if reason is None else str(reason),
        actions=tuple(map(tuple, prediction.actions.tolist())),
        normalized_actions=() if normalized is None else tuple(map(tuple, normalized.tolist())),
        token_ids=() if tokens is None else tuple(tokens.ids.tolist()),
        # The fewest digits that identify a float32.
        token_probabilities=()
        if tokens is None
        else tuple(float(str(one)) for one in tokens.probabilities),
    )


class ActionFiles:
    """The files of a running replay, open within a ``with`` statement.

    :raises OSError: if the files can't be written.
    """

    def __init__(self, folder: Path, spec: PolicySpec) -> None:
        """Prepare files in a folder, without opening them.

        :param spec: of the policy; it gives the columns of the CSV.
        """
        self._folder = folder
        self._rows, self._columns = spec.action_shape
        self._has_tokens = spec.emits_tokens

    def __enter__(self) -> ActionFiles:
        self._jsonl = (self._folder / JSONL_NAME).open('w', encoding='utf-8', newline='\n')
        self._csv = (self._folder / CSV_NAME).open('w', encoding='utf-8', newline='')
        self._table = csv.writer(self._csv, lineterminator='\n')
        single = [field.name for field in dataclasses.fields(ActionRow) if field.name not in _LISTS]
        names = (*_ROW_COLUMNS, *(_TOKEN_COLUMNS if self._has_tokens else ()))
        self._table.writerow([*single, *(f'{name}_{i}' for name in names for i in self._indices())])
        return self

    def __exit__(self, *_: object) -> None:
        self._jsonl.close()
        self._csv.close()

    def _indices(self) -> list[str]:
        """Return the column's number of each value, after the row's where there are several."""
        columns = [str(column) for column in range(self._columns)]
        if self._rows == 1:
            return columns
        return [f'{row}_{column}' for row in range(self._rows) for column in columns]

    def write(self, row: ActionRow) -> None:
        """Write one row to both files."""
        values = dataclasses.asdict(row)
        lists = {name: values.pop(name) for name in _LISTS}
        cells = [json.dumps(v) if isinstance(v, bool) else v for v in values.values()]
        for rows in (lists[name] for name in _ROWS):
            for index in range(self._rows):
                cells += _cells(rows[index] if index < len(rows) else (), self._columns)
        for tokens in (lists[name] for name in _TOKENS if self._has_tokens):
            cells += _cells(tokens, self._rows * self._columns)
        self._table.writerow(cells)
        line = {'version': _VERSION} | values | _finite(lists)
        self._jsonl.write(f'{json.dumps(line, ensure_ascii=False, allow_nan=False)}\n')


def _cells(values: Sequence[float], count: int) -> list[str]:
    """Return this number of cells; those without a value are empty."""
    cells = [repr(value) for value in values[:count]]
    return cells + [''] * (count - len(cells))


def read_actions(folder: Path) -> list[ActionRow]:
    """Return the rows of an earlier replay.

    :raises ActionsError: if the folder holds no actions.jsonl of a replay.
    """
    path = folder / JSONL_NAME
    try:
        lines = read_text(path, _MAX_BYTES).removesuffix('\n').split('\n')
    except FileError as error:
        raise ActionsError(
            f'{folder} is not the folder of a replay ({error})',
            f'name the --output folder of an earlier replay, which holds {JSONL_NAME}',
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            problem = f'line {number}: {printable(repr(error), 200)}'
            raise ActionsError(
                f'{path} was not written by vla_replay, or is damaged ({problem})',
                'replay the recording again',
            ) from error
    return rows


def _row(values: Any) -> ActionRow:
    if not isinstance(values, dict):
        raise TypeError(f'it is {quoted(values)}; expected an object')
    version = values.pop('version', 1)
    if version == 1:  # by vla_ros 0.1: lists of one row
        for name in _ROWS:
            row = values.pop(name.removesuffix('s'))
            values[name] = [row] if row else []
    elif version != _VERSION:
        raise ValueError(f'version is {quoted(version)}; this vla_replay reads 1 and {_VERSION}')
    rows = {name: tuple(map(_row_values, values[name])) for name in _ROWS}
    answer = ActionRow(**values | rows | {name: _row_values(values[name]) for name in _TOKENS})
    for name, (type_, what) in _TYPES.items():
        value = getattr(answer, name)
        each = [v for one in value for v in one] if name in _ROWS else value
        if not all(type(one) in type_ for one in (each if name in _LISTS else [value])):
            raise TypeError(f'{name} is {quoted(value)}; expected {what}')
    return answer


def _row_values(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return a list of actions.jsonl, with NaN for null."""
    return tuple(math.nan if value is None else value for value in row)


def _finite(value: Any) -> Any:
    """Return a number, or None for one that is not finite; the same within tuples and dicts."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [_finite(one) for one in value]
    return value if math.isfinite(value) else None
