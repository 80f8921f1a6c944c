"""Episodes as pictures: a GIF that moves, and a contact sheet that does not.

Knows numpy and Pillow. Equal episodes are equal bytes. Any one thread at a time.
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

# A frame, from top to bottom: what the robot was told, what it saw, what it did. Pixels.
_SIDE = 336  # of the picture: 224, one and a half times
_HEADER, _FOOTER, _MARGIN = 46, 46, 10
_SIZE = (_SIDE, _HEADER + _SIDE + _FOOTER)
_BORDER = 6  # of an episode's last picture
_LINE = 19  # from one line of text to the next

# The footer: a bar for each value of an action, and the gripper's fingers.
_NAMES = ('x', 'y', 'z', 'rx', 'ry', 'rz')
_PITCH, _BAR, _REACH = 42, 10, 17  # from bar to bar; a bar's thickness, and length at full scale
_GRIPPER, _FINGER, _GAP = 313, 4, 14  # its middle, a finger's thickness, the gap of open fingers

_FRAME_MS, _PAUSE_MS = 160, 1000
_COLOURS, _SAMPLES = 128, 24  # of the palette; how many frames it is made from

# A contact sheet's row.
_THUMBNAILS, _THUMBNAIL, _SPACE, _LABEL = 6, 150, 8, 190


@dataclass(frozen=True)
class _Shot:
    """
    :param image: uint8 [H, W, 3] RGB.
    :param action: float64 [7], what was done then; None if nothing was.
    :param step: which action it is of the episode, from 1; how many there were, if nothing was.
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
    """Begin an episode, add its pictures, end it; then the next one. The first are kept.

    :param contract: what the values of the actions mean.
    :param most: so many episodes are kept; of another one only what was added last, for a window.
    """

    def __init__(self, contract: ActionContract, most: int = 6) -> None:
        self._contract, self._most = contract, most
        self._scenes: list[_Scene] = []
        self._scene = _Scene('')

    def begin(self, instruction: str) -> None:
        """:param instruction: what the robot is told; stands over the pictures."""
        self._scene = _Scene(instruction)
        if len(self._scenes) < self._most:
            self._scenes.append(self._scene)

    def add(self, image: NDArray[np.uint8], action: NDArray[np.float64] | None = None) -> None:
        """
        :param image: uint8 [H, W, 3] RGB, what was seen; is copied.
        :param action: float64 [7], what was done then; of an episode's last picture None.
        """
        shots = self._scene.shots
        step = (shots[-1].step if shots else 0) + (action is not None)
        if not (self._scenes and self._scene is self._scenes[-1]):
            shots.clear()
        shots.append(_Shot(image.copy(), action, step))

    def end(self, success: bool) -> None:
        """What was added last is the episode's last picture."""
        self._scene.success = success

    @property
    def _ended(self) -> list[_Scene]:
        return [scene for scene in self._scenes if scene.success is not None]

    @property
    def last_frame(self) -> NDArray[np.uint8]:
        """What was added last, as the GIF shows it: uint8 [428, 336, 3] RGB, not to be written
        to; for a window."""
        scene = self._scene
        return np.asarray(_draw_frame(scene, len(scene.shots) - 1, self._contract))

    def write_gif(self, path: Path) -> None:
        """The episodes that have ended, at least one, with a pause after each; over and over.

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
        """A PNG with a row for each episode that has ended: what was told, what came of it, a few
        of its pictures.

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
    canvas.paste(_picture(shot.image, _SIDE), corner)
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
    """A word and its colour."""
    return ('success', GREEN) if scene.success else ('failed', VERMILLION)


def _write_lines(
    draw: ImageDraw.ImageDraw, middle: tuple[float, float], lines: Sequence[tuple[str, str]]
) -> None:
    """Around the middle of their left edge.

    :param lines: texts and their colours.
    """
    for row, (text, ink) in enumerate(lines):
        y = middle[1] + _LINE * (row - (len(lines) - 1) / 2)
        write(draw, (middle[0], y), text, ink, 16, 'lm')


def _picture(image: NDArray[np.uint8], side: int) -> Image.Image:
    """In a square, with nothing cut off."""
    return ImageOps.pad(Image.fromarray(image), (side, side), color=PANEL)


def _draw_border(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, colour: str
) -> None:
    x, y = corner
    draw.rectangle((x, y, x + side - 1, y + side - 1), outline=colour, width=_BORDER)


def _draw_action(
    draw: ImageDraw.ImageDraw, action: NDArray[np.float64], contract: ActionContract
) -> None:
    """Bars up or down, whose full scale is the fastest that the contract allows; fingers."""
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
    """For all frames, so that what does not move is the same in each, and costs nothing."""
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
        sheet.paste(_picture(scene.shots[index].image, _THUMBNAIL), corner)
        if index == last:
            _draw_border(draw, corner, _THUMBNAIL, colour)


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of the first ``count`` numbers, 0 and the last among them."""
    return [round(float(place)) for place in np.linspace(0, count - 1, min(most, count))]
