# SPDX-License-Identifier: Apache-2.0
"""Limits of joints from a robot description in URDF. Any thread.

The text may come from another node, so it is read as a stranger's: of bounded size and depth, and
without a document type, which could define entities or name other files. Nothing is expanded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from vla_ros.files import FileError, read_text
from vla_ros.motion.joint_limits import JointLimit
from vla_ros.text import quoted
from vla_ros.types import PolicyError

MAX_BYTES = 20_000_000
_MAX_DEPTH = 64
_MAX_JOINTS = 2000
_LIMITED = ('revolute', 'prismatic')
_TURNING = ('continuous', *_LIMITED)


class URDFError(PolicyError):
    """A robot description can't be used."""


def load_urdf(path: str) -> dict[str, JointLimit]:
    """Return the limits of the joints of a file.

    :raises URDFError: if the file can't be read, or as :func:`read_urdf`.
    """
    try:
        text = read_text(Path(path), MAX_BYTES)
    except FileError as error:
        raise URDFError(f'robot description {error}', 'give the path of a URDF file') from error
    return read_urdf(text, f'robot description {path}')


def read_urdf(text: str, what: str) -> dict[str, JointLimit]:
    """Return the limits of all joints that move by themselves.

    :param what: the description, for errors.
    :raises URDFError: if the text is too long, not XML, not a URDF, or a limit is not a number.
    """
    if len(text) > MAX_BYTES:
        raise URDFError(f'{what} has {len(text)} characters', expected=f'at most {MAX_BYTES}')
    reader = _Reader(what)
    parser = expat.ParserCreate('utf-8')
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        parser.Parse(text.encode('utf-8', 'replace'), True)
    except expat.ExpatError as error:
        raise URDFError(f'{what} is not XML: {error}', 'give a URDF') from error
    return {name: _limit(what, name, joint) for name, joint in reader.joints.items()}


@dataclass
class _Joint:
    kind: str
    limit: dict[str, str] | None = None
    soft: dict[str, str] = field(default_factory=dict)


class _Reader:
    """Takes the joints of a robot from the events of a parser."""

    def __init__(self, what: str) -> None:
        self.joints: dict[str, _Joint] = {}
        self._what = what
        self._path: list[str] = []
        self._joint: _Joint | None = None  # the one that is being read, if it moves

    def doctype(self, *_: object) -> None:
        raise URDFError(
            f'{self._what} has a document type (DOCTYPE), which could name other files',
            'remove it: a URDF needs none',
        )

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag.startswith('xacro:') or tag == 'xacro':
            raise URDFError(
                f'{self._what} is a xacro, not a URDF: it has {quoted(tag)}',
                'expand it first: xacro robot.urdf.xacro > robot.urdf',
            )
        if not self._path and tag != 'robot':
            raise URDFError(f'{self._what} has the root {quoted(tag)}', expected='robot')
        self._path.append(tag)
        if len(self._path) > _MAX_DEPTH:
            raise URDFError(
                f'{self._what} has elements in elements in elements',
                expected=f'at most {_MAX_DEPTH} deep',
            )
        if self._path == ['robot', 'joint']:
            self._begin_joint(attributes)
        elif self._joint and self._path == ['robot', 'joint', 'limit']:
            self._joint.limit = attributes
        elif self._joint and self._path == ['robot', 'joint', 'safety_controller']:
            self._joint.soft = attributes

    def end(self, tag: str) -> None:
        if self._path == ['robot', 'joint']:
            self._joint = None
        self._path.pop()

    def _begin_joint(self, attributes: dict[str, str]) -> None:
        name, kind = attributes.get('name', ''), attributes.get('type', '')
        if kind not in _TURNING:
            return
        if not name or name in self.joints:
            raise URDFError(
                f'{self._what} has the joint {quoted(name)} twice, or without a name',
                'give each joint a name of its own',
            )
        if len(self.joints) >= _MAX_JOINTS:
            raise URDFError(f'{self._what} has too many joints', expected=f'at most {_MAX_JOINTS}')
        self._joint = self.joints[name] = _Joint(kind)


def _limit(what: str, name: str, joint: _Joint) -> JointLimit:
    """Return a joint's limits; 0 is the format's default of a position.

    Limits that leave no motion matter only to a motion of that joint.
    """
    if joint.limit is None:
        if joint.kind in _LIMITED:
            raise URDFError(
                f'{what}: joint {quoted(name)} is {joint.kind} and has no limit',
                'add the element limit, which the format requires',
            )
        return JointLimit()

    def number(attributes: dict[str, str], key: str, default: float) -> float:
        text = attributes.get(key)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = math.nan
        if text is not None and not math.isfinite(value):
            raise URDFError(
                f'{what}: {key} of joint {quoted(name)} is {quoted(text)}',
                value=text,
                expected='a finite number',
            )
        return value

    speed = number(joint.limit, 'velocity', math.inf)
    low = high = math.inf
    if joint.kind in _LIMITED:
        low = number(joint.limit, 'lower', 0.0)
        high = number(joint.limit, 'upper', 0.0)
        low = max(low, number(joint.soft, 'soft_lower_limit', low))
        high = min(high, number(joint.soft, 'soft_upper_limit', high))
    else:
        low = -math.inf
    return JointLimit(low, high, speed)
