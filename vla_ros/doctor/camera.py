# SPDX-License-Identifier: Apache-2.0
"""Judges what was heard of a camera by the requirements of the node. Independent of ROS."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vla_ros.clock import MAX_CLOCK_SKEW_S
from vla_ros.doctor.findings import Finding, fail, ok, warn
from vla_ros.doctor.middleware import SEGMENT_BYTES
from vla_ros.doctor.rate import TOLERANCE
from vla_ros.errors import VlaError
from vla_ros.parameters.definition import Parameters

BEST_EFFORT = 'best effort'


@dataclass(frozen=True)
class Offer:
    """A publisher, as others see it.

    :param depth: 0 if the middleware does not report it.
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
class HeardImage:
    """An image that was heard.

    :param received_s: time of its arrival, monotonic.
    :param age_s: age on arrival, by its stamp.
    :param kind: size and encoding.
    :param refusal: the error with which the node would reject it; None if it would not.
    :param changed: whether a pixel differs from the image before.
    :param cause: the likely cause of its age, and what to do; empty if unknown.
    """

    received_s: float
    age_s: float
    byte_count: int
    kind: str
    refusal: VlaError | None
    changed: bool
    cause: str = ''


@dataclass(frozen=True)
class Heard:
    """All that was heard on the topic of one camera.

    :param topic: full name.
    :param message_type: type that the node subscribes to.
    :param listened: reliability of the subscription; empty if there was none.
    :param elsewhere: other topics of that type.
    :param seconds: duration of listening.
    :param other_transport: value of image_transport for which the camera publishes, where it does
        not for the present one; or empty.
    """

    topic: str
    message_type: str
    offers: Sequence[Offer]
    listened: str
    elsewhere: Sequence[str]
    images: Sequence[HeardImage]
    seconds: float
    other_transport: str = ''


def judge_camera(
    heard: Heard, parameters: Parameters, rate_hz: float | None = None
) -> Iterator[Finding]:
    """Yield the findings about one camera.

    :param rate_hz: rate of the data set; None if it is unknown.
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
            f'images of {len(heard.offers)} publishers mix: {offers}',
            'stop all but one, or remap them',
        )
    else:
        yield ok(f'published by {offers}')
    if not heard.images:
        yield fail(
            f'no image arrived in {heard.seconds:g} s',
            'check that the camera streams (ros2 topic hz); on another machine or container, check '
            'the network, ROS_DOMAIN_ID and, for large images, config/fastdds.xml',
        )
        return
    yield from _judge_rate(heard, parameters, rate_hz)
    yield _judge_images(heard, parameters)


def _unheard(heard: Heard) -> Finding | None:
    """Return the reason why the node cannot hear an image there; None if it can."""
    there = ', '.join(heard.elsewhere) or 'none'
    advice = f'name its topic: --image TOPIC; topics of that type: {there}'
    if heard.other_transport:
        advice = f'set image_transport to {heard.other_transport}, or {advice}'
    if not heard.offers:
        return fail('no publisher', f'start the camera, or {advice}')
    found = sorted({offer.message_type for offer in heard.offers} - {heard.message_type})
    if found:
        return fail(f'it carries {", ".join(found)}, the node expects {heard.message_type}', advice)
    best_effort = [offer for offer in heard.offers if offer.reliability == BEST_EFFORT]
    if best_effort and heard.listened != BEST_EFFORT:
        return fail(
            f'{best_effort[0]} is not heard by a node that listens {heard.listened}',
            'set image_reliability to auto',
        )
    return None


def _judge_rate(heard: Heard, parameters: Parameters, rate_hz: float | None) -> Iterator[Finding]:
    images = heard.images
    spans_s = images[-1].received_s - images[0].received_s
    if len(images) < 2 or spans_s <= 0:
        yield warn(
            f'{len(images)} image arrived in {heard.seconds:g} s',
            'let the camera send more, or listen for longer: --seconds',
        )
        return
    found_hz = (len(images) - 1) / spans_s
    found = f'{found_hz:.1f} images a second'
    large = max(image.byte_count for image in images) > SEGMENT_BYTES
    if_more = '; if it sends more, start it with config/fastdds.xml (docs/install.md)'
    lost = if_more if large else ''
    # The newest image is up to a period old when the policy is free, and inference still follows.
    if 2 / found_hz > parameters.max_image_age_s:
        yield warn(
            f'{found}: they are {1 / found_hz:.2g} s apart, max_image_age_s is '
            f'{parameters.max_image_age_s:g}, so some will be stale when the policy is free',
            f"raise the camera's rate, or max_image_age_s{lost}",
        )
    elif rate_hz is not None and found_hz < TOLERANCE * rate_hz:
        yield warn(
            f'{found}, for a policy trained at {rate_hz:.2g} Hz', f"raise the camera's rate{lost}"
        )
    else:
        yield ok(found)


def _judge_images(heard: Heard, parameters: Parameters) -> Finding:
    """Return a finding about size, encoding, age and change of the images."""
    images = heard.images
    refusals = [image.refusal for image in images if image.refusal]
    if refusals:
        last = refusals[-1]
        return fail(
            f'{len(refusals)} of {len(images)} images are not usable: {last.what}', last.advice
        )
    kinds = ', '.join(dict.fromkeys(image.kind for image in images))
    age_s = statistics.median(image.age_s for image in images)
    if age_s < 0:
        return warn(
            f'{kinds}, stamped {-age_s:.2g} s ahead of this clock; more than '
            f'{MAX_CLOCK_SKEW_S:g} s are rejected',
            "synchronise the camera's clock with this machine's",
        )
    found = f'{kinds}, {age_s:.2g} s old on arrival'
    if age_s > parameters.max_image_age_s:
        return fail(
            f'{found}; max_image_age_s is {parameters.max_image_age_s:g}',
            images[-1].cause
            or 'synchronise the clocks, find the cause of the delay, or raise max_image_age_s',
        )
    still = not any(image.changed for image in images[1:])
    if len(images) > 1 and still and parameters.frozen_image_timeout_s:
        return warn(
            f'{found}; not one pixel changed in {heard.seconds:g} s',
            'check that the camera is not frozen; if its images have no noise (a simulator), set '
            'frozen_image_timeout_s to 0.0',
        )
    return ok(found)
