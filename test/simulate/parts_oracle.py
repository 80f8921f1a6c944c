# SPDX-License-Identifier: Apache-2.0
"""What the node took of one robot's cameras and its state, and which observations follow from it.

:class:`CameraOracle` judges the images of one camera, :class:`StateOracle` the states, and
:class:`AssemblyOracle` predicts which images are joined. Where the node may do one thing or the
other, the prediction starts anew and is not used for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from simulate.policy import Frame
from simulate.scheduler import NS
from simulate.world import MAX_SKEW_S
from vla_ros.reasons import Reason

MARGIN_S = 0.005  # between a decision and its publication
NOTICE_S = 0.15  # the node looks every 0.02 s; a callback before that may take as long
_UNSURE_S = 0.3  # after which the node and the prediction hold the same images again
_KEPT = 300  # states and joins; the node keeps 256 states
_EARLIER_S = 0.5  # the node may have begun to wait before the prediction did, which was in doubt


@dataclass
class Seen:
    """An image that the node took.

    :param fault: why it may not be used; empty: it may.
    :param shown: whether the policy has had it.
    :param used: whether an action came of it.
    """

    stamp_ns: int
    frame: Frame
    fault: str
    epoch: int
    instructions: frozenset[str]
    taken_ns: int
    shown: bool = False
    used: bool = False

    @property
    def may_count(self) -> bool:
        return self.fault in ('', 'perhaps')


@dataclass
class TakenState:
    """A usable state that the node took.

    :param is_void: whether the clock that stamped it has jumped since.
    :param is_doubtful: whether the node may have dropped it, as the clock jumped.
    """

    values: tuple[float, ...]
    stamp_ns: int
    taken_ns: int
    is_void: bool = False
    is_doubtful: bool = False


class Join(NamedTuple):
    """An observation that the node must have made."""

    images: Sequence[Seen]
    at_ns: int


class CameraOracle:
    """The rules for the images of one camera, in the order in which they were taken."""

    def __init__(
        self,
        parameters: dict[str, Any],
        now_ns: Callable[[], int],
        node_ns: Callable[[], int],
    ) -> None:
        self._params = parameters
        self._now_ns, self._node_ns = now_ns, node_ns
        self._in_doubt = False
        self._perhaps_stamp_ns = 0  # of the image before, if the node may have rejected it
        self._order_in_doubt = False  # until an image's stamp was compared after the clock's doubt
        self._doubt_ends_ns = 0
        self.start_over()

    def start_over(self) -> None:
        """The camera is another one now."""
        self.has_come = False  # an image, which the node surely counts as a sign of life
        self.last_ns = self._surely_ns = self._now_ns()
        self._gap_s = 0.0  # between two images that were surely new, the longest of late
        self._gap_ns = 0  # when it ended
        self._last_stamp_ns: int | None = None
        self._frames: set[Frame] = set()
        self._judged_ns: int | None = None
        self._new_frame_ns = 0

    def judge(self, stamp_ns: int, frame: Frame, usable: bool) -> str:
        """Return the fault of an image; ``perhaps`` where it depends on when the node looks."""
        fault = self._fault(stamp_ns, frame) if usable else 'rejected'
        now_ns = self._now_ns()
        if fault not in ('repeated', 'perhaps'):
            gap_s, self._surely_ns = (now_ns - self._surely_ns) / NS, now_ns
            if gap_s > self._gap_s or (now_ns - self._gap_ns) / NS > NOTICE_S:
                self._gap_s, self._gap_ns = gap_s, now_ns
            self.has_come = True
        if fault != 'repeated':
            self.last_ns = now_ns
        return fault

    def silent_s(self) -> float:
        """Return for how long the node may have had no image.

        It may tell a moment later of a silence that has just ended.
        """
        silent_s = (self._now_ns() - self._surely_ns) / NS
        is_new = (self._now_ns() - self._gap_ns) / NS < NOTICE_S
        return max(silent_s, self._gap_s) if is_new else silent_s

    @property
    def in_doubt(self) -> bool:
        return self._in_doubt

    def doubt_clock(self) -> None:
        """The node's clock has jumped; it notices soon, and forgets the last stamp."""
        self._in_doubt = self._order_in_doubt = True
        self._doubt_ends_ns = self._now_ns() + round(NOTICE_S * NS)

    def _fault(self, stamp_ns: int, frame: Frame) -> str:
        if stamp_ns == 0:
            return 'unstamped'
        ahead_s = (stamp_ns - self._node_ns()) / NS
        in_doubt = self._is_in_doubt()
        if abs(ahead_s - MAX_SKEW_S) < MARGIN_S or (in_doubt and ahead_s > MAX_SKEW_S):
            self._perhaps_stamp_ns = stamp_ns
            return 'perhaps'
        if ahead_s > MAX_SKEW_S:
            return 'future'
        before_ns, self._last_stamp_ns = self._last_stamp_ns, stamp_ns
        order_in_doubt, self._order_in_doubt = self._order_in_doubt, self._in_doubt
        perhaps_ns, self._perhaps_stamp_ns = self._perhaps_stamp_ns, 0
        if stamp_ns <= perhaps_ns:
            return 'perhaps'
        if before_ns is not None and stamp_ns <= before_ns:
            if order_in_doubt:
                return 'perhaps'
            return 'repeated' if stamp_ns == before_ns else 'backwards'
        return self._freeze(frame, in_doubt)

    def _freeze(self, frame: Frame, in_doubt: bool) -> str:
        """Whether all images were ones that had come before, for too long."""
        limit_s = self._params['frozen_image_timeout_s']
        if not limit_s:
            return ''
        now_ns = self._now_ns()
        before_ns, self._judged_ns = self._judged_ns, now_ns
        was_silent = before_ns is None or (now_ns - before_ns) / NS > limit_s
        if frame not in self._frames or was_silent:
            self._new_frame_ns = now_ns
        self._frames.add(frame)
        frozen_s = (now_ns - self._new_frame_ns) / NS
        if frozen_s < limit_s - MARGIN_S:
            return ''
        return 'perhaps' if in_doubt or frozen_s < limit_s + MARGIN_S else 'frozen'

    def _is_in_doubt(self) -> bool:
        """Whether the clock jumped a moment ago, and this is not the second image after that."""
        in_doubt = self._in_doubt
        if self._now_ns() > self._doubt_ends_ns:
            self._in_doubt = False
        return in_doubt


