# SPDX-License-Identifier: Apache-2.0
"""Plot of the stages of each combination as one stacked bar, with Pillow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vla_ros.drawing import BLUE, GRAY, GREEN, ORANGE, SKY_BLUE, VERMILLION
from vla_ros.measure.statistics import Summary

_COLOURS = (GRAY, BLUE, SKY_BLUE, ORANGE, VERMILLION, GREEN)
_FONT_SIZE = 16
_LINE, _BAR, _GAP, _MARGIN = 24, 28, 14, 20  # pixels
_BAR_LENGTH = 640  # of the slowest combination


def plot_stages(summaries: Sequence[Summary], path: Path) -> None:
    """Write a PNG with the median of each stage; a bar is about as long as the median latency.

    A policy without stages has one bar, the whole inference.

    :raises OSError: if it can't be written.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    medians_s = [_stages(summary) for summary in summaries]
    stages = list(medians_s[0])
    sums_s = [sum(one.values()) for one in medians_s]
    labels = [one['name'] for one in summaries]
    left = _MARGIN + _GAP + max(round(font.getlength(label)) for label in labels)
    top = _MARGIN + 2 * _LINE
    width = left + _BAR_LENGTH + 120 + _MARGIN
    image = Image.new('RGB', (width, top + len(labels) * (_BAR + _GAP) + _MARGIN), 'white')
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN - 6), 'milliseconds of one action, median', 'black', font)
    _draw_legend(draw, font, stages, left)
    pixels_per_s = _BAR_LENGTH / max(sums_s)
    for row, (median_s, label, sum_s) in enumerate(zip(medians_s, labels, sums_s, strict=True)):
        y = top + row * (_BAR + _GAP)
        draw.text((_MARGIN, y + 4), label, 'black', font)
        start_s = 0.0
        for stage, colour in zip(stages, itertools.cycle(_COLOURS), strict=False):
            end_s = start_s + median_s[stage]
            span = [left + start_s * pixels_per_s, left + end_s * pixels_per_s]
            draw.rectangle((span[0], y, span[1], y + _BAR), fill=colour)
            start_s = end_s
        draw.text(
            (left + sum_s * pixels_per_s + 8, y + 4),
            f'{1e3 * sum_s:.1f}',
            'black',
            font,
        )
    image.save(path, 'PNG')


def _stages(summary: Summary) -> dict[str, float]:
    stages = summary['stages_s'] or {'inference': summary['latency_s']}
    return {stage: times['p50'] for stage, times in stages.items()}


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    stages: Sequence[str],
    left: int,
) -> None:
    x = float(left)
    y = _MARGIN + _LINE - 6
    for stage, colour in zip(stages, itertools.cycle(_COLOURS), strict=False):
        draw.rectangle((x, y + 3, x + 14, y + 17), fill=colour)
        draw.text((x + 20, y), stage, 'black', font)
        x += 20 + font.getlength(stage) + 20
