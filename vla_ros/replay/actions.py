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

_LISTS = ('action', 'normalized_action', 'token_ids', 'token_probabilities')
_COLUMNS = ('action', 'normalized_action', 'token_id', 'token_probability')  # in the CSV, numbered


_MAX_BYTES = 1_000_000_000  # a day of images at 10 Hz
_WHOLE: tuple[tuple[type, ...], str] = ((int,), 'whole numbers')
_NUMBER: tuple[tuple[type, ...], str] = ((int, float), 'numbers')
_TEXT: tuple[tuple[type, ...], str] = ((str,), 'text')
_TYPES = {
    **dict.fromkeys(('frame', 'bag_time_ns', 'stamp_ns', 'token_ids'), _WHOLE),
    **dict.fromkeys(('action', 'normalized_action', 'token_probabilities'), _NUMBER),
    **dict.fromkeys(('instruction', 'unnorm_key', 'invalid_reason'), _TEXT),
    'valid': ((bool,), 'true or false'),
}


class ActionsError(VlaError):
    """A folder that does not hold the files of a replay."""


@dataclass(frozen=True)
class ActionRow:
    """The answer to one image.

    :param frame: the image's number in its topic, from 0.
    :param valid: whether the node would publish the action if it were in time.
    :param action: D values, un-normalised; a value that is not finite is null in actions.jsonl.
    :param normalized_action: D values before un-normalising.
    :param token_ids: at most D tokens.
    :param token_probabilities: D, probability of each token among the action tokens.
    """

    frame: int
    bag_time_ns: int
    stamp_ns: int
    instruction: str
    unnorm_key: str
    valid: bool
    invalid_reason: str
    action: tuple[float, ...]
    normalized_action: tuple[float, ...]
    token_ids: tuple[int, ...]
    token_probabilities: tuple[float, ...]


def action_row(frame: Frame, prediction: Prediction, spec: PolicySpec) -> ActionRow:
    """Return the row of the answer to a frame."""
    reason = invalid_reason(prediction, spec)
    normalized, tokens = prediction.normalized_actions, prediction.tokens
    return ActionRow(
        frame=frame.number,
        bag_time_ns=frame.bag_time_ns,
        stamp_ns=frame.stamp_ns,
        instruction=frame.instruction,
        unnorm_key=prediction.unnorm_key,
        valid=reason is None,
        invalid_reason='' if reason is None else str(reason),
        action=tuple(prediction.actions[0].tolist()),
        normalized_action=() if normalized is None else tuple(normalized[0].tolist()),
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

    def __init__(self, folder: Path, action_dim: int) -> None:
        """Prepare files in a folder, without opening them.

        :param action_dim: number of columns of each list in the CSV.
        """
        self._folder = folder
        self._action_dim = action_dim

    def __enter__(self) -> ActionFiles:
        self._jsonl = (self._folder / JSONL_NAME).open('w', encoding='utf-8', newline='\n')
        self._csv = (self._folder / CSV_NAME).open('w', encoding='utf-8', newline='')
        self._rows = csv.writer(self._csv, lineterminator='\n')
        single = [field.name for field in dataclasses.fields(ActionRow) if field.name not in _LISTS]
        each = [f'{name}_{index}' for name in _COLUMNS for index in range(self._action_dim)]
        self._rows.writerow([*single, *each])
        return self

    def __exit__(self, *_: object) -> None:
        self._jsonl.close()
        self._csv.close()

    def write(self, row: ActionRow) -> None:
        """Write one row to both files."""
        values = dataclasses.asdict(row)
        lists = [values.pop(name) for name in _LISTS]
        self._rows.writerow(
            [*(json.dumps(v) if isinstance(v, bool) else v for v in values.values())]
            + [cell for one in lists for cell in self._cells(one)]
        )
        finite = {name: [_finite(v) for v in one] for name, one in zip(_LISTS, lists, strict=True)}
        line = json.dumps(values | finite, ensure_ascii=False, allow_nan=False)
        self._jsonl.write(f'{line}\n')

    def _cells(self, values: Sequence[float]) -> list[str]:
        """Return one cell for each column; empty where there is no value."""
        cells = [repr(value) for value in values[: self._action_dim]]
        return cells + [''] * (self._action_dim - len(cells))


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
    lists = {name: tuple(math.nan if v is None else v for v in values[name]) for name in _LISTS}
    row = ActionRow(**values | lists)
    for name, (type_, what) in _TYPES.items():
        value = getattr(row, name)
        if not all(type(one) in type_ for one in (value if name in _LISTS else [value])):
            raise TypeError(f'{name} is {quoted(value)}; expected {what}')
    return row


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
