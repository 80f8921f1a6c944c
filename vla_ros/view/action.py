"""Drawing of an action: the end effector's motion if it has seven values, otherwise plain bars.

The data set's contract converts the values to metres, radians and the gripper's opening. Without a
contract the values are shown unchanged and have no unit.
"""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from vla_ros.drawing import (
    MUTED,
    PANEL,
    RULE,
    TEXT,
    draw_arrow,
    draw_rings,
    full_scale,
    number,
    share,
    wrap,
    write,
)
from vla_ros.motion import ACTION_DIM, ActionContract
from vla_ros.types import Prediction
from vla_ros.view.layout import COLUMN, HEADER, LEFT, SIDE

_RADIUS = 104  # radius of the translation's full scale
_BAR = 12  # a bar's thickness
_MOST_ROWS = 18

# Horizontal positions, from the left edge of the action's column.
_CENTRE = _RADIUS + 4
_UPRIGHT = 236  # the bar of z
_NEAR_LABEL = 276  # labels of x, y and z
_TRACK = (64, 262)  # horizontal bars
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

_ROTATION_NAMES = {'rpy': ('roll', 'pitch', 'yaw'), 'axis_angle': ('turn x', 'turn y', 'turn z')}
_NO_UNIT = ', unit unknown'
_FRAMES = {'base': "the base's frame", 'end_effector': "the end effector's frame"}


def draw_action_frame(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, dim: int, contract: ActionContract | None
) -> None:
    """Draw the parts that all actions share: labels, rings, the bars' tracks.

    :param dim: number of values of the action.
    :param contract: meaning of the values, if it is known.
    """
    right = LEFT + COLUMN
    write(draw, (right, HEADER + 26), 'probability', MUTED, 12, 'rt')
    if dim != ACTION_DIM:
        rows = range(min(dim, _MOST_ROWS))
        _draw_tracks(draw, [(str(row), _row_top(row, dim)) for row in rows])
        if dim > _MOST_ROWS:
            text = f'… and {dim - _MOST_ROWS} more'
            write(draw, (LEFT, HEADER + SIDE), text, MUTED, 12, 'lb')
        return
    names = (
        ('turn 1', 'turn 2', 'turn 3') if contract is None else _ROTATION_NAMES[contract.rotation]
    )
    tops = (*_ROTATION_ROWS, _GRIPPER_ROW)
    _draw_tracks(draw, list(zip((*names, 'gripper'), tops, strict=True)))
    _draw_axes(canvas, draw)
    text = 'bar from 0 to 1' if contract is None else 'gripper opening, 0 closed to 1 open'
    write(draw, (LEFT, HEADER + _GRIPPER_ROW - 22), text, MUTED, 12, 'lt')


def _draw_tracks(draw: ImageDraw.ImageDraw, rows: list[tuple[str, int]]) -> None:
    for label, top in rows:
        y = HEADER + top
        write(draw, (LEFT, y + _BAR / 2), label, MUTED, 14, 'lm')
        draw.rectangle((LEFT + _TRACK[0], y, LEFT + _TRACK[1], y + _BAR - 1), PANEL)


def _draw_axes(canvas: Image.Image, draw: ImageDraw.ImageDraw) -> None:
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
    for name, top in zip(('x', 'y', 'z'), _NEAR_ROWS, strict=True):
        middle = HEADER + top + _BAR / 2
        write(draw, (LEFT + _NEAR_LABEL, middle), name, MUTED, 14, 'lm')


