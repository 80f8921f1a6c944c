# SPDX-License-Identifier: Apache-2.0
"""``vla_ros.json``: the facts about a policy of OpenVLA's family that its other files do not have.

VLA-Adapter, OpenVLA-OFT and MiniVLA keep them in their programs. ``vla_convert`` writes the file,
beside config.json; a checkpoint without it is OpenVLA. Independent of weights.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.openvla.files import Remember, unwatched
from vla_ros.openvla.json_files import read_json
from vla_ros.text import NAME, is_name, quoted

LAYOUT_NAME = 'vla_ros.json'
FORMAT = 1
ACTION_HEADS = ('l1', 'tokens', 'decoded_tokens', 'bridge_pro', 'bridge')
NORMALIZATIONS = ('q01_q99', 'min_max')
PROMPTS = ('openvla', 'qwen', 'minivla')
MAX_CAMERAS = 3
BRIDGE_CAMERAS = 2

_MAX_ROWS, _MAX_VALUES = 128, 128  # far above what was ever trained: 25 rows of 14
_MAX_GROUPS, _MAX_SIZE = 64, 65536  # of codes; 7 and 512 were trained


@dataclass(frozen=True)
class Codes:
    """The network that makes a chunk of codes: MiniVLA's with vector quantisation (VQ).

    Each token is a code of one group; the codes' vectors are added. Their number in a group is
    ``n_action_bins`` in config.json.

    :param groups: tokens of a chunk.
    :param latent_dim: values of a code's vector.
    :param hidden_dim: values between the network's layers.
    :param scale: by which its output is multiplied.
    :raises CheckpointError: if a value is not allowed.
    """

    groups: int
    latent_dim: int
    hidden_dim: int
    scale: float

    def __post_init__(self) -> None:
        _check_whole(self, 'groups', 1, _MAX_GROUPS)
        _check_whole(self, 'latent_dim', 1, _MAX_SIZE)
        _check_whole(self, 'hidden_dim', 1, _MAX_SIZE)
        if type(self.scale) not in (int, float) or not 0 < self.scale < math.inf:
            raise _unfit('scale', self.scale, 'a number above 0')


@dataclass(frozen=True)
class Layout:
    """The parts of a policy that gives chunks, and its inputs.

    :param action_head: ``l1`` (OpenVLA-OFT), ``tokens`` (OpenVLA-OFT without a head: every token
        of the chunk in one pass), ``decoded_tokens`` (MiniVLA: one token after the other),
        ``bridge_pro`` or ``bridge`` (VLA-Adapter, Pro or not).
    :param horizon: K, rows of a chunk.
    :param action_dim: D, values of an action.
    :param cameras: their names in the order of training, 1 to 3.
    :param state_dim: S, values of the robot's state; 0 if the policy takes none.
    :param normalization: the bounds of actions and states in dataset_statistics.json that mean -1
        and 1: the quantiles ``q01`` and ``q99``, or ``min`` and ``max``.
    :param film: whether the instruction scales and shifts the features of the vision towers.
    :param prompt: the template of instructions: ``openvla`` (that of the language model in
        config.json), ``qwen`` (ChatML) or ``minivla`` (ChatML, and ``<image>`` is left out of the
        instruction).
    :param codes: of decoded tokens that stand for a whole chunk; None where each token stands for
        one value of a single row.
    :raises CheckpointError: if a value is not allowed, or does not go with another.
    """

    action_head: str
    horizon: int
    action_dim: int
    cameras: tuple[str, ...]
    state_dim: int
    normalization: str
    film: bool
    prompt: str
    codes: Codes | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ('action_head', ACTION_HEADS),
            ('normalization', NORMALIZATIONS),
            ('prompt', PROMPTS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise _unfit(name, value, f'one of {", ".join(allowed)}')
        for name, least, most in (
            ('horizon', 1, _MAX_ROWS),
            ('action_dim', 1, _MAX_VALUES),
            ('state_dim', 0, _MAX_VALUES),
        ):
            _check_whole(self, name, least, most)
        if type(self.film) is not bool:
            raise _unfit('film', self.film, 'true or false')
        self._check_cameras()
        if self.action_head == 'tokens' and self.prompt != 'openvla':
            # VLA-Adapter's own path without a head reads other bins than it was trained on.
            raise _unfit('prompt', self.prompt, 'openvla with action_head tokens')
        if self.is_bridge:
            self._check_bridge()
        self._check_decoded()

    @property
    def is_bridge(self) -> bool:
        """Whether the head is one of VLA-Adapter's."""
        return self.action_head in ('bridge_pro', 'bridge')

    @property
    def emits_tokens(self) -> bool:
        """Whether the chunk is made of tokens."""
        return self.action_head == 'tokens' or self.decodes

    @property
    def decodes(self) -> bool:
        """Whether tokens are decoded one after the other, as OpenVLA's."""
        return self.action_head == 'decoded_tokens'

    @property
    def doubt(self) -> str:
        """A reason to doubt that the policy is of use, for the user; empty if there is none."""
        if self.action_head != 'bridge':
            return ''
        return (
            'nothing in the head of VLA-Adapter without Pro tells the rows of a chunk apart: all '
            f'{self.horizon} are equal; take a Pro checkpoint'
        )

    def _check_cameras(self) -> None:
        names = self.cameras
        if not isinstance(names, tuple) or not 1 <= len(names) <= MAX_CAMERAS:
            raise _unfit('cameras', names, f'a list of 1 to {MAX_CAMERAS} names')
        for name in names:
            if not isinstance(name, str) or not is_name(name):
                raise _unfit('cameras', name, f'{NAME}, as the name of each')
        if len(set(names)) < len(names):
            raise _unfit('cameras', names, 'each name once')

    def _check_bridge(self) -> None:
        """Check what the released VLA-Adapters have in common; nothing else was ever trained."""
        head = f'with action_head {self.action_head}'
        if len(self.cameras) != BRIDGE_CAMERAS:
            # The reference runs: it takes a part of the words for the image, or the reverse.
            raise _unfit('cameras', self.cameras, f'{BRIDGE_CAMERAS} cameras {head}')
        if not self.state_dim:
            raise _unfit('state_dim', self.state_dim, f'the size of a state {head}')
        if self.film:
            raise _unfit('film', self.film, f'false {head}')

    def _check_decoded(self) -> None:
        """Check what MiniVLAs have in common, and that nothing else has it."""
        head = f'with action_head {self.action_head}'
        if self.decodes != (self.prompt == 'minivla'):
            raise _unfit('prompt', self.prompt, f'{"" if self.decodes else "not "}minivla {head}')
        if not self.decodes:
            if self.codes is not None:
                raise _unfit('codes', self.codes, f'none {head}')
            return
        if self.state_dim or self.film:
            raise _unfit('state_dim', self.state_dim, f'0, and film false, {head}')
        if self.codes is None and self.horizon != 1:
            raise _unfit('horizon', self.horizon, f'1 {head} without codes')


