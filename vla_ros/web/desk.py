# SPDX-License-Identifier: Apache-2.0
"""What the server has of one robot: its reports, lease, history and images, and its commands.

Used by the thread of the server's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from vla_ros.clock import Clock, SystemClock
from vla_ros.errors import VlaError
from vla_ros.reasons import State
from vla_ros.text import is_blank
from vla_ros.types import InstructionError, check_instruction
from vla_ros.web.history import Samples, Timeline
from vla_ros.web.lease import Lease
from vla_ros.web.messages import (
    LIMIT_S,
    LOST_AFTER_S,
    WORDS,
    Action,
    Answer,
    Details,
    Doctor,
    Finding,
    RobotName,
    RobotState,
)
from vla_ros.web.robot import Commands, JpegImage, Reply, Report

_ANSWER_S = {'stop': 1.0}  # time for the node's answer
_OTHER_ANSWER_S = 3.0
_INSTRUCT_S = 2.0
_REPORT_S = 1.2  # the node sends its status each second, and when its state changes
_CHECK_S = 0.05


class Desk:
    """One robot at the server."""

    def __init__(
        self,
        name: RobotName,
        commands: Commands,
        ring: Callable[[], None] = lambda: None,
        clock: Clock = SystemClock(),
    ) -> None:
        """Begin without a report.

        :param ring: called at each change that pages should be sent immediately.
        """
        self.name, self._commands, self._ring, self._clock = name, commands, ring, clock
        self.lease = Lease(clock)
        self.samples, self.timeline = Samples(clock), Timeline(clock)
        self.action: Action | None = None
        self.doctor = Doctor(name.robot, False)
        self.doctor_version = 0
        self.images: dict[str, tuple[int, float, JpegImage]] = {}  # count, arrival, newest
        self._report: Report | None = None
        self._reports = 0
        self._reported_s = self._acted_s = self._examined_s = 0.0
        self._is_lost = False
        self._folder = ''
        self._watched: dict[object, frozenset[str]] = {}

    # -- from the robot ----------------------------------------------------------------------------

    def hear(self, report: Report) -> None:
        """Take a status that arrived now."""
        self._report, self._reported_s, self._is_lost = report, self._clock.monotonic_s(), False
        self._reports += 1
        self.timeline.note(report)
        self._check_lease()
        self._ring()

    def act(self, action: Action) -> None:
        """Take an action that arrived now."""
        self.action, self._acted_s = action, self._clock.monotonic_s()
        self.samples.note(action.latency_s, action.inference_s)
        self._ring()

    def show(self, view: str, image: JpegImage) -> None:
        """Take an image that arrived now, in place of the one before."""
        count = self.images[view][0] + 1 if view in self.images else 1
        self.images[view] = (count, self._clock.monotonic_s(), image)
        self._ring()

    def limit(self, limit_s: float | None) -> None:
        """Take the node's ``max_instruction_age_s``; None: unknown."""
        if limit_s != self.lease.limit_s:
            self.lease.limit_s = limit_s
            self._check_lease()
            self._ring()

    def place(self, folder: str) -> None:
        """Take the folder of the node's recordings."""
        self._folder = folder

    def tick(self) -> None:
        """Notice what time alone changes. Call it every 0.1 s or more often."""
        self.samples.tick()
        self._check_lease()
        if self._report is not None and not self._is_lost and self._age_s() > LOST_AFTER_S:
            self._is_lost = True
            self.timeline.lose()
            self._ring()

    # -- to the pages ------------------------------------------------------------------------------

    def state(self, page: str, here_ms: float | None = None) -> RobotState:
        """Return the state as a page sees it."""
        report, now_s = self._report, self._clock.monotonic_s()
        refusal = self.lease.refusal(report, self._status_age_s())
        shown = RobotState(self.name.robot, lease=self.lease.shown(page, refusal), here_ms=here_ms)
        if report is None:
            return replace(shown, words='no status came yet: is the node running?')
        age_s = self._age_s()
        is_live = age_s <= LOST_AFTER_S
        return replace(
            shown,
            link='live' if is_live else 'lost',
            status_age_s=age_s,
            state=report.state.name,
            words=WORDS[report.state] if is_live else 'the node does not report: state unknown',
            reason=report.reason,
            message=report.message,
            elapsed_s=report.elapsed_s + age_s,
            instruction=report.instruction,
            action_age_s=None if self.action is None else now_s - self._acted_s,
            actions_hz=self.samples.rate_hz(),
            motion=str(report.motion.get('message', '')),
        )

    def details(self) -> Details:
        """Return what changes slowly."""
        report = self._report or Report(State.UNKNOWN)
        return Details(
            self.name.robot,
            report.policy,
            report.counters,
            report.latencies,
            report.motion,
            {**report.recording, 'folder': self._folder},
        )

    def newest_action(self) -> Action | None:
        """Return the newest action with its age."""
        age_s = self._clock.monotonic_s() - self._acted_s
        return None if self.action is None else replace(self.action, age_s=age_s)

    def findings(self) -> Doctor:
        """Return the doctor's findings with their age."""
        if self.doctor.age_s is None:
            return self.doctor
        return replace(self.doctor, age_s=self._clock.monotonic_s() - self._examined_s)

    def watch(self, watcher: object, views: Iterable[str]) -> None:
        """Fetch these views for a watcher, in place of its views before."""
        self._watched[watcher] = frozenset(views)
        if not self._watched[watcher]:
            del self._watched[watcher]
        wanted = frozenset().union(*self._watched.values()) & {*self.name.views}
        for view in self.images.keys() - wanted:
            del self.images[view]  # it would be old when a page wants it again
        self._commands.watch(wanted)

    # -- from the pages ----------------------------------------------------------------------------

    def here(self, page: str) -> None:
        """Renew the page's lease, if it holds it."""
        if self.lease.renew(page):
            self._commands.say(self.lease.text)

    def leave(self, page: str) -> None:
        """End the page's lease: its websocket is closed."""
        if page == self.lease.holder:
            self.lease.end(f'{page} was closed')
            self._commands.say('')
            self._ring()

    async def instruct(self, page: str, text: str) -> Answer:
        """Give an instruction for a page, and wait until the node has it or not."""
        began_s = self._clock.monotonic_s()
        return self._answer('instruct', await self._instructed(page, text), began_s)

    async def _instructed(self, page: str, text: str) -> Reply:
        if is_blank(text):
            return self._hold()
        try:
            check_instruction(text)
        except InstructionError as error:
            self._hold()  # as the node does with an instruction that it rejects
            return Reply(False, True, f'not instructed: {error}')
        refusal = self.lease.refusal(self._report, self._status_age_s())
        if refusal or self._report is None:
            return Reply(False, True, f'not instructed: {refusal}')
        self.lease.take(page, text, self._report)
        self._commands.say(text)
        self._ring()
        ends_s = self._clock.monotonic_s() + _INSTRUCT_S
        while self._clock.monotonic_s() < ends_s:
            await asyncio.sleep(_CHECK_S)
            if self.lease.holder != page or self.lease.text != text:
                return Reply(False, True, self.lease.ended or 'another page instructs the robot')
            if self.lease.is_in_force(self._report):
                return Reply(True, True, self._report.message)
        return Reply(False, False, f'not in force after {_INSTRUCT_S:g} s; {self._report.message}')

    async def command(self, command: str) -> Answer:
        """Carry out one of ``messages.COMMANDS``."""
        began_s = self._clock.monotonic_s()
        limit_s = _ANSWER_S.get(command, _OTHER_ANSWER_S)
        if command == 'doctor':
            reply = await self._examine()
        elif command == 'hold':
            reply = self._hold()
        else:
            reports = self._reports
            future = self._send(command)
            done, _ = await asyncio.wait([future], timeout=limit_s)
            reply = future.result() if done else _silent(command, limit_s)
            if reply.ok and command not in ('stop', 'set_limit'):
                await self._wait_for_report(reports)
        if command == 'set_limit' and reply.ok:
            self.limit(LIMIT_S)
        return self._answer(command, reply, began_s)

    def _answer(self, command: str, reply: Reply, began_s: float) -> Answer:
        took_s = self._clock.monotonic_s() - began_s
        robot = self.name.robot
        return Answer(0, robot, command, reply.ok, reply.confirmed, reply.message, took_s)

    async def _wait_for_report(self, before: int) -> None:
        """Wait for a status that shows what a command has done: an instruction may follow it.

        :param before: number of reports when the command was sent.
        """
        ends_s = self._clock.monotonic_s() + _REPORT_S
        while self._reports == before and self._clock.monotonic_s() < ends_s:
            await asyncio.sleep(_CHECK_S)

    def _send(self, command: str) -> asyncio.Future[Reply]:
        """Send a command to the node; a stop or a disable also ends the instruction."""
        if command == 'set_limit':
            return self._commands.set('max_instruction_age_s', LIMIT_S)
        if command in ('record', 'record_off'):
            return self._commands.set('record', command == 'record')
        future = self._commands.switch(command)
        if command in ('stop', 'disable'):
            self.lease.end(f'the robot was told to {command}', was_told=True)
            self._commands.say('')  # so that no old instruction is in force when it is enabled
            self._ring()
        return future

    def _hold(self) -> Reply:
        self.lease.end('hold was said', was_told=True)
        self._commands.say('')
        self._ring()
        return Reply(True, False, 'told to hold')

    async def _examine(self) -> Reply:
        if self.doctor.running:
            return Reply(False, True, 'the doctor is examining the node already')
        self._note(Doctor(self.name.robot, True))
        problem = ''
        findings: tuple[Finding, ...] = ()
        try:
            findings = await self._commands.examine()
        except VlaError as error:
            problem = str(error)
        finally:
            self._examined_s = self._clock.monotonic_s()
            self._note(Doctor(self.name.robot, False, 0.0, findings, problem))
        return Reply(not problem, not problem, problem or f'{len(findings)} findings')

    def _note(self, doctor: Doctor) -> None:
        self.doctor = doctor
        self.doctor_version += 1
        self._ring()

    # -- ages --------------------------------------------------------------------------------------

    def _check_lease(self) -> None:
        if self.lease.check(self._report, self._status_age_s()):
            self._commands.say('')
            self._ring()

    def _age_s(self) -> float:
        return self._clock.monotonic_s() - self._reported_s

    def _status_age_s(self) -> float | None:
        return None if self._report is None else self._age_s()


def _silent(command: str, limit_s: float) -> Reply:
    text = f'{command}: the node did not answer within {limit_s:g} s: NOT confirmed'
    if command == 'stop':
        text += "; use the robot's own emergency stop"
    return Reply(False, False, text)
