# SPDX-License-Identifier: Apache-2.0
"""Colours, fonts, fitted text and arrows, for the operator's view and films.

Takes any text and any number without raising.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

BACKGROUND = '#12161c'
PANEL = '#1d232c'
RULE = '#36404d'
TEXT = '#e8ecf1'
MUTED = '#95a1b0'

# Okabe and Ito's colours, which people with colour blindness can tell apart.
GRAY = '#999999'
ORANGE = '#E69F00'
SKY_BLUE = '#56B4E9'
GREEN = '#009E73'
BLUE = '#0072B2'
VERMILLION = '#D55E00'
PURPLE = '#CC79A7'

_LONGEST = 800  # characters that are drawn: an instruction has 500 at most
_SUPERSAMPLING = 4  # Pillow's own lines and polygons have jagged edges

Point = tuple[float, float]


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, which every machine has. It draws unknown characters as boxes."""
    return ImageFont.load_default(size)


def write(
    draw: ImageDraw.ImageDraw, point: Point, text: str, ink: str, size: int, anchor: str
) -> None:
    """Write one line of text.

    :param anchor: the point of the line that is placed at ``point``, by Pillow's names.
    """
    mask, left, top = _written(text, size, anchor)
    draw.bitmap((round(point[0]) + left, round(point[1]) + top), mask, ink)


@functools.lru_cache(maxsize=512)
def _written(text: str, size: int, anchor: str) -> tuple[Image.Image, int, int]:
    """Return a rendered line, cached: most texts stay from one view to the next.

    :returns: the line's mask, and its left and top edges relative to the anchor.
    """
    left, top, right, bottom = (round(edge) for edge in font(size).getbbox(text, anchor=anchor))
    mask = Image.new('L', (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(mask).text((-left, -top), text, 255, font(size), anchor=anchor)
    return mask, left, top


@functools.lru_cache(maxsize=256)
def wrap(text: str, size: int, width: int, max_lines: int) -> tuple[str, ...]:
    """Break a text into lines that are no wider than ``width`` pixels; an ellipsis ends a cut."""
    printable = ''.join(c if c.isprintable() else ' ' for c in text[:_LONGEST])
    rest = ' '.join(printable.split())
    lines: list[str] = []
    while rest and len(lines) < max_lines:
        count = _fitting(rest, size, width)
        if count == len(rest):
            lines.append(rest)
            break
        if len(lines) == max_lines - 1:
            count = _fitting(rest, size, width - round(font(size).getlength('…')))
            lines.append(rest[:count].rstrip() + '…')
            break
        space = rest.rfind(' ', 1, count + 1)
        count = space if space > 0 else count
        lines.append(rest[:count].rstrip())
        rest = rest[count:].lstrip()
    return tuple(lines)


def _fitting(text: str, size: int, width: int) -> int:
    """Return how many of the first characters fit; at least 1, so that wrapping ends."""
    few, many = 1, len(text)
    while few < many:
        middle = (few + many + 1) // 2
        if font(size).getlength(text[:middle]) <= width:
            few = middle
        else:
            many = middle - 1
    return few


def number(value: float) -> str:
    """Return a short text of any number, with its sign."""
    if not math.isfinite(value):
        return 'not a number' if math.isnan(value) else f'{value:+}'
    return f'{value:+.4f}' if abs(value) < 1000 else f'{value:+.1e}'


def full_scale(values: list[float], smallest: float) -> float:
    """Return a number that no finite value exceeds: 1, 2 or 5 times a power of ten."""
    most = max([abs(value) for value in values if math.isfinite(value)], default=0.0)
    if most <= smallest:
        return smallest
    power = 10.0 ** math.floor(math.log10(most))
    return next((step * power for step in (1, 2, 5) if most <= step * power), 10 * power)


def share(value: float, most: float) -> float:
    """Return the value's share of the full scale, clipped to -1 to 1; or NaN."""
    part = value / most
    return part if math.isnan(part) else min(max(part, -1.0), 1.0)


def draw_arrow(canvas: Image.Image, centre: Point, vector: Point, colour: str) -> None:
    """Draw an arrow from the centre, or a dot if it is too short for an arrow.

    :param vector: from the centre to the tip, pixels.
    """
    length = math.hypot(*vector)
    with _smoothly(canvas, centre, math.ceil(length) + 12, colour) as (draw, middle):
        dot = 4 * _SUPERSAMPLING
        draw.ellipse((middle - dot, middle - dot, middle + dot, middle + dot), fill=255)
        if length <= 1:
            return
        along = (vector[0] / length, vector[1] / length)
        head, half_head, half_shaft = min(16.0, length), min(8.0, length / 2), min(2.5, length / 4)
        outline = [
            (0.0, half_shaft),
            (length - head, half_shaft),
            (length - head, half_head),
            (length, 0.0),
            (length - head, -half_head),
            (length - head, -half_shaft),
            (0.0, -half_shaft),
        ]
        draw.polygon(
            [
                (
                    middle + _SUPERSAMPLING * (ahead * along[0] - aside * along[1]),
                    middle + _SUPERSAMPLING * (ahead * along[1] + aside * along[0]),
                )
                for ahead, aside in outline
            ],
            fill=255,
        )


def draw_rings(canvas: Image.Image, centre: Point, radii: list[int], colour: str) -> None:
    """Draw circles with lines one pixel wide."""
    with _smoothly(canvas, centre, max(radii) + 2, colour) as (draw, middle):
        for radius in radii:
            r = radius * _SUPERSAMPLING
            box = (middle - r, middle - r, middle + r, middle + r)
            draw.ellipse(box, outline=255, width=_SUPERSAMPLING)


@contextlib.contextmanager
def _smoothly(
    canvas: Image.Image, centre: Point, reach: int, colour: str
) -> Iterator[tuple[ImageDraw.ImageDraw, int]]:
    """Put what is drawn inside, at _SUPERSAMPLING times the size, onto the canvas.

    :param reach: pixels around the centre.
    :returns: a mask to draw on with 255, and the centre's coordinate on it, for both x and y.
    """
    mask = Image.new('L', (2 * reach * _SUPERSAMPLING, 2 * reach * _SUPERSAMPLING))
    yield ImageDraw.Draw(mask), reach * _SUPERSAMPLING
    corner = (round(centre[0]) - reach, round(centre[1]) - reach)
    canvas.paste(colour, corner, mask.reduce(_SUPERSAMPLING))