class StateOracle:
    """The usable states of one robot since it was activated."""

    def __init__(self, tolerance_ns: int, now_ns: Callable[[], int]) -> None:
        self.tolerance_ns = tolerance_ns
        self._now_ns = now_ns
        self._doubted_ns = -NS
        self._states: deque[TakenState] = deque(maxlen=_KEPT)

    def add(self, state: TakenState) -> None:
        state.is_doubtful = self._is_noticing
        self._states.append(state)

    def doubt_clock(self) -> None:
        """The states so far were stamped by another clock; the node notices soon."""
        self._doubted_ns = self._now_ns()
        for state in self._states:
            state.is_void = True

    def need_not_notice(self) -> None:
        """The clock is again what it was a moment ago."""
        for state in self._states:
            state.is_doubtful |= state.is_void
            state.is_void = False

    @property
    def _is_noticing(self) -> bool:
        return (self._now_ns() - self._doubted_ns) / NS < NOTICE_S

    def reasons(self) -> frozenset[Reason]:
        """Return the reasons that the node may tell where no state fits."""
        since_ns = self._now_ns() - round(NOTICE_S * NS)
        maybe = [one for one in self._states if not one.is_void or self._is_noticing]
        surely = [
            one
            for one in self._states
            if not one.is_void and not one.is_doubtful and one.taken_ns < since_ns
        ]
        reasons = {Reason.STATE_STALE} if maybe else set()
        return frozenset(reasons if surely else reasons | {Reason.STATE_MISSING})

    def fitting(self, images: Sequence[Seen]) -> list[TakenState]:
        """Return the states that may be part of an observation with these images."""
        stamps_ns = [image.stamp_ns for image in images]
        earliest_ns = min(stamps_ns) - self.tolerance_ns
        latest_ns = max(stamps_ns) + self.tolerance_ns
        return [
            one
            for one in self._states
            if not one.is_void and earliest_ns <= one.stamp_ns <= latest_ns
        ]

    def complete_ns(self, images: Sequence[Seen]) -> int:
        """Return when the last part of an observation with these images was taken."""
        images_ns = max(image.taken_ns for image in images)
        fitting = self.fitting(images)
        return max(images_ns, fitting[0].taken_ns) if fitting else images_ns

    def surely_complete_ns(self, images: Sequence[Seen], needs_state: bool) -> int:
        """Return the same, also if the node has dropped each state that it may have dropped."""
        images_ns = max(image.taken_ns for image in images)
        if not needs_state:
            return images_ns
        kept_ns = [one.taken_ns for one in self.fitting(images) if not one.is_doubtful]
        return max(images_ns, kept_ns[0] if kept_ns else self._now_ns())

    def why_not(self, images: Sequence[Seen], values: Sequence[float]) -> str:
        """Return why an observation of these images has not this state; empty: it may have it."""
        if self._is_noticing:
            return ''  # what comes of it is dropped
        before_ns = self.surely_complete_ns(images, needs_state=True)
        fitting = [one for one in self.fitting(images) if one.taken_ns <= before_ns]
        chosen = [one for one in fitting if one.values == tuple(values)]
        if not chosen:
            return 'none such was measured within the tolerance'
        surely_ns, stamp_ns = self.complete_ns(images), chosen[0].stamp_ns
        newer = [
            one
            for one in fitting
            if one.stamp_ns > stamp_ns and one.taken_ns <= surely_ns and not one.is_doubtful
        ]
        return f'there was a newer one: {newer[-1].values}' if newer else ''

    def is_void(self, values: Sequence[float]) -> bool:
        """Whether this state was stamped by another clock than the present one."""
        chosen = [one for one in self._states if one.values == tuple(values)]
        return any(one.is_void for one in chosen)


