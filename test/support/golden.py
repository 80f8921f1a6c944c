# SPDX-License-Identifier: Apache-2.0
"""The cases of test/golden: what the reference answered (see its README.md)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from support.places import GOLDEN

CHECKPOINTS = ('openvla_tiny', 'openvla_v01_tiny')
CASES = {
    f'{name}-{case["name"]}': (name, case)
    for name in CHECKPOINTS
    for case in json.loads((GOLDEN / f'{name}.json').read_text())['cases']
}


def picture(case: dict[str, Any]) -> NDArray[np.uint8]:
    with Image.open(GOLDEN / case['image']) as image:
        return np.asarray(image.convert('RGB'))
