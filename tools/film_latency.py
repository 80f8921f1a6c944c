# SPDX-License-Identifier: Apache-2.0
"""Make docs/latency.gif: single actions beside chunks, when each inference takes two seconds.

Two policies do the same task from the same start, through the node, in the world's time. Run in the
source tree: `.venv/bin/python tools/film_latency.py docs/latency.gif`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vla_ros.console import say
from vla_ros.drawing import BACKGROUND, GREEN, MUTED, TEXT, VERMILLION, write
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import main_image, play
from vla_ros.policies import PolicyRequest, inspect
from vla_ros.simulation.worlds import make_world

INSTRUCTION = 'pick up the red block'
SEED = 0
PACE = Pace('world', rate_hz=25.0, added_latency_s=2.0, deltas_from='image', time_limit_s=30.0)

EVERY_S, FRAME_MS, PAUSE_MS = 0.4, 160, 2500  # of the world's time; of the film's
SIDE, HEADER, FOOTER, GAP, COLOURS = 272, 34, 30, 8, 96


class Panel(NamedTuple):
    """One half of the film: images every ``EVERY_S``, and whether the task was done."""

    title: str
    images: list[NDArray[np.uint8]]
    success: bool


def main(path: Path) -> None:
    """Play both episodes, and write the film."""
    panels = [
        record('blocks', 'one action an inference'),
        record('blocks4', 'a chunk of eight an inference'),
    ]
    count = max(len(panel.images) for panel in panels)
    frames = [draw(panels, index) for index in range(count)]
    palette = frames[count // 2].quantize(COLOURS, Image.Quantize.MEDIANCUT)
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME_MS] * (count - 1) + [PAUSE_MS]
    first.save(path, 'GIF', save_all=True, append_images=rest, duration=durations, loop=0)
    print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, {[len(p.images) for p in panels]} images')


def record(name: str, title: str) -> Panel:
    """Play the episode of a world with the policy that is shipped for it."""
    model = blocks_model(name)
    policy: Any = inspect(PolicyRequest(model))  # loads torch, which must come before OpenGL
    with make_world(name) as made:
        world: Any = made  # a FreeWorld, which shows its images at any time
        spec = policy.spec(world.contract.unnorm_key)
        world.equip(spec)
        images = _filmed(world)
        parameters = {**world.node_parameters, 'model': model, 'dtype': 'float32'}
        parameters['unnorm_key'] = world.contract.unnorm_key
        with closed_loop('/vla_film', parameters, say, True, spec, stdout=2) as robot:
            episode = play(
                *(robot, world, SEED, INSTRUCTION, INSTRUCTION, PACE),
                lambda observation, action: None,
            )
        images.append(main_image(world.look()))
    say(f'{name}: {"success" if episode.success else "failed"} after {episode.duration_s:.1f} s')
    return Panel(title, images, episode.success)


def _filmed(world: Any) -> list[NDArray[np.uint8]]:
    """Return a list that an image is added to every ``EVERY_S`` of the world's time."""
    images: list[NDArray[np.uint8]] = []
    advance, elapsed_s = world.advance, 0.0

    def advance_and_film(seconds: float) -> None:
        nonlocal elapsed_s
        if elapsed_s >= len(images) * EVERY_S - 1e-9:
            images.append(main_image(world.look()).copy())
        advance(seconds)
        elapsed_s += seconds

    world.advance = advance_and_film
    return images


def draw(panels: list[Panel], index: int) -> Image.Image:
    """Return one image of the film, with the panels side by side."""
    size = (len(panels) * (SIDE + GAP) - GAP, HEADER + SIDE + FOOTER)
    canvas = Image.new('RGB', size, BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for place, panel in enumerate(panels):
        left = place * (SIDE + GAP)
        last = len(panel.images) - 1
        shown = Image.fromarray(panel.images[min(index, last)]).resize((SIDE, SIDE))
        canvas.paste(shown, (left, HEADER))
        write(pen, (left + 8, HEADER / 2), panel.title, TEXT, 15, 'lm')
        middle = HEADER + SIDE + FOOTER / 2
        seconds = min(index, last) * EVERY_S
        write(pen, (left + 8, middle), f'{seconds:.1f} s', MUTED, 15, 'lm')
        if index >= last:
            word, colour = ('success', GREEN) if panel.success else ('failed', VERMILLION)
            write(pen, (left + SIDE - 8, middle), word, colour, 15, 'rm')
    return canvas


if __name__ == '__main__':
    main(Path(sys.argv[1]))
