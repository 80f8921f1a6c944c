# SPDX-License-Identifier: Apache-2.0
"""Checks Fast DDS and the variables of ROS 2: causes of large images that are slow or lost.

Only this shell's environment is visible; that of the camera's process may differ.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, ok, warn
from vla_ros.files import FileError, read_bytes
from vla_ros.release import profile_variables, ros_distro
from vla_ros.share import share_file
from vla_ros.shared_memory import SHARED_MEMORY
from vla_ros.text import printable, quoted

SEGMENT_BYTES = 512 * 1024  # without a profile
_MAX_PROFILE_BYTES = 1_000_000
_MAX_DIGITS = 10  # segment_size has 32 bits
_PICTURE_BYTES = 640 * 480 * 3  # if no image was heard
_DISCOVERY_RANGES = ('SUBNET', 'LOCALHOST', 'OFF', 'SYSTEM_DEFAULT')
_MOST_DOMAINS = 232
_SAFE_DOMAINS = 101  # beyond, Linux may give the ports to others


def check_middleware(
    facts: Facts, environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Check domain, discovery, Fast DDS's profile and shared memory."""
    yield from _domain(environment)
    yield from _discovery(environment)
    implementation = environment.get('RMW_IMPLEMENTATION') or 'rmw_fastrtps_cpp'
    if 'fastrtps' not in implementation:
        yield ok(f'{implementation}: it does not use config/fastdds.xml')
        return
    segment = yield from _profile(facts.image_bytes, environment, ros_distro())
    yield from _shared_memory(segment)


def _domain(environment: Mapping[str, str]) -> Iterator[Finding]:
    domain = environment.get('ROS_DOMAIN_ID') or '0'
    if not domain.isdecimal() or int(domain) > _MOST_DOMAINS:
        yield fail(f'ROS_DOMAIN_ID is {domain!r}', f'set it to 0 to {_SAFE_DOMAINS}, or unset it')
    elif int(domain) > _SAFE_DOMAINS:
        yield warn(
            f'ROS_DOMAIN_ID is {domain}, whose ports may be taken',
            f'set it to 0 to {_SAFE_DOMAINS}, the same everywhere',
        )
    else:
        yield ok(f'ROS_DOMAIN_ID is {domain}; the camera must have the same')


def _discovery(environment: Mapping[str, str]) -> Iterator[Finding]:
    reach = environment.get('ROS_AUTOMATIC_DISCOVERY_RANGE') or ''
    if reach and reach not in _DISCOVERY_RANGES:
        yield fail(
            f'ROS_AUTOMATIC_DISCOVERY_RANGE is {reach!r}',
            f'set it to one of: {", ".join(_DISCOVERY_RANGES)}',
        )
    elif reach == 'OFF':
        yield warn(
            'ROS_AUTOMATIC_DISCOVERY_RANGE is OFF: no other process is found',
            'set it to LOCALHOST or SUBNET, unless ROS_STATIC_PEERS names all',
        )
    elif reach == 'LOCALHOST' or environment.get('ROS_LOCALHOST_ONLY') == '1':
        yield ok('processes of this machine only are found (discovery is LOCALHOST)')


def _profile(
    heard_bytes: int | None, environment: Mapping[str, str], distro: str
) -> Generator[Finding, None, int]:
    """Check the profile of Fast DDS.

    :param heard_bytes: size of an image; None if none arrived, as before the camera starts.
    :returns: size of the shared-memory segment [bytes].
    """
    needed = heard_bytes or _PICTURE_BYTES
    wanted, other = profile_variables(distro)
    advice = f'before the camera starts: export {wanted}={share_file("config/fastdds.xml")}'
    file = environment.get(wanted)
    if not file:
        found = f'{wanted} is not set'
        if environment.get(other):
            found += f' ({other} is, which ROS 2 {distro or "here"} does not read)'
        if heard_bytes is None:
            yield warn(
                f'{found}: an image of 640x480 has {needed} bytes, the shared memory of a '
                f'publisher {SEGMENT_BYTES}, so it arrives late or not at all',
                advice,
            )
        elif needed > SEGMENT_BYTES:
            yield ok(f'{found} here, and images of {needed} bytes arrive; it is for the camera')
        else:
            yield ok(f'{found}; images of {needed} bytes need no larger shared memory')
        return SEGMENT_BYTES
    try:
        segment = segment_bytes(Path(file))
    except (FileError, ValueError) as error:
        yield fail(f'{wanted} is {file}, which has no effect: {error}', advice)
        return SEGMENT_BYTES
    if segment < needed:
        yield warn(
            f'{file} gives a publisher {segment} bytes of shared memory, an image has {needed}',
            f'raise segment_size in it, or {advice}',
        )
    else:
        yield ok(
            f'{wanted} gives a publisher {segment / 1e6:.1f} MB of shared memory, if it is set for '
            'the camera as well'
        )
    return segment


def segment_bytes(file: Path) -> int:
    """Return the segment size of the largest shared-memory transport in the profiles.

    :raises FileError: if the file cannot be read.
    :raises ValueError: if it is not a profile of Fast DDS.
    """
    try:
        root = ElementTree.fromstring(read_bytes(file, _MAX_PROFILE_BYTES))
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(f'it is not XML ({error})') from error
    names = [element.tag.rpartition('}')[2] for element in root.iter()]
    if 'profiles' not in names:
        raise ValueError(f'it is not a profile of Fast DDS, but <{printable(names[0], 80)}>')
    sizes = [
        (element.text or '').strip()
        for element in root.iter()
        if element.tag.rpartition('}')[2] == 'segment_size'
    ]
    for size in sizes:
        if not size.isdecimal() or len(size) > _MAX_DIGITS:
            raise ValueError(f'segment_size is {quoted(size)}')
    return max(map(int, sizes), default=SEGMENT_BYTES)


def _shared_memory(segment: int) -> Iterator[Finding]:
    if not SHARED_MEMORY.is_dir():
        return
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    found = f'{SHARED_MEMORY} has {free / 1e6:.0f} MB free'
    # The camera has a segment, and so has each process that subscribes to it.
    if free < 2 * segment:
        yield warn(
            f'{found}, a segment takes {segment / 1e6:.1f}',
            'start the node (it removes the segments of dead processes), run fastdds shm clean, '
            'or give the container more: docker run --shm-size=1g',
        )
    else:
        yield ok(found)
