# SPDX-License-Identifier: Apache-2.0
"""The trial of ROS's cv_bridge: which encodings it converts correctly, if it is installed.

Importing this imports neither ROS nor cv_bridge. Any thread; the only state is the verdict, which
is reached once and kept.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.images.encodings import ENCODINGS, Encoding

_PROBE_TIMEOUT_S = 60.0

_Imgmsg2Cv2 = Callable[[Any, str], NDArray[np.uint8]]


@dataclass(frozen=True)
class Verdict:
    """The verdict on cv_bridge.

    :param converters: cv_bridge's converter, by each encoding that it converts correctly.
    :param defect: why it converts none; empty if it is not installed.
    """

    converters: Mapping[str, _Imgmsg2Cv2] = field(default_factory=dict)
    defect: str = ''


@functools.cache
def verdict() -> Verdict:
    """Try cv_bridge in a separate process.

    A cv_bridge that was built for NumPy 1 and runs with NumPy 2 (vision_opencv#535) may print,
    raise or, according to its source, use a null pointer, which no except clause catches.
    """
    if importlib.util.find_spec('cv_bridge') is None:
        return Verdict()
    try:
        probe = subprocess.run(
            [sys.executable, '-m', __name__],
            env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
        )
        encodings = json.loads(probe.stdout.strip().rpartition('\n')[2])
        if not encodings:
            return Verdict(defect='cv_bridge gives wrong values')
        from cv_bridge import CvBridge

        return Verdict(dict.fromkeys(encodings, CvBridge().imgmsg_to_cv2))
    except subprocess.CalledProcessError as error:
        complaint = (error.stderr.strip().splitlines() or [f'exit status {error.returncode}'])[-1]
        return Verdict(defect=f'cv_bridge does not work: {complaint}')
    except (OSError, ImportError, ValueError, subprocess.TimeoutExpired) as error:
        return Verdict(defect=f'cv_bridge does not work: {error}')


def _agreeing_encodings() -> list[str]:
    """Return the encodings that cv_bridge converts as we do; for the separate process."""
    from cv_bridge import CvBridge

    convert = CvBridge().imgmsg_to_cv2
    return [
        name
        for name, encoding in ENCODINGS.items()
        if not encoding.is_rgb8 and _agrees(convert, name, encoding)
    ]


def _agrees(convert: _Imgmsg2Cv2, name: str, encoding: Encoding) -> bool:
    height, width = 32, 64  # wide enough for OpenCV's vector instructions
    step = width * encoding.channels * encoding.value_bytes
    noise = np.random.default_rng(0).integers(0, 256, (height, step), dtype=np.uint8)
    message: Any = SimpleNamespace(
        height=height, width=width, encoding=name, is_bigendian=0, step=step, data=noise.tobytes()
    )
    pixels = noise.view(f'<u{encoding.value_bytes}').reshape(height, width, encoding.channels)
    try:
        theirs = convert(message, 'rgb8')
    except Exception:  # its version decides: CvBridgeError, KeyError, cv2.error, RuntimeError, ...
        return False
    ours = encoding.to_rgb(pixels)
    return bool(getattr(theirs, 'dtype', None) == np.uint8 and np.array_equal(theirs, ours))


if __name__ == '__main__':
    print(json.dumps(_agreeing_encodings()))
