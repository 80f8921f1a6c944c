# SPDX-License-Identifier: Apache-2.0
"""A file for the viewer of rerun (rerun.io), written without keeping more than a part in memory.

The only module that imports rerun, when a file is written: it is an optional dependency. Every row
has its place on three timelines, ``capture``, ``recorded`` and ``frame``, as in
:class:`~vla_ros.replay.moments.Moment`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from vla_ros.errors import VlaError
from vla_ros.replay.moments import Moment

Parts = tuple[str, ...]  # of the path of an entity
Kind = Literal['number', 'jpeg', 'text']

_MODULE = 'rerun'
_MOST_ROWS, _MOST_BYTES = 8192, 1_000_000  # of one entity in memory
# The views beside the actions, by the first part of their entities.
_OTHERS = {
    'token_probability': 'token probabilities',
    'latency_s': 'latencies [s]',
    'state': 'states',
    'velocity': 'velocities [m/s, rad/s]',
}


class RerunError(VlaError):
    """A file for the viewer that can't be written."""


class RerunMissing(RerunError):
    """The optional dependency is not installed."""


def require_rerun() -> None:
    """Check that rerun is installed, without importing it.

    :raises RerunMissing: if it is not.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise RerunMissing(
            '--rerun needs rerun-sdk, which is not installed', 'pip install rerun-sdk'
        )


@dataclass
class _Rows:
    """Rows of one entity that are not written yet."""

    kind: Kind
    moments: list[Moment] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    size: int = 0  # bytes


class RerunFile:
    """A file that is being written, open within a ``with`` statement.

    :raises OSError: on entering, if the file can't be written.
    :raises RerunError: if not all of it was written.
    """

    def __init__(self, path: Path, title: str) -> None:
        """Prepare a file, without opening it.

        :param title: name of the recording in the viewer.
        """
        self.path = path
        self._title = title
        self.entities: dict[Parts, Kind] = {}  # all that have rows, also those that are written
        self._rows: dict[Parts, _Rows] = {}
        self._documents: list[Parts] = []

    def __enter__(self) -> RerunFile:
        import rerun

        self.path.write_bytes(b'')  # the library's own errors do not name the cause
        self._rerun = rerun
        self._stream = rerun.RecordingStream('vla_replay', send_properties=False)
        with self._naming_failures():
            self._stream.save(self.path)
        self._stream.send_recording_name(self._title)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with self._naming_failures():
                    for parts in [*self._rows]:
                        self._send(parts)
                    self._stream.send_blueprint(self._blueprint())
                    self._stream.flush()
        finally:
            self._stream.disconnect()

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        """Turn the errors of the library's writer into ours."""
        try:
            yield
        except RuntimeError as error:
            raise RerunError(
                f'{self.path} was not written to its end ({error})', 'make space on its disk'
            ) from error

    # -- rows --------------------------------------------------------------------------------------

    def number(self, parts: Parts, moment: Moment, value: float) -> None:
        """Add a value of a series; NaN is a gap."""
        self._add(parts, 'number', moment, value, 8)

    def jpeg(self, parts: Parts, moment: Moment, data: bytes) -> None:
        """Add an image."""
        self._add(parts, 'jpeg', moment, data, len(data))

    def text(self, parts: Parts, moment: Moment, text: str, is_warning: bool = False) -> None:
        """Add a line of a log."""
        self._add(parts, 'text', moment, (text, 'WARN' if is_warning else 'INFO'), len(text))

    def document(self, parts: Parts, markdown: str) -> None:
        """Add a text that holds for the whole recording."""
        self._documents.append(parts)
        document = self._rerun.TextDocument(markdown, media_type='text/markdown')
        self._stream.log(self._entity(parts), document, static=True)

    def style(self, parts: Parts, name: str, color: str) -> None:
        """Give a series its name in legends, and its colour as ``#RRGGBB``."""
        rgb = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
        lines = self._rerun.SeriesLines(names=name, colors=[rgb])
        self._stream.log(self._entity(parts), lines, static=True)

    def _add(self, parts: Parts, kind: Kind, moment: Moment, value: Any, size: int) -> None:
        self.entities.setdefault(parts, kind)
        rows = self._rows.setdefault(parts, _Rows(kind))
        rows.moments.append(moment)
        rows.values.append(value)
        rows.size += size
        if len(rows.values) >= _MOST_ROWS or rows.size >= _MOST_BYTES:
            self._send(parts)

    def _send(self, parts: Parts) -> None:
        """Write the rows of an entity."""
        rerun, rows = self._rerun, self._rows.pop(parts)
        capture, recorded, frame = (
            np.array([getattr(moment, name) for moment in rows.moments], np.int64)
            for name in ('capture_ns', 'bag_time_ns', 'frame')
        )
        times = [
            rerun.TimeColumn('capture', timestamp=capture.astype('datetime64[ns]')),
            rerun.TimeColumn('recorded', timestamp=recorded.astype('datetime64[ns]')),
            rerun.TimeColumn('frame', sequence=frame),
        ]
        columns = _columns(rerun, rows.kind, rows.values)
        self._stream.send_columns(self._entity(parts), times, columns, strict=True)

    def _entity(self, parts: Parts) -> str:
        return str(self._rerun.new_entity_path([*parts]))

    # -- the views ---------------------------------------------------------------------------------

    def _blueprint(self) -> Any:
        """Return the layout: images and the log on the left, series on the right."""
        import rerun.blueprint as views

        images = [
            views.Spatial2DView(origin=self._entity(parts), name='/'.join(parts[1:]))
            for parts, kind in self.entities.items()
            if kind == 'jpeg'
        ]
        log = views.TextLogView(origin='log', name='instructions and holds')
        roots = {parts[0] for parts in self.entities}
        columns = dict.fromkeys(parts[1] for parts in self.entities if parts[0] == 'action')
        actions = [
            views.TimeSeriesView(
                origin=self._entity(('action', column)),
                name=column,
                # One is enough: a source has the same colour everywhere.
                plot_legend=views.PlotLegend(visible=number == 0),
            )
            for number, column in enumerate(columns)
        ]
        others = [
            views.TimeSeriesView(origin=root, name=name)
            for root, name in _OTHERS.items()
            if root in roots
        ]
        left = [*([views.Grid(*images)] if images else []), log]
        tabs = [*([views.Vertical(*actions, name='actions')] if actions else []), *others]
        documents = [
            views.TextDocumentView(origin=self._entity(parts), name=parts[-1])
            for parts in self._documents
        ]
        return views.Blueprint(
            views.Horizontal(views.Vertical(*left), views.Tabs(*tabs, *documents)),
            views.BlueprintPanel(state='collapsed'),
            views.SelectionPanel(state='collapsed'),
            views.TimePanel(state='collapsed', timeline='capture'),
        )


def _columns(rerun: Any, kind: Kind, values: Sequence[Any]) -> Any:
    """Return the components of rows of one kind."""
    if kind == 'number':
        return rerun.Scalars.columns(scalars=values)
    if kind == 'jpeg':
        return rerun.EncodedImage.columns(blob=values, media_type=['image/jpeg'] * len(values))
    return rerun.TextLog.columns(text=[text for text, _ in values], level=[at for _, at in values])
