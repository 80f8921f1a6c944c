# SPDX-License-Identifier: Apache-2.0
"""Drawing of an action: a displacement of the end effector with its gripper, otherwise plain bars.

The data set's contract converts the values to metres, radians and the gripper's opening. Without a
contract the values are shown unchanged and have no unit. Of a chunk, the first row is drawn, and
the others as thin marks on the same scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vla_ros.drawing import (
    MUTED,
    PANEL,
    RULE,
    TEXT,
    draw_arrow,
    draw_rings,
    font,
    full_scale,
    number,
    share,
    wrap,
    write,
)
from vla_ros.motion import ACTION_DIM, ActionContract, Contract, describe
from vla_ros.types import ActionSpace, PolicySpec, Prediction, unknown_names
from vla_ros.view.layout import COLUMN, HEADER, LEFT, SIDE

_RADIUS = 104  # radius of the translation's full scale
_BAR = 12  # a bar's thickness
_MOST_ROWS = 18

# Horizontal positions, from the left edge of the action's column.
_CENTRE = _RADIUS + 4
_UPRIGHT = 236  # the bar of z
_NEAR_LABEL = 276  # labels of x, y and z
_TRACK = (64, 262)  # horizontal bars
_SHORTEST_TRACK = 80  # pixels, beside long names
_NUMBER_END = 372
_PROBABILITY = (386, COLUMN)

# Vertical positions, from the header's lower edge.
_PLOT_CENTRE = 42 + _RADIUS
_NEAR_ROWS = (78, 138, 198)
_ROTATION_ROWS = (300, 328, 356)
_GRIPPER_ROW = 408
_FIRST_ROW = 48

# Minimum full scales: a motion too small to matter must not look large.
_SMALLEST_TRANSLATION = 0.01
_SMALLEST_ROTATION = 0.05

_POSE_NAMES = ('x', 'y', 'z', 'turn 1', 'turn 2', 'turn 3', 'gripper')  # if nobody knows better
_WORDS = {'rx': 'turn x', 'ry': 'turn y', 'rz': 'turn z'}  # of a contract's rotation vector
_NO_UNIT = ', unit unknown'
_FRAMES = {'base': "the base's frame", 'end_effector': "the end effector's frame"}


@dataclass(frozen=True)
class ActionLayout:
    """The parts of the drawing that stay while the values change.

    :param names: of the values.
    :param is_pose: whether they are a translation, a rotation and the gripper.
    :param has_probabilities: whether each has a token with a probability.
    """

    names: tuple[str, ...]
    is_pose: bool
    has_probabilities: bool

    @property
    def track(self) -> tuple[int, int]:
        """Horizontal ends of the bars: beside the widest name, if that leaves enough."""
        if self.is_pose:
            return _TRACK
        widest = max((round(font(14).getlength(name)) for name in self.names), default=0)
        return min(max(_TRACK[0], widest + 8), _TRACK[1] - _SHORTEST_TRACK), _TRACK[1]


def layout_of(
    prediction: Prediction, spec: PolicySpec | None, contract: Contract | None
) -> ActionLayout:
    """Return the layout of a prediction's action.

    :param spec: of the policy; None, or an action of another length: its values have no names.
    :param contract: meaning of the values, if it is known.
    """
    # Codes of a whole chunk are of no single value.
    tokens = prediction.tokens
    has_tokens = tokens is not None and len(tokens.probabilities) >= prediction.actions.size
    dim = prediction.actions[:1].size
    numbers = tuple(str(column) for column in range(dim))
    if spec is None or spec.action_dim != dim:
        return ActionLayout(numbers, False, has_tokens)
    description = describe(spec, contract)
    is_pose = dim == ACTION_DIM and description.action_space is ActionSpace.POSE_DELTA
    names = tuple(_WORDS.get(name, name) for name in description.names)
    if description.names == unknown_names(dim):
        names = _POSE_NAMES if is_pose else numbers
    return ActionLayout(names, is_pose, has_tokens)


def draw_action_frame(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    layout: ActionLayout,
    contract: Contract | None,
) -> None:
    """Draw the parts that all actions of a layout share: names, rings, the bars' tracks.

    :param contract: meaning of the values, if it is known.
    """
    names = layout.names
    if layout.has_probabilities:
        write(draw, (LEFT + COLUMN, HEADER + 26), 'probability', MUTED, 12, 'rt')
    if layout.is_pose:
        _draw_tracks(draw, names[3:], (*_ROTATION_ROWS, _GRIPPER_ROW), layout.track)
        _draw_axes(canvas, draw, names[:3])
        text = 'bar from 0 to 1' if contract is None else 'gripper opening, 0 closed to 1 open'
        write(draw, (LEFT, HEADER + _GRIPPER_ROW - 22), text, MUTED, 12, 'lt')
        return
    _draw_tracks(draw, names, _row_tops(len(names)), layout.track)
    if len(names) > _MOST_ROWS:
        text = f'… and {len(names) - _MOST_ROWS} more'
        write(draw, (LEFT, HEADER + SIDE), text, MUTED, 12, 'lb')


def _draw_tracks(
    draw: ImageDraw.ImageDraw, names: Sequence[str], tops: Sequence[int], track: tuple[int, int]
) -> None:
    """Draw a name and an empty bar for each value that has a row."""
    for name, top in zip(names, tops, strict=False):
        y = HEADER + top
        for line in wrap(name, 14, track[0] - 4, 1):
            write(draw, (LEFT, y + _BAR / 2), line, MUTED, 14, 'lm')
        draw.rectangle((LEFT + track[0], y, LEFT + track[1], y + _BAR - 1), PANEL)


def _draw_axes(canvas: Image.Image, draw: ImageDraw.ImageDraw, names: Sequence[str]) -> None:
    """Draw the axes as seen from above: x points up and y to the left; z is beside them."""
    x, y = LEFT + _CENTRE, HEADER + _PLOT_CENTRE
    disc = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
    draw.ellipse(disc, PANEL)
    draw_rings(canvas, (x, y), [_RADIUS // 2, _RADIUS], RULE)
    draw.line((x, y - _RADIUS, x, y + _RADIUS), RULE)
    draw.line((x - _RADIUS, y, x + _RADIUS, y), RULE)
    write(draw, (x + 5, y - _RADIUS + 5), '+x', MUTED, 13, 'lt')
    write(draw, (x - _RADIUS + 6, y - 5), '+y', MUTED, 13, 'lb')
    upright = LEFT + _UPRIGHT
    draw.rectangle((upright, y - _RADIUS, upright + _BAR - 1, y + _RADIUS), PANEL)
    write(draw, (upright + _BAR + 4, y - _RADIUS), '+z', MUTED, 13, 'lt')
    for name, top in zip(names, _NEAR_ROWS, strict=True):
        middle = HEADER + top + _BAR / 2
        for line in wrap(name, 14, 24, 1):
            write(draw, (LEFT + _NEAR_LABEL, middle), line, MUTED, 14, 'lm')


def _row_tops(dim: int) -> list[int]:
    """Return the top of each row that has room, from the header's lower edge."""
    rows = min(dim, _MOST_ROWS)
    pitch = min(28, (SIDE - _FIRST_ROW) // max(rows, 1))
    return [_FIRST_ROW + row * pitch for row in range(rows)]


def draw_action(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    prediction: Prediction,
    layout: ActionLayout,
    contract: Contract | None,
    frame: str,
    colour: str,
) -> None:
    """Draw the values and the probabilities of their tokens over :func:`draw_action_frame`.

    :param contract: meaning of the values, if it is known.
    :param frame: the robot's own name of the coordinate frame; may be empty.
    """
    rows = prediction.actions.tolist()
    for line in wrap(prediction.unnorm_key, 12, 220, 1):
        write(draw, (LEFT + COLUMN, HEADER + 2), line, MUTED, 12, 'rt')
    if layout.is_pose:
        tops = _draw_motion(canvas, draw, rows, contract, frame, colour)
    else:
        tops = _draw_values(draw, rows, layout, colour)
    if prediction.tokens is None or not layout.has_probabilities:
        return
    probabilities = prediction.tokens.probabilities.tolist()
    for row, top in enumerate(tops):
        probability = probabilities[row] if row < len(probabilities) else math.nan
        _draw_probability(draw, top, probability)


def _draw_values(
    draw: ImageDraw.ImageDraw, rows: list[list[float]], layout: ActionLayout, colour: str
) -> list[int]:
    """Draw values as bars.

    :returns: top of each value's row, from the header's lower edge.
    """
    dim = len(layout.names)
    tops = _row_tops(dim)
    most = full_scale([value for row in rows for value in row], _SMALLEST_TRANSLATION)
    _draw_caption(draw, 26, f'{dim} values, bars ±{most:g}')
    for column, top in enumerate(tops):
        values = [row[column] for row in rows]
        _draw_bar(draw, top, 0.5, [0.5 + share(v, most) / 2 for v in values], colour, layout.track)
        _draw_number(draw, top, number(values[0]))
    return tops


def _draw_motion(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    rows: list[list[float]],
    contract: Contract | None,
    frame: str,
    colour: str,
) -> list[int]:
    """Draw rows of seven values as a translation, a rotation and the gripper.

    :returns: top of each value's row, from the header's lower edge.
    """
    translations, rotations = [row[:3] for row in rows], [row[3:6] for row in rows]
    openings = [row[6] for row in rows]
    metres = radians = ''
    if isinstance(contract, ActionContract):
        metres, radians = ' m', ' rad'
        translations = [[contract.metres_per_unit * v for v in row] for row in translations]
        rotations = [[contract.radians_per_unit * v for v in row] for row in rotations]
        openings = [contract.opening(opening) for opening in openings]
        frame = frame or _FRAMES[contract.frame]

    most = full_scale(
        [v for x, y, z in translations for v in (math.hypot(x, y), x, y, z)], _SMALLEST_TRANSLATION
    )
    [named] = wrap(frame, 12, 130, 1) or ('its own frame',)
    _draw_caption(draw, 26, f'translation in {named}, ring {most:g}{metres or _NO_UNIT}')
    _draw_translation(canvas, draw, [[share(v, most) for v in row] for row in translations], colour)
    for value, top in zip(translations[0], _NEAR_ROWS, strict=True):
        _draw_number(draw, top, number(value) + metres)

    most = full_scale([v for row in rotations for v in row], _SMALLEST_ROTATION)
    _draw_caption(draw, _ROTATION_ROWS[0] - 22, f'rotation, bars ±{most:g}{radians or _NO_UNIT}')
    for values, top in zip(zip(*rotations, strict=True), _ROTATION_ROWS, strict=True):
        _draw_bar(draw, top, 0.5, [0.5 + share(v, most) / 2 for v in values], colour, _TRACK)
        _draw_number(draw, top, number(values[0]) + radians)
    _draw_bar(draw, _GRIPPER_ROW, 0.0, [max(share(v, 1.0), 0.0) for v in openings], colour, _TRACK)
    _draw_number(draw, _GRIPPER_ROW, number(openings[0]))
    return [*_NEAR_ROWS, *_ROTATION_ROWS, _GRIPPER_ROW]


def _draw_translation(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, rows: list[list[float]], colour: str
) -> None:
    """Draw an arrow for x and y, and a bar for z; for each further row a dot and a line.

    :param rows: shares of the full scale, -1 to 1; a NaN is not drawn.
    """
    (ahead, aside, up), *others = ([_RADIUS * part for part in row] for row in rows)
    x, zero = LEFT + _CENTRE, HEADER + _PLOT_CENTRE
    left, right = LEFT + _UPRIGHT, LEFT + _UPRIGHT + _BAR - 1
    if not math.isnan(ahead + aside):
        draw_arrow(canvas, (x, zero), (-aside, -ahead), colour)
    if not math.isnan(up):
        draw.rectangle((left, zero - max(up, 0.0), right, zero - min(up, 0.0)), colour)
    for ahead, aside, up in others:
        if not math.isnan(ahead + aside):
            draw.rectangle((x - aside - 1, zero - ahead - 1, x - aside, zero - ahead), TEXT)
        if not math.isnan(up):
            draw.line((left, zero - up, right, zero - up), TEXT)
    draw.line((left - 3, zero, right + 3, zero), MUTED)


def _draw_caption(draw: ImageDraw.ImageDraw, top: int, text: str) -> None:
    write(draw, (LEFT, HEADER + top), text, MUTED, 12, 'lt')


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    top: int,
    zero: float,
    tips: Sequence[float],
    colour: str,
    track: tuple[int, int],
) -> None:
    """Draw a horizontal bar from zero to the first value, and a thin mark at each other value.

    :param zero: as a share of the track.
    :param tips: the values, likewise; a NaN is not drawn.
    """
    y = HEADER + top
    start, tip, *marks = (LEFT + track[0] + part * (track[1] - track[0]) for part in (zero, *tips))
    if not math.isnan(tip):
        draw.rectangle((min(start, tip), y, max(start, tip), y + _BAR - 1), colour)
    for mark in marks:
        if not math.isnan(mark):
            draw.line((mark, y, mark, y + _BAR - 1), TEXT)
    draw.line((start, y - 2, start, y + _BAR + 1), MUTED)


def _draw_number(draw: ImageDraw.ImageDraw, top: int, text: str) -> None:
    middle = HEADER + top + _BAR / 2
    write(draw, (LEFT + _NUMBER_END, middle), text, TEXT, 14, 'rm')


def _draw_probability(draw: ImageDraw.ImageDraw, top: int, value: float) -> None:
    """Draw a number, and a bar below it from 0 to 1."""
    first, last = LEFT + _PROBABILITY[0], LEFT + _PROBABILITY[1]
    y = HEADER + top
    text = f'{value:.3f}' if 0 <= value <= 1 else '?'
    write(draw, (last, y + 4), text, TEXT, 13, 'rm')
    draw.rectangle((first, y + 13, last, y + 16), PANEL)
    if 0 < value <= 1:
        draw.rectangle((first, y + 13, first + value * (last - first), y + 16), TEXT)
