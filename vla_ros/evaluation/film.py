# SPDX-License-Identifier: Apache-2.0
"""Films of episodes: an animated GIF, and a contact sheet with a few of the images.

Needs only numpy and Pillow. Equal episodes give equal bytes. A film may be used by one thread at a
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from vla_ros.drawing import (
    BACKGROUND,
    GREEN,
    MUTED,
    PANEL,
    SKY_BLUE,
    TEXT,
    VERMILLION,
    share,
    wrap,
    write,
)
from vla_ros.motion import ActionContract

# A frame from top to bottom: the instruction, the image, the action. Pixels.
_SIDE = 336  # of the image: 224, one and a half times
_HEADER, _FOOTER, _MARGIN = 46, 46, 10
_SIZE = (_SIDE, _HEADER + _SIDE + _FOOTER)
_BORDER = 6  # of an episode's last image
_LINE = 19  # distance of two lines of text

# The footer: a bar for each value of an action, and the gripper's fingers.
_NAMES = ('x', 'y', 'z', 'rx', 'ry', 'rz')
_PITCH, _BAR, _REACH = 42, 10, 17  # distance of two bars; a bar's width and full length
_GRIPPER, _FINGER, _GAP = 313, 4, 14  # the gripper's middle; width of a finger; gap when open

_FRAME_MS, _PAUSE_MS = 160, 1000
_COLOURS, _SAMPLES = 128, 24  # of the palette; number of frames that it is made from

# A contact sheet's row.
_THUMBNAILS, _THUMBNAIL, _SPACE, _LABEL = 6, 150, 8, 190


@dataclass(frozen=True)
class _Shot:
    """One image of an episode.

    :param image: uint8 [H, W, 3] RGB.
    :param action: float64 [7], executed after the image; None at the end.
    :param step: number of the action within the episode, from 1; at the end that of the last one.
    """

    image: NDArray[np.uint8]
    action: NDArray[np.float64] | None
    step: int


@dataclass
class _Scene:
    """One episode; ``success`` is None until it ends."""

    instruction: str
    shots: list[_Shot] = field(default_factory=list)
    success: bool | None = None


class Film:
    """A film of the first episodes. For each episode call begin, add and end, in this order.

    :param contract: meaning of the actions' values.
    :param most: maximum number of episodes that are kept. Of the others only the last image is
        kept, for a window.
    """

    def __init__(self, contract: ActionContract, most: int = 6) -> None:
        self._contract, self._most = contract, most
        self._scenes: list[_Scene] = []
        self._scene = _Scene('')

    def begin(self, instruction: str) -> None:
        """Begin an episode.

        :param instruction: text above the images.
        """
        self._scene = _Scene(instruction)
        if len(self._scenes) < self._most:
            self._scenes.append(self._scene)

    def add(self, image: NDArray[np.uint8], action: NDArray[np.float64] | None = None) -> None:
        """Add an image to the episode.

        :param image: uint8 [H, W, 3] RGB; it is copied.
        :param action: float64 [7], executed after the image; None for an episode's last image.
        """
        shots = self._scene.shots
        step = (shots[-1].step if shots else 0) + (action is not None)
        if not (self._scenes and self._scene is self._scenes[-1]):
            shots.clear()
        shots.append(_Shot(image.copy(), action, step))

    def end(self, success: bool) -> None:
        """End the episode; its last image is the one that was added last."""
        self._scene.success = success

    @property
    def _ended(self) -> list[_Scene]:
        return [scene for scene in self._scenes if scene.success is not None]

    @property
    def last_frame(self) -> NDArray[np.uint8]:
        """The last image as the GIF shows it: uint8 [428, 336, 3] RGB, read-only; for a window."""
        scene = self._scene
        return np.asarray(_draw_frame(scene, len(scene.shots) - 1, self._contract))

    def write_gif(self, path: Path) -> None:
        """Write an endless GIF of the episodes that have ended, with a pause after each.

        At least one episode must have ended.

        :raises OSError: if it can't be written.
        """
        frames: list[Image.Image] = []
        durations_ms: list[int] = []
        for scene in self._ended:
            indices = range(len(scene.shots))
            frames += [_draw_frame(scene, index, self._contract) for index in indices]
            durations_ms += [_FRAME_MS] * (len(indices) - 1) + [_PAUSE_MS]
        palette = _shared_palette(frames)
        first, *rest = [
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
        ]
        first.save(path, 'GIF', save_all=True, append_images=rest, duration=durations_ms, loop=0)

    def write_contact_sheet(self, path: Path) -> None:
        """Write a PNG with a row for each episode that has ended.

        A row has the instruction, the result and a few of the images.

        :raises OSError: if it can't be written.
        """
        pitch = _THUMBNAIL + _SPACE
        size = (_LABEL + _THUMBNAILS * pitch, _SPACE + len(self._ended) * pitch)
        sheet = Image.new('RGB', size, BACKGROUND)
        for row, scene in enumerate(self._ended):
            _draw_row(sheet, scene, _SPACE + row * pitch)
        sheet.save(path, 'PNG')


def _draw_frame(scene: _Scene, index: int, contract: ActionContract) -> Image.Image:
    shot = scene.shots[index]
    canvas = Image.new('RGB', _SIZE, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    told = [(line, TEXT) for line in wrap(scene.instruction, 16, _SIDE - 110, 2)]
    _write_lines(draw, (_MARGIN, _HEADER / 2), told)
    corner = (0, _HEADER)
    canvas.paste(_resized(shot.image, _SIDE), corner)
    if scene.success is None or index < len(scene.shots) - 1:
        write(draw, (_SIDE - _MARGIN, _HEADER / 2), f'step {shot.step}', MUTED, 16, 'rm')
    else:
        word, colour = _result(scene)
        draw.rectangle((_SIDE - 84, 10, _SIDE - _MARGIN, _HEADER - 10), colour)
        write(draw, (_SIDE - 47, _HEADER / 2), word, 'black', 16, 'mm')
        _draw_border(draw, corner, _SIDE, colour)
        y = _HEADER + _SIDE + _FOOTER / 2
        write(draw, (_MARGIN, y), f'{shot.step} steps', MUTED, 16, 'lm')
    if shot.action is not None:
        _draw_action(draw, shot.action, contract)
    return canvas


def _result(scene: _Scene) -> tuple[str, str]:
    """Return a word for the result, and its colour."""
    return ('success', GREEN) if scene.success else ('failed', VERMILLION)


def _write_lines(
    draw: ImageDraw.ImageDraw, middle: tuple[float, float], lines: Sequence[tuple[str, str]]
) -> None:
    """Write lines of text.

    :param middle: middle of their left edge.
    :param lines: texts and their colours.
    """
    for row, (text, ink) in enumerate(lines):
        y = middle[1] + _LINE * (row - (len(lines) - 1) / 2)
        write(draw, (middle[0], y), text, ink, 16, 'lm')


def _resized(image: NDArray[np.uint8], side: int) -> Image.Image:
    """Return the image in a square, with nothing cut off."""
    return ImageOps.pad(Image.fromarray(image), (side, side), color=PANEL)


def _draw_border(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, colour: str
) -> None:
    x, y = corner
    draw.rectangle((x, y, x + side - 1, y + side - 1), outline=colour, width=_BORDER)


def _draw_action(
    draw: ImageDraw.ImageDraw, action: NDArray[np.float64], contract: ActionContract
) -> None:
    """Draw bars, whose full length is the contract's maximum speed, and the fingers."""
    *values, gripper = action.tolist()
    linear = contract.max_linear_m_s * contract.period_s / contract.metres_per_unit
    angular = contract.max_angular_rad_s * contract.period_s / contract.radians_per_unit
    y = _HEADER + _SIDE + _FOOTER / 2
    for index, (name, value) in enumerate(zip(_NAMES, values, strict=True)):
        left = _MARGIN + index * _PITCH + 20
        right = left + _BAR - 1
        length = _REACH * share(value, linear if index < 3 else angular)
        write(draw, (left - 12, y), name, MUTED, 14, 'mm')
        draw.rectangle((left, y - _REACH, right, y + _REACH), PANEL)
        draw.rectangle((left, y - max(length, 0), right, y - min(length, 0)), SKY_BLUE)
    write(draw, (_GRIPPER - 20, y), 'grip', MUTED, 14, 'rm')
    half = _GAP / 2 * min(max(contract.opening(gripper), 0.0), 1.0)
    for x in (_GRIPPER - half - _FINGER, _GRIPPER + half):
        draw.rectangle((x, y - 10, x + _FINGER - 1, y + 10), SKY_BLUE)


