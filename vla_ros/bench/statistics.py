"""What the reports have in common: percentiles, and numbers as a table for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Summary = dict[str, Any]


def percentiles(seconds: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    return {f'p{q}': float(np.percentile(seconds, q)) for q in (50, 95, 99)}


def table(title: str, names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Names to the left, numbers to the right; every row has the same columns."""
    width = max(len(text) for text in (title, *names))
    lines = [f'{title:{width}}', *(f'{name:{width}}' for name in names)]
    for column in rows[0]:
        cells = [column, *(row[column] for row in rows)]
        cell_width = max(map(len, cells))
        lines = [f'{line}  {cell:>{cell_width}}' for line, cell in zip(lines, cells, strict=True)]
    return '\n'.join(lines)
