# SPDX-License-Identifier: Apache-2.0
"""What a folder of a training does not say: it comes from the user, or from a preset.

Sources of the presets: constants and command lines of OpenVLA-OFT and VLA-Adapter, which choose
them by a word in the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vla_ros.convert.errors import ConvertError
from vla_ros.openvla.layout import NORMALIZATIONS

MERGED_DTYPES = ('bfloat16', 'float32')
ADAPTERS = ('merge', 'merged')


@dataclass(frozen=True)
class Preset:
    """The values of one data set.

    :param horizon: rows of a chunk.
    :param cameras: in the model's order; empty where the sources do not tell.
    :param state_dim: values of the state.
    """

    horizon: int
    action_dim: int
    cameras: tuple[str, ...]
    state_dim: int
    normalization: str


PRESETS = {
    'libero': Preset(8, 7, ('image', 'wrist_image'), 8, 'q01_q99'),
    'aloha': Preset(25, 14, ('image', 'left_wrist_image', 'right_wrist_image'), 14, 'min_max'),
    'bridge': Preset(5, 7, (), 7, 'q01_q99'),
    'calvin': Preset(8, 7, ('image', 'wrist_image'), 8, 'q01_q99'),
}


@dataclass(frozen=True)
class Options:
    """What the user says; None where nothing is said.

    :param no_state: leave the projector of the state out.
    :param tokens: there is no action head; actions are tokens, all decoded in one pass.
    :param base: the folder of the weights that an adapter belongs to.
    :param adapter: whether an adapter beside weights is still to be merged.
    :param merged_dtype: of the weights that an adapter changes.
    :param language_model: the folder of MiniVLA's language model, which its own folder lacks.
    :param vq: the folder of the network that MiniVLA's codes belong to.
    """

    preset: str | None = None
    cameras: tuple[str, ...] | None = None
    horizon: int | None = None
    normalization: str | None = None
    no_state: bool = False
    tokens: bool = False
    base: Path | None = None
    adapter: str | None = None
    merged_dtype: str = 'bfloat16'
    language_model: Path | None = None
    vq: Path | None = None

    @property
    def says_layout(self) -> bool:
        """Whether anything is said of a policy that is more than plain OpenVLA."""
        return bool(self.preset or self.cameras or self.horizon or self.tokens)

    def check(self) -> None:
        """Check the values.

        :raises ConvertError: if one is not allowed.
        """
        cameras = self.cameras
        if cameras is not None and (not all(map(_is_camera, cameras)) or _doubles(cameras)):
            raise ConvertError(
                f'--cameras is {",".join(cameras)}',
                expected='different names of letters, digits and _, such as image,wrist_image',
            )


@dataclass(frozen=True)
class Chosen:
    """The values that were said."""

    horizon: int
    cameras: tuple[str, ...]
    normalization: str


def chosen(options: Options, where: Path) -> Chosen:
    """Return the values of the options, else of the preset.

    :raises ConvertError: if one is missing, with the name of its option.
    """
    preset = PRESETS.get(options.preset or '')
    horizon = options.horizon or (preset and preset.horizon)
    cameras = options.cameras or (preset and preset.cameras)
    normalization = options.normalization or (preset and preset.normalization)
    missing = [
        option
        for option, value in (
            ('--horizon (rows of a chunk)', horizon),
            ("--cameras (names in the model's order)", cameras),
            (f'--normalization ({" or ".join(NORMALIZATIONS)})', normalization),
        )
        if not value
    ]
    if missing or not (horizon and cameras and normalization):
        alternative = '' if preset else f', or --preset {"|".join(PRESETS)}'
        raise ConvertError(
            f'{where} does not say everything that its policy needs',
            f'add {", ".join(missing)}{alternative}',
        )
    return Chosen(horizon, cameras, normalization)


def _is_camera(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def _doubles(names: tuple[str, ...]) -> bool:
    return len(set(names)) < len(names)
