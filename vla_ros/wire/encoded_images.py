# SPDX-License-Identifier: Apache-2.0
"""Images on the wire that are compressed as PNG or JPEG, in the form that vla-eval has.

A map ``{__image__: true, format, data, shape}``. Only files of these two formats are decoded, by
the code for camera messages. PNG keeps every value, JPEG does not.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.raw import UnusableImage
from vla_ros.wire.arrays import as_wire_error, decoded_array
from vla_ros.wire.errors import WireError
from vla_ros.wire.limits import Limits

MARK = '__image__'
_JPEG_QUALITY = 95
_PNG_LEVEL = 1  # of zlib: higher takes three times as long for a tenth less


@dataclass
class _Compressed:
    data: bytes
    format: str = ''


def encoded_image(rgb: NDArray[np.uint8], form: Literal['png', 'jpeg']) -> dict[str, Any]:
    """Return a compressed image as a map that :func:`vla_ros.wire.pack` sends.

    :param rgb: uint8 [H, W, 3].
    """
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(rgb)
    if form == 'png':
        image.save(buffer, 'PNG', compress_level=_PNG_LEVEL)
    else:
        image.save(buffer, 'JPEG', quality=_JPEG_QUALITY)
    return {MARK: True, 'format': form, 'data': buffer.getvalue(), 'shape': list(rgb.shape)}


class ImageDecoder:
    """The decoder of the encoded images of one message, which counts their pixels together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pixels_left = limits.pixels

    def decode(self, fields: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Return the image, uint8 [H, W, 3] RGB.

        :param fields: the map, with text keys.
        :raises WireError: if it is not a whole image, or too large.
        """
        form, data = fields.get('format'), fields.get('data')
        if form == 'raw':
            return decoded_array(
                fields.get('dtype', '|u1'), fields.get('shape'), data, self._limits
            )
        if form not in ('png', 'jpeg') or not isinstance(data, bytes):
            raise WireError(
                'an encoded image has a format that is not allowed',
                value=form,
                expected='png, jpeg or raw, and data in bytes',
            )
        try:
            image = compressed_to_rgb(_Compressed(data), max(0, self._pixels_left))
        except UnusableImage as error:
            raise as_wire_error(error, 'an encoded image cannot be used') from error
        self._pixels_left -= image.shape[0] * image.shape[1]
        return image
