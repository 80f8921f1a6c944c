"""Drawing of the operator's view.

Pure: the same view gives the same pixels. One thread at a time. Nothing is projected into the
camera's image, since the camera's pose is unknown here. The image is only enlarged, each pixel to a
square, so the operator sees exactly what the model saw.
"""

from __future__ import annotations

import functools
import math
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
    SKY_BLUE,
    TEXT,
    VERMILLION,
    font,
    wrap,
    write,
)
from vla_ros.motion import ActionContract
from vla_ros.reasons import State
from vla_ros.types import Prediction
from vla_ros.view.action import draw_action, draw_action_frame
from vla_ros.view.layout import HEADER, LEFT, MARGIN, SIDE, SIZE

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
    :param prediction: the last one, with the image that the model saw. Seven values are drawn as a
        translation, a rotation and the gripper; any other number of values has no names.
    :param contract: meaning of these seven values; None if it is unknown: they have no units then.
    :param published: whether the prediction's action was published.
    :param age_s: current age of the prediction's observation, seconds; None without one.
    :param frame: the robot's own name of the action's coordinate frame; may be empty.
    """

    robot: str = ''
    state: State = State.UNKNOWN
    message: str = ''
    instruction: str = ''
    prediction: Prediction | None = None
    contract: ActionContract | None = None
    published: bool = False
    age_s: float | None = None
    frame: str = ''


def render(view: OperatorView) -> NDArray[np.uint8]:
    """Draw the view of one robot.

    :returns: uint8 [572, 936, 3] RGB, read-only.
    """
    prediction = view.prediction
    images = () if prediction is None else tuple(prediction.model_images.values())
    image = images[0] if images else None
    dim = None if prediction is None else prediction.actions[:1].size
    canvas = _still(dim, view.contract).copy()
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, view)
    if image is None:
        text = 'no image yet' if prediction is None else 'the policy gives no image'
        write(draw, (MARGIN + SIDE / 2, HEADER + SIDE / 2), text, MUTED, 18, 'mm')
    else:
        _place_image(canvas, image)
    if prediction is not None:
        executed = view.published and view.state is State.RUNNING
        heading, ink = ('action', TEXT) if executed else ('last action', MUTED)
        if not view.published:
            heading, ink = 'action, not published', ORANGE
        write(draw, (LEFT, HEADER), heading, ink, 16, 'lt')
        colour = SKY_BLUE if executed else GRAY
        draw_action(canvas, draw, prediction, view.contract, view.frame, colour)
    return np.asarray(canvas)


def _place_image(canvas: Image.Image, image: NDArray[np.uint8]) -> None:
    """Draw each pixel as a square; of an image that is too large, only every n-th pixel."""
    step = math.ceil(max(image.shape) / SIDE)
    sampled = Image.fromarray(np.ascontiguousarray(image[::step, ::step]))
    factor = SIDE // max(sampled.size)
    size = (factor * sampled.width, factor * sampled.height)
    corner = (MARGIN + (SIDE - size[0]) // 2, HEADER + (SIDE - size[1]) // 2)
    canvas.paste(sampled.resize(size, Image.Resampling.NEAREST), corner)


@functools.lru_cache(maxsize=8)
def _still(dim: int | None, contract: ActionContract | None) -> Image.Image:
    """Draw the unchanging parts, once. Callers must copy the result before they draw on it.

    :param dim: number of values of the action; None without an action.
    """
    canvas = Image.new('RGB', SIZE, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((MARGIN, HEADER, MARGIN + SIDE - 1, HEADER + SIDE - 1), PANEL)
    if dim is None:
        write(draw, (LEFT, HEADER), 'no action yet', MUTED, 16, 'lt')
    else:
        draw_action_frame(canvas, draw, dim, contract)
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
