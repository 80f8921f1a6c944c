"""Judges what was heard of a camera, by what the node will ask of it. Needs no ROS."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vla_ros.doctor.findings import Finding, fail, ok, warn
from vla_ros.doctor.middleware import SEGMENT_BYTES
from vla_ros.doctor.rate import TOLERANCE
from vla_ros.errors import VlaError
from vla_ros.parameters.definition import Parameters

BEST_EFFORT = 'best effort'


@dataclass(frozen=True)
class Offer:
    """A publisher, as others see it.

    :param depth: 0 where the middleware does not tell.
    """

    node: str
    message_type: str
    reliability: str
    durability: str
    depth: int

    def __str__(self) -> str:
        depth = f', depth {self.depth}' if self.depth else ''
        return f'{self.node} ({self.reliability}, {self.durability}{depth})'


@dataclass(frozen=True)
class Picture:
    """
    :param received_s: monotonic.
    :param age_s: at that moment, by its stamp.
    :param kind: size and encoding.
    :param refusal: why the node would reject it; None if it would not.
    :param changed: whether a pixel differs from the picture before.
    """

    received_s: float
    age_s: float
    byte_count: int
    kind: str
    refusal: VlaError | None
    changed: bool


@dataclass(frozen=True)
class Heard:
    """
    :param topic: full name.
    :param message_type: what the node subscribes to.
    :param listened: reliability of the subscription; empty if there was none.
    :param elsewhere: the other topics of that type.
    """

    topic: str
    message_type: str
    offers: Sequence[Offer]
    listened: str
    elsewhere: Sequence[str]
    pictures: Sequence[Picture]
    seconds: float


def judge_camera(
    heard: Heard, parameters: Parameters, rate_hz: float | None = None
) -> Iterator[Finding]:
    """
    :param rate_hz: of the data set, if it is known.
    """
    for finding in _judge(heard, parameters, rate_hz):
        yield replace(finding, text=f'{heard.topic}: {finding.text}')


def _judge(heard: Heard, parameters: Parameters, rate_hz: float | None) -> Iterator[Finding]:
    problem = _unheard(heard)
    if problem is not None:
        yield problem
        return
    offers = f'{", ".join(map(str, heard.offers))}; the node listens {heard.listened}'
    if len(heard.offers) > 1:
        yield warn(
            f'pictures of {len(heard.offers)} publishers mix: {offers}',
            'stop all but one, or remap them',
        )
    else:
        yield ok(f'published by {offers}')
    if not heard.pictures:
        yield fail(
            f'no picture came in {heard.seconds:g} s',
            'see that the camera streams (ros2 topic hz); from another machine or container, see '
            'the network, ROS_DOMAIN_ID and, for large pictures, config/fastdds.xml',
        )
        return
    yield from _judge_rate(heard, parameters, rate_hz)
    yield _judge_pictures(heard, parameters)


def _unheard(heard: Heard) -> Finding | None:
    """Why the node can't hear a picture there; None if it can."""
    if not heard.offers:
        there = ', '.join(heard.elsewhere) or 'none'
        return fail(
            'nobody publishes there',
            f'start the camera, or name its topic: --image TOPIC; of that type there are: {there}',
        )
    found = sorted({offer.message_type for offer in heard.offers} - {heard.message_type})
    if found:
        transport = 'compressed' if heard.message_type.endswith('/Image') else 'raw'
        return fail(
            f'it carries {", ".join(found)}, the node expects {heard.message_type}',
            f"name the camera's topic of that type, or set image_transport to {transport}: then "
            'the node listens to the other type, on the topic image/compressed or image',
        )
    best_effort = [offer for offer in heard.offers if offer.reliability == BEST_EFFORT]
    if best_effort and heard.listened != BEST_EFFORT:
        return fail(
            f'{best_effort[0]} is not heard by a node that listens {heard.listened}',
            'set image_reliability to auto',
        )
    return None


def _judge_rate(heard: Heard, parameters: Parameters, rate_hz: float | None) -> Iterator[Finding]:
    pictures = heard.pictures
    spans_s = pictures[-1].received_s - pictures[0].received_s
    if len(pictures) < 2 or spans_s <= 0:
        yield warn(
            f'{len(pictures)} picture came in {heard.seconds:g} s',
            'let the camera send more, or listen for longer: --seconds',
        )
        return
    found_hz = (len(pictures) - 1) / spans_s
    found = f'{found_hz:.1f} pictures a second'
    large = max(picture.byte_count for picture in pictures) > SEGMENT_BYTES
    if_more = '; if it sends more, start it with config/fastdds.xml (docs/install.md)'
    lost = if_more if large else ''
    # The newest one is up to a period old when its turn comes, and then is still to be looked at.
    if 2 / found_hz > parameters.max_image_age_s:
        yield warn(
            f'{found}: they are {1 / found_hz:.2g} s apart, max_image_age_s is '
            f'{parameters.max_image_age_s:g}, so some are stale when their turn comes',
            f"raise the camera's rate, or max_image_age_s{lost}",
        )
    elif rate_hz is not None and found_hz < TOLERANCE * rate_hz:
        yield warn(
            f'{found}, for a policy trained at {rate_hz:.2g} Hz', f"raise the camera's rate{lost}"
        )
    else:
        yield ok(found)


def _judge_pictures(heard: Heard, parameters: Parameters) -> Finding:
    """Of what kind they are, and whether they show what is."""
    pictures = heard.pictures
    refusals = [picture.refusal for picture in pictures if picture.refusal]
    if refusals:
        last = refusals[-1]
        return fail(
            f'{len(refusals)} of {len(pictures)} pictures are not usable: {last.what}', last.advice
        )
    kinds = ', '.join(dict.fromkeys(picture.kind for picture in pictures))
    age_s = statistics.median(picture.age_s for picture in pictures)
    found = f'{kinds}, {age_s:.2g} s old when it comes'
    if age_s > parameters.max_image_age_s:
        return fail(
            f'{found}; max_image_age_s is {parameters.max_image_age_s:g}',
            'synchronise the clocks, find what delays the pictures, or raise max_image_age_s',
        )
    still = not any(picture.changed for picture in pictures[1:])
    if len(pictures) > 1 and still and parameters.frozen_image_timeout_s:
        return warn(
            f'{found}; not one pixel changed in {heard.seconds:g} s',
            'see that the camera is not frozen; where pictures have no noise (a simulator) set '
            'frozen_image_timeout_s to 0.0',
        )
    return ok(found)
