# SPDX-License-Identifier: Apache-2.0
"""Preprocessing of images before the released processor: none, or that of the training data.

OpenVLA was trained on images that TensorFlow had compressed as JPEG, resized with Lanczos3 and, for
fine-tunes with augmentation, cropped. The published success rates were measured with the same
(experiments/robot of openvla/openvla). This module needs no TensorFlow, and agrees with it as far
as test/openvla/test_preprocessing.py says.

Runs in the policy's thread. Independent of checkpoints and torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from vla_ros.openvla.errors import PreprocessingError

MODES = ('raw', 'training')

_JPEG_QUALITY = 95  # the default of TensorFlow's encode_jpeg, as is 4:2:0
_MAX_JPEG_SIDE = 65500  # pixels; libjpeg's
_CROP_AREA = np.float32(0.9)  # share of the image's area


@dataclass(frozen=True)
class Preprocessing:
    """The steps before the processor.

    :param mode: ``raw``: none, as in OpenVLA's README and its deploy.py; ``training``: JPEG, then
        Lanczos3 to the towers' size, as in its training and its evaluation scripts.
    :param center_crop: in training mode, cut out the middle 0.9 of the area then, and enlarge it;
        for checkpoints fine-tuned with augmented images, such as those for LIBERO.
    :param rotate_180: rotate by 180 degrees first, as for LIBERO.
    :raises PreprocessingError: if the mode is unknown, or does not go with the others.
    """

    mode: str = 'raw'
    center_crop: bool = False
    rotate_180: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise PreprocessingError(
                f'preprocessing mode {self.mode!r} is unknown',
                value=self.mode,
                expected=f'one of {", ".join(MODES)}',
            )
        if self.center_crop and self.mode == 'raw':
            raise PreprocessingError(
                'center_crop is true and preprocessing mode is raw: the crop was trained on '
                "images that have the towers' size already, which only training makes",
                'set mode to training, or center_crop to false',
            )

    def __call__(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Preprocess an image.

        :param image: RGB, of any size.
        :param size: (height, width) of the towers' input.
        :returns: RGB, in training mode of that size, in raw mode of the image's.
        :raises ValueError: if the image is too large for JPEG.
        """
        if self.rotate_180:
            image = image.transpose(Image.Transpose.ROTATE_180)
        if self.mode == 'raw':
            return image
        pixels = lanczos3_resized(jpeg_round_trip(image), size)
        if self.center_crop:
            pixels = center_cropped(pixels, size)
        return Image.fromarray(pixels)


RAW = Preprocessing()


def jpeg_round_trip(image: Image.Image) -> Image.Image:
    """Compress and decompress an image, as was done to the training data at any size.

    :raises ValueError: if the image is too large.
    """
    if max(image.size) > _MAX_JPEG_SIDE:
        raise ValueError(
            f'image is {image.width} x {image.height} (width x height); at most '
            f'{_MAX_JPEG_SIDE} each go through the JPEG of preprocessing mode training; make it '
            'smaller, or use mode raw'
        )
    file = BytesIO()
    image.save(file, 'JPEG', quality=_JPEG_QUALITY, subsampling='4:2:0')
    file.seek(0)
    return JpegImageFile(file)  # not Image.open, which warns about large images


def lanczos3_resized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize like TensorFlow's resize with lanczos3 and antialias; the ratio is not kept.

    This is Pillow's resize, with each channel in float32: for RGB it rounds to levels between
    columns and rows, and one pixel in five differs from TensorFlow's. It runs in one thread.
    Matrix products were three times as fast on an idle machine, and a hundred times slower on a
    busy one, where their threads waited for a core.

    :param image: RGB, of any size.
    :param size: (height, width).
    :returns: uint8 [height, width, 3].
    """
    height, width = size
    channels = [
        np.asarray(channel.convert('F').resize((width, height), Image.Resampling.LANCZOS))
        for channel in image.split()
    ]
    return np.rint(np.stack(channels, axis=2)).clip(0, 255).astype(np.uint8)


def center_cropped(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the middle 0.9 of the area, enlarged; bit for bit TensorFlow's crop_and_resize.

    Bilinear between pixels, with aligned corners, without antialiasing, in float32. The level is
    floor(255.5 v), as in TensorFlow's convert_image_dtype.

    :param image: uint8 [H, W, 3].
    :param size: (height, width).
    :returns: uint8 [height, width, 3].
    """
    values = image.astype(np.float32) * np.float32(1 / 255)
    for axis in (1, 0):
        before, after, fraction = _crop_positions(image.shape[axis], size[axis])
        lower, upper = values.take(before, axis), values.take(after, axis)
        values = lower + (upper - lower) * fraction.reshape(-1, *(1,) * (2 - axis))
    return (values.clip(0, 1) * np.float32(255.5)).astype(np.uint8)


@cache
def _crop_positions(
    inputs: int, outputs: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two inputs on both sides of each output, and its place between them.

    :returns: int64 [outputs] and int64 [outputs]; float32 [outputs], 0 at the former.
    """
    side = np.sqrt(_CROP_AREA)
    low = (np.float32(1) - side) / np.float32(2)
    high = low + side
    last = np.float32(inputs - 1)
    step = (high - low) * last / np.float32(max(outputs - 1, 1))
    positions = low * last + np.arange(outputs, dtype=np.float32) * step
    before = np.floor(positions)
    return (
        before.astype(np.int64),
        np.ceil(positions).astype(np.int64),
        positions - before,
    )