def _shared_palette(frames: list[Image.Image]) -> Image.Image:
    """Return one palette for all frames, so that the background is the same in each and small."""
    samples = _evenly(len(frames), _SAMPLES)
    strip = Image.new('RGB', (_SIZE[0] * len(samples), _SIZE[1]))
    for place, index in enumerate(samples):
        strip.paste(frames[index], (place * _SIZE[0], 0))
    return strip.quantize(_COLOURS, Image.Quantize.MEDIANCUT)


def _draw_row(sheet: Image.Image, scene: _Scene, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    last = len(scene.shots) - 1
    word, colour = _result(scene)
    lines = [(line, TEXT) for line in wrap(scene.instruction, 16, _LABEL - 2 * _SPACE, 4)]
    lines += [('', TEXT), (f'{word}, {scene.shots[last].step} steps', colour)]
    _write_lines(draw, (_SPACE, top + _THUMBNAIL / 2), lines)
    for column, index in enumerate(_evenly(last + 1, _THUMBNAILS)):
        corner = (_LABEL + column * (_THUMBNAIL + _SPACE), top)
        sheet.paste(_resized(scene.shots[index].image, _THUMBNAIL), corner)
        if index == last:
            _draw_border(draw, corner, _THUMBNAIL, colour)


def _evenly(count: int, most: int) -> list[int]:
    """Return up to ``most`` of the first ``count`` numbers, with the first and the last."""
    return [round(float(place)) for place in np.linspace(0, count - 1, min(most, count))]
