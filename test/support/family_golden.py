# SPDX-License-Identifier: Apache-2.0
"""The golden cases of OpenVLA's family: those in test/golden, and where they are, all others.

The others are in the folder ``shared`` beside the repository (see test/golden/README.md).
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from support.family import write_family
from support.places import GOLDEN, ROOT
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.layout import Layout
from vla_ros.types import Prediction

SHARED = ROOT.parent / 'shared'
CAMERAS = ('image', 'wrist_image', 'third')
PRO = Layout('bridge_pro', 8, 7, CAMERAS[:2], 8, 'q01_q99', False, 'qwen')
OFT = Layout('l1', 8, 7, CAMERAS[:2], 8, 'q01_q99', False, 'openvla')
ALOHA = Layout('l1', 25, 14, CAMERAS, 14, 'min_max', True, 'openvla')


@dataclass(frozen=True)
class Case:
    """One golden case.

    :param checkpoint: as vla_ros loads it where ``converted``, otherwise as released.
    :param layout: with the inputs of this case.
    :param images: files.
    :param tolerance: of hidden states and actions.
    """

    name: str
    checkpoint: Path
    converted: bool
    layout: Layout
    facts: Mapping[str, Any]
    images: tuple[Path, ...]
    arrays: Path
    prefix: str
    tolerance: float

    def folder(self) -> Path:
        """Return the checkpoint as vla_ros loads it."""
        return self.checkpoint if self.converted else _converted(self.checkpoint, self.layout)

    def policy(self, dtype: str = 'float32') -> OpenVLAPolicy:
        return _policy(self.folder(), dtype)

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        pictures = {}
        for camera, path in zip(self.layout.cameras, self.images, strict=True):
            with Image.open(path) as image:
                pictures[camera] = np.asarray(image.convert('RGB'))
        return pictures

    def state(self) -> NDArray[np.float64] | None:
        """Raw; None if the case has none."""
        values = self.facts.get('state', self.facts.get('proprio'))
        return None if values is None else np.array(values)

    def instruction(self) -> str:
        return str(self.facts.get('instruction', self.facts.get('ins')))

    def predict(self, policy: OpenVLAPolicy | None = None) -> Prediction:
        return (policy or self.policy()).predict_action(
            self.pictures(),
            self.instruction(),
            self.facts['unnorm_key'],
            state=self.state(),
        )

    def array(self, name: str) -> NDArray[Any]:
        with np.load(self.arrays) as file:
            return file[self.prefix + name]

    def has(self, name: str) -> bool:
        with np.load(self.arrays) as file:
            return self.prefix + name in file

    def inputs(self, policy: OpenVLAPolicy) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Prompt [1, T], its length [1], the state [1, S], pixel values [cameras, 6, 224, 224]."""
        prompt = policy._prompt_tokenizer(self.instruction())
        pixels = [policy._image_processor(picture) for picture in self.pictures().values()]
        raw, state = self.state(), None
        if raw is not None:
            statistics = policy.config.norm_stats[self.facts['unnorm_key']].state
            assert statistics
            state = torch.from_numpy(statistics.normalize(raw)).float()[None]
        return prompt, torch.tensor([prompt.shape[1]]), state, torch.cat(pixels)


def _vla_adapter(folder: Path, name: str, converted: bool, checkpoint: Path) -> list[Case]:
    layout = replace(PRO, action_head='bridge_pro' if 'pro' in name else 'bridge')
    return [
        Case(
            f'{name}-{case["name"]}' + ('' if converted else '-shared'),
            checkpoint,
            converted,
            layout,
            case,
            tuple(folder / image for image in case['images']),
            folder / f'{name}.npz',
            f'{case["name"]}/',
            1e-5,
        )
        for case in json.loads((folder / f'{name}.json').read_text())['cases']
        if not case['name'].startswith('quirk_')
    ]


def _oft(index: Path, base: Layout, converted: bool, checkpoint: Path) -> list[Case]:
    return [
        Case(
            f'{index.parent.name}-{case["name"]}' + ('' if converted else '-shared'),
            checkpoint,
            converted,
            replace(
                base,
                action_head='l1' if case['head'] else 'tokens',
                cameras=CAMERAS[: case['nimg']],
                state_dim=base.state_dim if case['proprio'] else 0,
            ),
            case,
            tuple(index.parent / image for image in case['images']),
            index.with_suffix('.npz') if converted else index.parent / f'{case["name"]}.npz',
            f'{case["name"]}/' if converted else '',
            1e-4,
        )
        for case in json.loads(index.read_text())['cases']
    ]


def _cases() -> dict[str, Case]:
    pro, oft = 'vla_adapter_pro_tiny', 'openvla_oft_libero_tiny'
    cases = _vla_adapter(GOLDEN, pro, True, GOLDEN / pro)
    cases += _oft(GOLDEN / f'{oft}.json', OFT, True, GOLDEN / oft)
    family, released = SHARED / 'golden_family' / 'vla_adapter', SHARED / 'golden_oft'
    if family.is_dir():
        for name in (pro, 'vla_adapter_tiny'):
            cases += _vla_adapter(family, name, False, family / name)
    if released.is_dir():
        for kind, layout in (('libero', OFT), ('aloha', ALOHA)):
            checkpoint = released / f'openvla_oft_{kind}_tiny'
            cases += _oft(released / kind / 'index.json', layout, False, checkpoint)
    return {case.name: case for case in cases}


@cache
def _converted(checkpoint: Path, layout: Layout) -> Path:
    folder = Path(tempfile.mkdtemp(prefix='vla_ros_family_'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_family(checkpoint, folder / checkpoint.name, layout)


@cache
def _policy(folder: Path, dtype: str) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(folder, device='cpu', dtype=dtype)


CASES = _cases()
COMMITTED = {name: case for name, case in CASES.items() if case.converted}
PRO_CASE = CASES['vla_adapter_pro_tiny-square']
OFT_CASE = CASES['golden-o0_full']
