# SPDX-License-Identifier: Apache-2.0
"""Virtual time, and the baton: of all threads only the one that holds it runs.

The node's threads are real ones. Each waits for its baton (a lock of its own), runs until it
locks, waits, sleeps, reads a clock or talks to ROS, and there hands the baton on, or keeps it, as
the seed decides. Time stands still while a thread runs, but for the little that a look at the
clock takes; when all threads wait it leaps to the next deadline. What happens in the world outside
the process is a timed event: it runs whenever time passes its moment, in whichever thread that is,
and neither blocks nor calls the node.
"""

from __future__ import annotations

import _thread
import heapq
import sys
import traceback
from collections.abc import Callable
from random import Random
from types import FrameType

NS = 10**9  # per second

_STEP_BITS = 12  # a look at a clock takes up to 2**12 ns
_SLOW_BITS = 6  # one in 2**6 takes longer
_SLOWER = 8  # by 2**8 times
_SWITCH_BITS = (2, 4, 6)  # at one point in 2**n any thread may go on; a seed takes one of these
_MAX_IDLE_STEPS = 2_000_000  # without an advance by a millisecond: a loop that never ends


class Killed(BaseException):
    """Ends a thread of a process that is no more; raised wherever that thread would wait."""


class SimThread:
    """A thread as the scheduler knows it. ``baton`` is locked while another one runs."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.baton = _thread.allocate_lock()
        self.baton.acquire()
        self.waits = False  # until woken or until the deadline
        self.deadline_ns: int | None = None
        self.was_woken = False
        self.stalled_until_ns = 0
        self.waits_for: object = None  # the lock it is blocked on, for reports
        self.killed = False
        self.done = False
        self.ident = 0
        self.signals: list[Callable[[], None]] = []  # to be handled when it runs next

    def is_special(self, now_ns: int) -> bool:
        """Whether it may not simply run on."""
        return self.killed or bool(self.signals) or self.stalled_until_ns > now_ns

    def is_ready(self, now_ns: int) -> bool:
        if self.stalled_until_ns > now_ns:
            return False
        if not self.waits or self.killed:
            return True
        return self.deadline_ns is not None and self.deadline_ns <= now_ns


class Scheduler:
    """Time, threads and events of one simulation."""

    def __init__(self, random: Random, start_ns: int, system_ns: int) -> None:
        """
        :param start_ns: of the monotonic clock.
        :param system_ns: of the system's clock, which may be made to jump.
        """
        self.now_ns = start_ns
        self.start_ns = start_ns
        self.system_offset_ns = system_ns - start_ns
        self._bits = random.getrandbits
        self._switch_bits = random.choice(_SWITCH_BITS)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._event_count = 0
        self._next_event_ns = sys.maxsize
        self._in_event = False
        self.needs_attention = False  # a thread was stalled, killed or signalled
        self._thread_count = 0
        self._idle_steps = 0
        self._idle_since_ns = 0
        self.threads: list[SimThread] = []
        self.current = self.add_thread('main')
        self.current.ident = _thread.get_ident()
        self.main = self.current
        self.failure = ''  # why the simulation can't go on
        self.on_switch: Callable[[SimThread], None] = lambda thread: None

    # -- time --------------------------------------------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        return (self.now_ns - self.start_ns) / NS

    def system_ns(self) -> int:
        return self.now_ns + self.system_offset_ns

    def read_clock(self) -> int:
        """The time, for the node: looking takes a while, and other threads may run meanwhile."""
        bits = self._bits(_STEP_BITS + _SLOW_BITS)
        step_ns = bits & (1 << _STEP_BITS) - 1
        if bits < 1 << _STEP_BITS:
            step_ns <<= _SLOWER
        now_ns = self.now_ns + step_ns
        if now_ns < self._next_event_ns:
            self.now_ns = now_ns
        else:
            self._advance(now_ns)
        self.point()
        return self.now_ns

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Have something happen outside the process; at once if the moment has passed."""
        self._event_count += 1
        heapq.heappush(self._events, (time_ns, self._event_count, action))
        self._next_event_ns = self._events[0][0]

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now_ns + round(seconds * NS), action)

    def _advance(self, time_ns: int) -> None:
        """Let the events up to this moment happen, each at its own."""
        if self._in_event:
            return
        while self._next_event_ns <= time_ns:
            moment_ns, _, action = heapq.heappop(self._events)
            self._next_event_ns = self._events[0][0] if self._events else sys.maxsize
            self.now_ns = max(self.now_ns, moment_ns)
            self._in_event = True
            try:
                action()
            except Exception:  # a mistake of the simulation; it may be in the worker's thread
                self._fail(traceback.format_exc())
            self._in_event = False
        self.now_ns = max(self.now_ns, time_ns)

    # -- threads -----------------------------------------------------------------------------------

    def add_thread(self, name: str) -> SimThread:
        self._thread_count += 1
        thread = SimThread(name, self._thread_count)
        self.threads.append(thread)
        return thread

    def point(self) -> None:
        """A place where another thread may go on, or this one may have to wait."""
        if self._in_event or (self._bits(self._switch_bits) and not self.needs_attention):
            return
        current = self.current
        if current.killed:
            raise Killed
        if current.stalled_until_ns > self.now_ns or self._has_rival(current):
            self._dispatch()
        if current.signals:
            self._handle_signals(current)
        if self.needs_attention:
            self.needs_attention = any(thread.is_special(self.now_ns) for thread in self.threads)

    def block(self, deadline_ns: int | None = None, waits_for: object = None) -> bool:
        """Wait until woken or until the deadline; whether it was woken."""
        current = self.current
        if current.killed:
            raise Killed
        current.waits, current.was_woken = True, False
        current.deadline_ns, current.waits_for = deadline_ns, waits_for
        self._dispatch()
        current.waits, current.waits_for = False, None
        if current.signals:
            self._handle_signals(current)
        return current.was_woken

    def wake(self, thread: SimThread) -> None:
        if thread.waits:
            thread.waits, thread.was_woken = False, True

    def sleep(self, seconds: float) -> None:
        self.read_clock()
        self.block(self.now_ns + max(0, round(seconds * NS)))

    def stall(self, thread: SimThread, seconds: float) -> None:
        """Keep a thread from running for a while, wherever it is."""
        until_ns = self.now_ns + round(seconds * NS)
        thread.stalled_until_ns = max(thread.stalled_until_ns, until_ns)
        self.needs_attention = True

    def kill(self, thread: SimThread) -> None:
        """Have it end where it is, as with its process."""
        thread.killed = True
        thread.stalled_until_ns = 0
        self.needs_attention = True

    def signal(self, handler: Callable[[], None]) -> None:
        """Have the main thread call a handler as soon as it runs."""
        self.main.signals.append(handler)
        self.needs_attention = True

    def finish(self, thread: SimThread) -> None:
        """The current thread ends; whoever is next goes on."""
        thread.done = True
        self.threads.remove(thread)
        chosen = self._choose()
        self._hand_to(chosen)

    def kill_others(self) -> None:
        """End all threads but the current one, as a process does that ends."""
        own = self.current
        was_killed, own.killed = own.killed, False
        for thread in [one for one in self.threads if one is not own]:
            self.kill(thread)
        while len(self.threads) > 1:
            own.waits, own.deadline_ns = True, self.now_ns
            victim = next(one for one in self.threads if one is not own)
            self._hand_to(victim)
            own.baton.acquire()
        own.waits, own.killed = False, was_killed

    def run_until(self, time_ns: int) -> None:
        """Let the world go on while there is no process."""
        while self.now_ns < time_ns:
            self._advance(min(time_ns, max(self.now_ns + 1, self._next_event_ns)))

    def _fail(self, why: str) -> None:
        """End the process: the simulation can't go on."""
        self.failure = self.failure or why
        self.kill(self.main)

    # -- the baton ---------------------------------------------------------------------------------

    def _has_rival(self, current: SimThread) -> bool:
        now_ns = self.now_ns
        return any(thread.is_ready(now_ns) for thread in self.threads if thread is not current)

    def _dispatch(self) -> None:
        """Hand the baton to a thread that can run; return when it comes back."""
        current = self.current
        chosen = self._choose()
        if chosen is not current:
            self._hand_to(chosen)
            current.baton.acquire()
        if current.killed:
            raise Killed

    def _hand_to(self, thread: SimThread) -> None:
        self.current = thread
        self.on_switch(thread)
        thread.baton.release()

    def _choose(self) -> SimThread:
        """A thread that can run; time leaps if there is none."""
        self._count_step()
        while True:
            now_ns, next_ns = self.now_ns, self._next_event_ns
            ready = []
            for thread in self.threads:
                if thread.is_ready(now_ns):
                    ready.append(thread)
                elif thread.stalled_until_ns > now_ns:
                    next_ns = min(next_ns, thread.stalled_until_ns)
                elif thread.deadline_ns is not None and thread.deadline_ns < next_ns:
                    next_ns = thread.deadline_ns
            if len(ready) == 1:
                return ready[0]
            if ready:
                return ready[self._bits(16) % len(ready)]
            if next_ns == sys.maxsize:
                self._fail(f'deadlock: nobody can run\n{self.stacks()}')
            else:
                self._advance(next_ns)

    def _count_step(self) -> None:
        self._idle_steps += 1
        if self.now_ns - self._idle_since_ns > NS // 1000:
            self._idle_steps, self._idle_since_ns = 0, self.now_ns
        elif self._idle_steps > _MAX_IDLE_STEPS:
            self._fail(f'a loop that takes no time\n{self.stacks()}')

    def _handle_signals(self, thread: SimThread) -> None:
        handlers, thread.signals = thread.signals, []
        for handler in handlers:
            handler()

    def stacks(self) -> str:
        """Where every thread is, for a person."""
        frames = sys._current_frames()
        return '\n'.join(self._stack(thread, frames.get(thread.ident)) for thread in self.threads)

    def _stack(self, thread: SimThread, frame: FrameType | None) -> str:
        lines = ''.join(traceback.format_stack(frame)) if frame else ''
        return f'thread {thread.name} waits for {thread.waits_for!r}:\n{lines}'