def read_layout(directory: Path, remember: Remember = unwatched) -> Layout | None:
    """Read a checkpoint's layout; None if it has no such file, as OpenVLA.

    :param remember: called with the file immediately before it is opened.
    :raises CheckpointError: if the file can't be read, or a field is missing, unknown or wrong.
    """
    path = directory / LAYOUT_NAME
    if not os.path.lexists(path):
        return None
    return parse_layout(read_json(path, remember), str(path))


def parse_layout(content: Mapping[str, Any], source: str) -> Layout:
    """Return the layout of the content of the file.

    :param source: the file, named in errors.
    :raises CheckpointError: if a field is missing, unknown or wrong.
    """
    names = {field.name for field in fields(Layout)} - {'codes'}
    form = content.get('format')
    if type(form) is not int or form != FORMAT:
        raise CheckpointError(
            f'{source}: format is {quoted(form)}, and this version reads format {FORMAT}',
            'convert the checkpoint again with vla_convert of this version',
            value=form,
            expected=str(FORMAT),
        )
    missing, unknown = names - content.keys(), content.keys() - names - {'format', 'codes'}
    if missing or unknown:
        parts = [f'lacks {listing(missing)}'] if missing else []
        parts += [f'has the unknown field {listing(unknown)}'] if unknown else []
        raise CheckpointError(
            f'{source} {" and ".join(parts)}',
            'convert the checkpoint again with vla_convert',
            expected=f'format, {listing(names, most=40)}',
        )
    values = {name: content[name] for name in names}
    if isinstance(values['cameras'], list):
        values['cameras'] = tuple(values['cameras'])
    try:
        return Layout(**values, codes=_parse_codes(content.get('codes')))
    except CheckpointError as error:
        named = CheckpointError(f'{source}: {error.what}', expected=error.expected)
        named.value = error.value
        raise named from error


def write_layout(directory: Path, layout: Layout) -> Path:
    """Write the layout into a checkpoint's folder, and return the file.

    :raises OSError: if the file can't be written, or is there already.
    """
    path = directory / LAYOUT_NAME
    with path.open('x', encoding='utf-8') as file:
        file.write(layout_text(layout))
    return path


def layout_text(layout: Layout) -> str:
    """Return the content of the file."""
    content = {'format': FORMAT, **asdict(layout)}
    if layout.codes is None:
        del content['codes']
    return json.dumps(content, indent=2) + '\n'


def _parse_codes(content: Any) -> Codes | None:
    names = {field.name for field in fields(Codes)}
    if content is None:
        return None
    if not isinstance(content, Mapping) or content.keys() != names:
        raise _unfit('codes', content, f'{listing(names)}')
    return Codes(**content)


def _check_whole(owner: object, name: str, least: int, most: int) -> None:
    value = getattr(owner, name)
    if type(value) is not int or not least <= value <= most:
        raise _unfit(name, value, f'a whole number from {least} to {most}')


def _unfit(name: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(f'{name} is {quoted(value)}', value=value, expected=expected)