class AssemblyOracle:
    """A prediction of which images wait for others, and since when."""

    def __init__(
        self,
        cameras: int,
        needs_state: bool,
        parameters: dict[str, Any],
        now_ns: Callable[[], int],
    ) -> None:
        self._cameras, self._needs_state = cameras, needs_state
        self._params = parameters
        self._now_ns = now_ns
        self.joins: deque[Join] = deque(maxlen=_KEPT)
        self._unsure_ns = -NS  # when the node last may have done one thing or the other
        self.start_over()

    def start_over(self) -> None:
        """The node is activated."""
        tolerance_ns = round(self._params['sync_tolerance_s'] * NS)
        self._tolerance_ns = self._next_tolerance_ns = tolerance_ns
        self.states = StateOracle(tolerance_ns, self._now_ns)
        self.doubt()

    def change_tolerance(self, tolerance_s: float) -> None:
        """Observations by the one before may still be on their way."""
        tolerance_ns = round(tolerance_s * NS)
        most_ns = max(tolerance_ns, self._tolerance_ns)
        self._tolerance_ns = self.states.tolerance_ns = most_ns
        self._next_tolerance_ns = tolerance_ns
        self._unsure_ns = self._now_ns() + 2 * NS

    def is_settled(self) -> bool:
        """Return whether the tolerance is known."""
        if self._now_ns() < self._unsure_ns:
            return False
        self._tolerance_ns = self.states.tolerance_ns = self._next_tolerance_ns
        return True

    def drop(self) -> None:
        """The node drops the images that wait."""
        self._held: dict[int, Seen] = {}
        self._since_ns: int | None = None
        self._close_ns = 0  # when the images were last close, or the first one came
        self._vain_ns: int | None = None  # when close images had surely waited too long
        self._reasons: set[Reason] = set()  # those that were right lately
        self._dropped_ns = self._now_ns()

    def doubt(self) -> None:
        """The node may drop the images that wait, or may have dropped them."""
        self.drop()
        self._unsure_ns = max(self._unsure_ns, self._now_ns())

    def add(self, image: Seen) -> Join | None:
        """Hold an image, and return the observation if it completes one."""
        self.wait()
        self._held[image.frame.camera] = image
        if self._since_ns is None and not self.is_unsure(_UNSURE_S):
            self._since_ns = self._close_ns = self._now_ns()
        return self.join()

    def join(self) -> Join | None:
        """Return the observation that is complete now."""
        images = list(self._held.values())
        if not self.is_settled():
            self.drop()
            return None
        if not self._has_close_images() or (self._needs_state and not self.states.fitting(images)):
            self.wait()
            return None
        self.drop()
        self.joins.append(Join(images, self._now_ns()))
        return self.joins[-1]

    def wait(self) -> None:
        """Note until when the images were close, and why they are no observation.

        To be called before they change, too.
        """
        now_ns, since_ns = self._now_ns(), self._since_ns
        if since_ns is None or len(self._held) < self._cameras:
            return
        if self._has_close_images():
            self._close_ns = now_ns
            if self._vain_ns is None and self._waited_s(since_ns) > self._params['state_timeout_s']:
                self._vain_ns = now_ns
        self._reasons |= self._right(since_ns)

    def _right(self, since_ns: int) -> set[Reason]:
        """Return the reasons that the node may tell now."""
        reasons: set[Reason] = set()
        early_s = _EARLIER_S if self._close_ns == since_ns else MARGIN_S
        if self._waited_s(self._close_ns) > max(0.0, self._params['image_timeout_s'] - early_s):
            reasons.add(Reason.IMAGES_APART)
        vain_s = (self._close_ns - since_ns) / NS
        if self._needs_state and vain_s > self._params['state_timeout_s'] - _EARLIER_S:
            reasons |= self.states.reasons()
        return reasons

    def _has_close_images(self) -> bool:
        images = list(self._held.values())
        return len(images) == self._cameras and self.are_close(images)

    def _waited_s(self, since_ns: int) -> float:
        return (self._now_ns() - since_ns) / NS

    def are_close(self, images: Sequence[Seen]) -> bool:
        stamps_ns = [image.stamp_ns for image in images]
        return max(stamps_ns) - min(stamps_ns) <= self._tolerance_ns

    def is_unsure(self, within_s: float) -> bool:
        """Whether the node may have done one thing or the other within that time."""
        return (self._now_ns() - self._unsure_ns) / NS < within_s

    def limit_s(self, reason: Reason) -> float:
        name = 'image_timeout_s' if reason == Reason.IMAGES_APART else 'state_timeout_s'
        limit_s: float = self._params[name]
        return limit_s

    def overdue(self) -> tuple[set[Reason], int] | None:
        """Return why the robot has to hold by now, and since when images wait in vain.

        The node may have told any of the reasons since then, and not tell another one before it has
        waited anew.
        """
        self.wait()
        since_ns, vain_ns = self._since_ns, self._vain_ns
        if since_ns is None or len(self._held) < self._cameras:
            return None
        is_apart = self._waited_s(self._close_ns) > self._params['image_timeout_s'] + NOTICE_S
        is_vain = vain_ns is not None and self._waited_s(vain_ns) > NOTICE_S
        return (self._reasons, since_ns) if is_apart or is_vain else None

    def why_too_soon(self, reason: Reason) -> str:
        """Return why the node may not hold for this reason yet; empty: it may."""
        self.wait()
        waited_s = self._waited_s(self._dropped_ns)
        limit_s = self.limit_s(reason)
        if waited_s < limit_s - MARGIN_S and not self.is_unsure(limit_s + 1.0):
            return f'images were joined {waited_s:.3f} s ago'
        if reason != Reason.IMAGES_APART:
            return '' if reason in self.states.reasons() else 'it is another one of the state'
        apart_s = self._waited_s(self._close_ns)
        was_close = self._since_ns is not None and self._close_ns > self._since_ns
        if was_close and apart_s < limit_s - MARGIN_S:
            return f'images were close {apart_s:.3f} s ago'
        return ''
