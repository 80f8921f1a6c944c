# SPDX-License-Identifier: Apache-2.0
"""What the films of the documentation share: an endless GIF with one palette, and its pause."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

PAUSE_MS = 2500  # at the end
_SAMPLES = 12  # frames that the palette is made from
_SWATCH = 60  # height of a kept colour beside them, pixels


def write_gif(
    path: Path,
    frames: Sequence[Image.Image],
    frame_ms: int,
    colours: int,
    kept: Sequence[str] = (),
) -> None:
    """Write an endless film of frames of one size, and print its size.

    One palette for all frames keeps what stands still equal to the last bit, and so small.

    :param frame_ms: duration of each frame but the last, which stays for ``PAUSE_MS``.
    :param kept: colours of thin lines and of texts, which the palette must have.
    """
    palette = _palette(frames, colours, kept)
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [frame_ms] * (len(frames) - 1) + [PAUSE_MS]
    first.save(path, 'GIF', save_all=True, append_images=rest, duration=durations, loop=0)
    print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, {len(frames)} frames')


def _palette(frames: Sequence[Image.Image], colours: int, kept: Sequence[str]) -> Image.Image:
    count = min(_SAMPLES, len(frames))
    width, height = frames[0].size
    strip = Image.new('RGB', (width, height * count + _SWATCH * len(kept)))
    for place in range(count):
        index = place * (len(frames) - 1) // max(1, count - 1)
        strip.paste(frames[index], (0, place * height))
    for place, colour in enumerate(kept):
        strip.paste(colour, (0, height * count + _SWATCH * place, width, strip.height))
    return strip.quantize(colours, Image.Quantize.MEDIANCUT)
