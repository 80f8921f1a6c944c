"""What is done to a picture before the released processor: nothing, or what was done in training.

OpenVLA was trained on pictures that TensorFlow had compressed as JPEG, resized with Lanczos3 and,
for the fine-tunes that augment, cropped. The published success rates were measured so, too
(experiments/robot of openvla/openvla). Here it is done without TensorFlow, and agrees with it as
test/openvla/test_preprocessing.py tells.

Runs in the policy's thread. Knows pictures only: nothing of checkpoints or torch.
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
_CROP_AREA = np.float32(0.9)  # of the picture's


@dataclass(frozen=True)
class Preprocessing:
    """What a picture goes through before the processor.

    :param mode: ``raw``: nothing, as in OpenVLA's README and its deploy.py; ``training``: JPEG,
        then Lanczos3 to the towers' size, as in its training and its evaluation scripts.
    :param center_crop: in training mode, then cut out the middle 0.9 of the area and enlarge that;
        for checkpoints fine-tuned with augmented pictures, such as those for LIBERO.
    :param rotate_180: turn it by 180 degrees first, as for LIBERO.
    :raises PreprocessingError: if there is no such mode, or it does not go with the others.
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
                "pictures that have the towers' size already, which only training makes",
                'set mode to training, or center_crop to false',
            )

    def __call__(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        """
        :param picture: RGB, of any size.
        :param size: (height, width) that the towers take.
        :returns: RGB; in training mode of that size, in raw mode of its own.
        :raises ValueError: if it is too large for JPEG.
        """
        if self.rotate_180:
            picture = picture.transpose(Image.Transpose.ROTATE_180)
        if self.mode == 'raw':
            return picture
        pixels = lanczos3_resized(jpeg_round_trip(picture), size)
        if self.center_crop:
            pixels = center_cropped(pixels, size)
        return Image.fromarray(pixels)


RAW = Preprocessing()


def jpeg_round_trip(picture: Image.Image) -> Image.Image:
    """Compress and decompress, as was done to the training data, whatever their size.

    :raises ValueError: if it is too large.
    """
    if max(picture.size) > _MAX_JPEG_SIDE:
        raise ValueError(
            f'image is {picture.width} x {picture.height} (width x height); at most '
            f'{_MAX_JPEG_SIDE} each go through the JPEG of preprocessing mode training; '
            'make it smaller, or use mode raw',
        )
    file = BytesIO()
    picture.save(file, 'JPEG', quality=_JPEG_QUALITY, subsampling='4:2:0')
    file.seek(0)
    return JpegImageFile(file)  # not Image.open, which warns of large pictures: this one is ours


def lanczos3_resized(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """As TensorFlow's resize with lanczos3 and antialias; the ratio is not kept.

    Pillow's, but each channel in float32: on RGB it rounds to levels between columns and rows, and
    one pixel in five differs from TensorFlow's. It takes one thread. Products by matrices were
    three times as fast on an idle machine, and a hundred times as slow on one that was not, where
    their threads waited for a core.

    :param picture: RGB, of any size.
    :param size: (height, width).
    :returns: uint8 [height, width, 3].
    """
    height, width = size
    channels = [
        np.asarray(channel.convert('F').resize((width, height), Image.Resampling.LANCZOS))
        for channel in picture.split()
    ]
    return np.rint(np.stack(channels, axis=2)).clip(0, 255).astype(np.uint8)


def center_cropped(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle 0.9 of the area, enlarged; bit for bit TensorFlow's crop_and_resize.

    Bilinear between pixels, corner on corner, nothing antialiased; all in float32. The level is
    floor(255.5 v), as of TensorFlow's convert_image_dtype.

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
    """Between which inputs each output lies, and where.

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
