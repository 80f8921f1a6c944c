# SPDX-License-Identifier: Apache-2.0
"""Drawing of the operator's view.

Pure: the same view gives the same pixels. One thread at a time. Nothing is projected into the
camera's image, since the camera's pose is unknown here. A single image is only enlarged, each pixel
to a square, so the operator sees exactly what the model saw. Several images stand side by side;
those too large for their tiles are scaled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vla_ros.drawing import (
    BACKGROUND,
    BLUE,
    GRAY,
    GREEN,
    MUTED,
    ORANGE,
    PANEL,
    RULE,
    SKY_BLUE,
    TEXT,
    VERMILLION,
    font,
    wrap,
    write,
)
from vla_ros.images.thinning import thinned
from vla_ros.motion import Contract
from vla_ros.reasons import State
from vla_ros.types import PolicySpec, Prediction
from vla_ros.view.action import ActionLayout, draw_action, draw_action_frame, layout_of
from vla_ros.view.layout import HEADER, LEFT, MARGIN, SIDE, SIZE

_NAME = 20  # height of a camera's name above its image

# Colours of the background and of the state's name on it. The name is always shown, too.
STATE_COLOURS = {
    State.UNKNOWN: (GRAY, 'black'),
    State.UNCONFIGURED: (GRAY, 'black'),
    State.LOADING: (SKY_BLUE, 'black'),
    State.WARMING_UP: (SKY_BLUE, 'black'),
    State.READY: (BLUE, 'white'),
    State.RUNNING: (GREEN, 'black'),
    State.HOLDING: (ORANGE, 'black'),
    State.ERROR: (VERMILLION, 'black'),
}


@dataclass(frozen=True)
class OperatorView:
    """The content of the view of one robot.

    :param robot: its name; may be empty.
    :param message: a sentence; may be empty.
    :param instruction: the current one; empty if there is none.
    :param prediction: the last one, with the images that the model saw. A displacement of the end
        effector is drawn as a translation, a rotation and the gripper; other values as bars.
    :param spec: of the policy: its cameras, and the names of the values; None: no policy yet.
    :param contract: meaning of the values; None if it is unknown: they have no units then.
    :param published: whether the prediction's action was published.
    :param age_s: current age of the prediction's observation, seconds; None without one.
    :param frame: the robot's own name of the action's coordinate frame; may be empty.
    """

    robot: str = ''
    state: State = State.UNKNOWN
    message: str = ''
    instruction: str = ''
    prediction: Prediction | None = None
    spec: PolicySpec | None = None
    contract: Contract | None = None
    published: bool = False
    age_s: float | None = None
    frame: str = ''


def render(view: OperatorView) -> NDArray[np.uint8]:
    """Draw the view of one robot.

    :returns: uint8 [572, 936, 3] RGB, read-only.
    """
    prediction = view.prediction
    layout = None if prediction is None else layout_of(prediction, view.spec, view.contract)
    canvas = _still(layout, view.contract).copy()
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, view)
    _draw_images(canvas, draw, view)
    if prediction is not None and layout is not None:
        executed = view.published and view.state is State.RUNNING
        heading, ink = ('action', TEXT) if executed else ('last action', MUTED)
        if not view.published:
            heading, ink = 'action, not published', ORANGE
        rows = len(prediction.actions)
        write(
            draw, (LEFT, HEADER), heading if rows == 1 else f'{heading}, 1 of {rows}', ink, 16, 'lt'
        )
        colour = SKY_BLUE if executed else GRAY
        draw_action(canvas, draw, prediction, layout, view.contract, view.frame, colour)
    return np.asarray(canvas)


def _draw_images(canvas: Image.Image, draw: ImageDraw.ImageDraw, view: OperatorView) -> None:
    """Draw the images that the model saw, one tile for each of several cameras."""
    prediction = view.prediction
    images = {} if prediction is None else prediction.model_images
    needed = () if view.spec is None else view.spec.cameras
    cameras = tuple(dict.fromkeys([*needed, *images]))
    if not images:
        text = 'no image yet' if prediction is None else 'the policy gives no image'
        write(draw, (MARGIN + SIDE / 2, HEADER + SIDE / 2), text, MUTED, 18, 'mm')
    elif len(cameras) == 1:
        _place_image(canvas, images[cameras[0]])
    else:
        _draw_tiles(canvas, draw, cameras, images)


def _draw_tiles(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    cameras: Sequence[str],
    images: Mapping[str, NDArray[np.uint8]],
) -> None:
    """Draw the images in a grid, each below its name; a missing one as an empty tile."""
    columns = math.ceil(math.sqrt(len(cameras)))
    rows = math.ceil(len(cameras) / columns)
    width, height = SIDE // columns, SIDE // rows
    for index, camera in enumerate(cameras):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * width, HEADER + row * height
        draw.rectangle((left, top, left + width - 1, top + height - 1), outline=RULE)
        for line in wrap(camera, 12, width - 8, 1):
            write(draw, (left + 4, top + 3), line, TEXT, 12, 'lt')
        box = (left, top + _NAME, left + width, top + height)
        if camera in images:
            _fit_image(canvas, images[camera], box)
        else:
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            write(draw, middle, 'no image', MUTED, 14, 'mm')


def _fit_image(
    canvas: Image.Image, image: NDArray[np.uint8], box: tuple[int, int, int, int]
) -> None:
    """Draw an image in the middle of a box: each pixel as a square, or scaled if it is too large.

    :param box: left, top, right and bottom; the last two are outside.
    """
    left, top, right, bottom = box
    whole = Image.fromarray(np.ascontiguousarray(image))
    scale = min((right - left) / whole.width, (bottom - top) / whole.height)
    if scale >= 1:
        scale, how = math.floor(scale), Image.Resampling.NEAREST
    else:
        how = Image.Resampling.BOX
    size = (max(1, int(scale * whole.width)), max(1, int(scale * whole.height)))
    corner = (left + (right - left - size[0]) // 2, top + (bottom - top - size[1]) // 2)
    canvas.paste(whole.resize(size, how), corner)


def _place_image(canvas: Image.Image, image: NDArray[np.uint8]) -> None:
    """Draw each pixel as a square; of an image that is too large, only every n-th pixel."""
    sampled = Image.fromarray(np.ascontiguousarray(thinned(image, SIDE)))
    factor = SIDE // max(sampled.size)
    size = (factor * sampled.width, factor * sampled.height)
    corner = (MARGIN + (SIDE - size[0]) // 2, HEADER + (SIDE - size[1]) // 2)
    canvas.paste(sampled.resize(size, Image.Resampling.NEAREST), corner)


@functools.lru_cache(maxsize=8)
def _still(layout: ActionLayout | None, contract: Contract | None) -> Image.Image:
    """Draw the unchanging parts, once. Callers must copy the result before they draw on it.

    :param layout: of the action; None without an action.
    """
    canvas = Image.new('RGB', SIZE, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((MARGIN, HEADER, MARGIN + SIDE - 1, HEADER + SIDE - 1), PANEL)
    if layout is None:
        write(draw, (LEFT, HEADER), 'no action yet', MUTED, 16, 'lt')
    else:
        draw_action_frame(canvas, draw, layout, contract)
    return canvas


def _draw_header(draw: ImageDraw.ImageDraw, view: OperatorView) -> None:
    """Draw the state, message, robot, age and instruction."""
    colour, ink = STATE_COLOURS[view.state]
    word = view.state.name
    badge = MARGIN + 28 + round(font(16).getlength(word))
    draw.rectangle((MARGIN, 12, badge, 46), colour)
    write(draw, ((MARGIN + badge) / 2, 29), word, ink, 16, 'mm')
    end = SIZE[0] - MARGIN
    lines = wrap(view.message, 14, end - 190 - badge - 14, 2)
    for row, line in enumerate(lines):
        y = 29 + 19 * (row - (len(lines) - 1) / 2)
        write(draw, (badge + 14, y), line, TEXT, 14, 'lm')
    for line in wrap(view.robot, 15, 180, 1):
        write(draw, (end, 20), line, TEXT, 15, 'rm')
    write(draw, (end, 39), _age_text(view.age_s), MUTED, 14, 'rm')
    instruction = wrap(view.instruction, 18, end - MARGIN, 2)
    lines, ink = (instruction, TEXT) if instruction else (('no instruction',), MUTED)
    for row, line in enumerate(lines):
        y = 77 + 22 * (row - (len(lines) - 1) / 2)
        write(draw, (MARGIN, y), line, ink, 18, 'lm')


def _age_text(age_s: float | None) -> str:
    if age_s is None:
        return 'nothing observed'
    return f'seen {age_s:.2f} s ago' if abs(age_s) < 1000 else f'seen {age_s:.3g} s ago'