def _row_top(row: int, dim: int) -> int:
    """Return the top of a row, from the header's lower edge."""
    pitch = min(28, (SIDE - _FIRST_ROW) // min(dim, _MOST_ROWS))
    return _FIRST_ROW + row * pitch


def draw_action(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    prediction: Prediction,
    contract: ActionContract | None,
    frame: str,
    colour: str,
) -> None:
    """Draw the values and the probabilities of their tokens over :func:`draw_action_frame`.

    :param contract: meaning of the values, if it is known.
    :param frame: the robot's own name of the coordinate frame; may be empty.
    """
    values = prediction.actions[:1].ravel().tolist()
    tokens = prediction.tokens
    probabilities = [] if tokens is None else tokens.probabilities.tolist()
    for line in wrap(prediction.unnorm_key, 12, 220, 1):
        write(draw, (LEFT + COLUMN, HEADER + 2), line, MUTED, 12, 'rt')
    if len(values) == ACTION_DIM:
        tops = _draw_motion(canvas, draw, values, contract, frame, colour)
    else:
        tops = [_row_top(row, len(values)) for row in range(min(len(values), _MOST_ROWS))]
        most = full_scale(values, _SMALLEST_TRANSLATION)
        _draw_caption(draw, 26, f'{len(values)} values, bars ±{most:g}')
        for value, top in zip(values, tops, strict=False):
            _draw_bar(draw, top, (0.5, 0.5 + share(value, most) / 2), colour)
            _draw_number(draw, top, number(value))
    for row, top in enumerate(tops):
        probability = probabilities[row] if row < len(probabilities) else math.nan
        _draw_probability(draw, top, probability)


def _draw_motion(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    values: list[float],
    contract: ActionContract | None,
    frame: str,
    colour: str,
) -> list[int]:
    """Draw seven values as a translation, a rotation and the gripper.

    :returns: top of each value's row, from the header's lower edge.
    """
    translation, rotation, opening = values[:3], values[3:6], values[6]
    metres = radians = ''
    if contract is not None:
        metres, radians = ' m', ' rad'
        translation = [contract.metres_per_unit * value for value in translation]
        rotation = [contract.radians_per_unit * value for value in rotation]
        opening = contract.opening(opening)
        frame = frame or _FRAMES[contract.frame]

    x, y, _ = translation
    most = full_scale([math.hypot(x, y), *translation], _SMALLEST_TRANSLATION)
    [named] = wrap(frame, 12, 130, 1) or ('its own frame',)
    _draw_caption(draw, 26, f'translation in {named}, ring {most:g}{metres or _NO_UNIT}')
    _draw_translation(canvas, draw, [share(value, most) for value in translation], colour)
    for value, top in zip(translation, _NEAR_ROWS, strict=True):
        _draw_number(draw, top, number(value) + metres)

    most = full_scale(rotation, _SMALLEST_ROTATION)
    _draw_caption(draw, _ROTATION_ROWS[0] - 22, f'rotation, bars ±{most:g}{radians or _NO_UNIT}')
    for value, top in zip(rotation, _ROTATION_ROWS, strict=True):
        _draw_bar(draw, top, (0.5, 0.5 + share(value, most) / 2), colour)
        _draw_number(draw, top, number(value) + radians)
    _draw_bar(draw, _GRIPPER_ROW, (0.0, max(share(opening, 1.0), 0.0)), colour)
    _draw_number(draw, _GRIPPER_ROW, number(opening))
    return [*_NEAR_ROWS, *_ROTATION_ROWS, _GRIPPER_ROW]


def _draw_translation(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, shares: list[float], colour: str
) -> None:
    """Draw an arrow for x and y, and a bar for z.

    :param shares: shares of the full scale, -1 to 1; a NaN is not drawn.
    """
    ahead, aside, up = (_RADIUS * part for part in shares)
    if not math.isnan(ahead + aside):
        draw_arrow(canvas, (LEFT + _CENTRE, HEADER + _PLOT_CENTRE), (-aside, -ahead), colour)
    left, zero = LEFT + _UPRIGHT, HEADER + _PLOT_CENTRE
    if not math.isnan(up):
        box = (left, zero - max(up, 0.0), left + _BAR - 1, zero - min(up, 0.0))
        draw.rectangle(box, colour)
    draw.line((left - 3, zero, left + _BAR + 2, zero), MUTED)


def _draw_caption(draw: ImageDraw.ImageDraw, top: int, text: str) -> None:
    write(draw, (LEFT, HEADER + top), text, MUTED, 12, 'lt')


def _draw_bar(draw: ImageDraw.ImageDraw, top: int, span: tuple[float, float], colour: str) -> None:
    """Draw a horizontal bar from zero to a value.

    :param span: zero and the value, as shares of the track; a NaN is not drawn.
    """
    y = HEADER + top
    zero, tip = (LEFT + _TRACK[0] + part * (_TRACK[1] - _TRACK[0]) for part in span)
    if not math.isnan(tip):
        draw.rectangle((min(zero, tip), y, max(zero, tip), y + _BAR - 1), colour)
    draw.line((zero, y - 2, zero, y + _BAR + 1), MUTED)


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
