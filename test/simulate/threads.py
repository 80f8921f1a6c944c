# SPDX-License-Identifier: Apache-2.0
"""What stands in for threading, time, signal, os, faulthandler and the watchdog of ``vla_ros``.

Only what is used there, or may soon be: anything else is an AttributeError, and then belongs here.
Every operation at which threads meet is a place where the scheduler may let another one run.
"""

from __future__ import annotations

import _thread
import os as real_os
import signal as real_signal
import threading as real_threading
import time as real_time
import traceback
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from simulate.scheduler import NS, Killed, Scheduler, SimThread

_WATCHDOG_TICK_S = 0.1  # by so much it may be late


class Process:
    """The process that is simulated now; there is one at a time in this one."""

    scheduler: Scheduler
    signal_handlers: dict[int, Callable[..., None]]
    report: Callable[[str], None]  # told what a process would write to its standard error
    watchdog: Watchdog | None  # that counts for it
    suspended_until_ns: int
    end: Callable[[], None]  # ends the process from outside, as a fatal signal does

    @classmethod
    def begin(
        cls, scheduler: Scheduler, report: Callable[[str], None], end: Callable[[], None]
    ) -> None:
        cls.scheduler, cls.report, cls.end = scheduler, report, end
        cls.signal_handlers = {}
        cls.watchdog, cls.suspended_until_ns = None, 0

    @classmethod
    def hear_signal(cls, number: int) -> bool:
        """Have the main thread handle a signal; whether it has a handler for it."""
        handler = cls.signal_handlers.get(number)
        if handler is None:
            return False
        cls.scheduler.signal(lambda: handler(number, None))
        return True


class Exited(BaseException):
    """The process has called ``os._exit``."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _deadline_ns(timeout_s: float | None) -> int | None:
    if timeout_s is None or timeout_s < 0:
        return None
    return Process.scheduler.now_ns + round(timeout_s * NS)


# -- threading -------------------------------------------------------------------------------------


class Lock:
    """A lock; who waits for it may be overtaken, as with a real one."""

    def __init__(self) -> None:
        self._owner: SimThread | None = None
        self._waiting: list[SimThread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler = Process.scheduler
        scheduler.point()
        current = scheduler.current
        if self._owner is None:
            self._owner = current
            return True
        if not blocking:
            return False
        deadline_ns = _deadline_ns(timeout)
        while self._owner is not None:
            self._waiting.append(current)
            try:
                woken = scheduler.block(deadline_ns, self)
            finally:
                if current in self._waiting:
                    self._waiting.remove(current)
            if not woken and self._owner is not None and deadline_ns is not None:
                return False
        self._owner = current
        return True

    def release(self) -> None:
        if self._owner is None:
            raise RuntimeError('release unlocked lock')
        self._owner = None
        for thread in self._waiting:
            Process.scheduler.wake(thread)
        self._waiting.clear()
        Process.scheduler.point()

    def locked(self) -> bool:
        return self._owner is not None

    def is_owned(self) -> bool:
        return self._owner is Process.scheduler.current

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f'Lock of {self._owner.name if self._owner else "nobody"}'


class RLock:
    """A lock that its owner may take again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._lock.is_owned() and not self._lock.acquire(blocking, timeout):
            return False
        self._count += 1
        return True

    def release(self) -> None:
        if not self._lock.is_owned():
            raise RuntimeError('cannot release un-acquired lock')
        self._count -= 1
        if not self._count:
            self._lock.release()

    def release_all(self) -> int:
        count, self._count = self._count, 0
        self._lock.release()
        return count

    def take_back(self, count: int) -> None:
        self._lock.acquire()
        self._count = count

    def is_owned(self) -> bool:
        return self._lock.is_owned()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    def __init__(self, lock: Lock | RLock | None = None) -> None:
        self._lock = lock if lock is not None else RLock()
        self._waiting: deque[SimThread] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        if not self._lock.is_owned():
            raise RuntimeError('cannot wait on un-acquired lock')
        scheduler = Process.scheduler
        current = scheduler.current
        deadline_ns = _deadline_ns(timeout)
        self._waiting.append(current)
        count = 0
        if isinstance(self._lock, RLock):
            count = self._lock.release_all()
        else:
            self._lock.release()
        woken = current not in self._waiting  # notified while the lock was given back
        if not woken:
            woken = scheduler.block(deadline_ns, self)
        if current in self._waiting:
            self._waiting.remove(current)
        if isinstance(self._lock, RLock):
            self._lock.take_back(count)
        else:
            self._lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        deadline_ns = _deadline_ns(timeout)
        result = predicate()
        while not result:
            left_s = None
            if deadline_ns is not None:
                left_s = (deadline_ns - Process.scheduler.read_clock()) / NS
                if left_s <= 0:
                    break
            self.wait(left_s)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        if not self._lock.is_owned():
            raise RuntimeError('cannot notify on un-acquired lock')
        for _ in range(min(n, len(self._waiting))):
            Process.scheduler.wake(self._waiting.popleft())
        Process.scheduler.point()

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[SimThread] = []

    def is_set(self) -> bool:
        Process.scheduler.point()
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for thread in self._waiting:
            Process.scheduler.wake(thread)
        self._waiting.clear()
        Process.scheduler.point()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = Process.scheduler
        scheduler.point()
        if not self._is_set:
            current = scheduler.current
            self._waiting.append(current)
            scheduler.block(_deadline_ns(timeout), self)
            if current in self._waiting:
                self._waiting.remove(current)
        return self._is_set


class Semaphore:
    def __init__(self, value: int = 1) -> None:
        self._condition = Condition(Lock())
        self._value = value

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        with self._condition:
            if not self._condition.wait_for(lambda: self._value > 0, timeout if blocking else 0):
                return False
            self._value -= 1
            return True

    def release(self, n: int = 1) -> None:
        with self._condition:
            self._value += n
            self._condition.notify(n)

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


class Thread:
    def __init__(
        self,
        group: None = None,
        target: Callable[..., None] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.name = name or 'Thread'
        self.daemon = bool(daemon)
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self._thread: SimThread | None = None
        self._ended = Event()

    @property
    def ident(self) -> int | None:
        return self._thread.number if self._thread else None

    def start(self) -> None:
        if self._thread is not None:
            raise RuntimeError('threads can only be started once')
        self._thread = Process.scheduler.add_thread(self.name)
        _thread.start_new_thread(self._begin, (Process.scheduler, self._thread))
        Process.scheduler.point()

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def join(self, timeout: float | None = None) -> None:
        if self._thread is None:
            raise RuntimeError('cannot join thread before it is started')
        self._ended.wait(timeout)

    def is_alive(self) -> bool:
        Process.scheduler.point()
        return self._thread is not None and not self._ended.is_set()

    def _begin(self, scheduler: Scheduler, thread: SimThread) -> None:
        thread.ident = _thread.get_ident()
        thread.baton.acquire()
        try:
            if not thread.killed:
                self._run_to_the_end(thread)
        except Killed:
            pass
        finally:
            scheduler.finish(thread)

    def _run_to_the_end(self, thread: SimThread) -> None:
        try:
            self.run()
        except Exception:
            Process.report(f'exception in thread {self.name}:\n{traceback.format_exc()}')
        self._target = None
        self._ended.set()


def _current_thread() -> Any:
    current = Process.scheduler.current
    return SimpleNamespace(name=current.name, ident=current.number, daemon=False)


threading = SimpleNamespace(
    Thread=Thread,
    Lock=Lock,
    RLock=RLock,
    Condition=Condition,
    Event=Event,
    Semaphore=Semaphore,
    BoundedSemaphore=Semaphore,
    current_thread=_current_thread,
    get_ident=lambda: Process.scheduler.current.number,
    get_native_id=lambda: Process.scheduler.current.number,
    main_thread=lambda: SimpleNamespace(name='main', ident=Process.scheduler.main.number),
    excepthook=real_threading.excepthook,
    TIMEOUT_MAX=real_threading.TIMEOUT_MAX,
    local=real_threading.local,
)

# -- time ------------------------------------------------------------------------------------------


def _system_ns() -> int:
    Process.scheduler.read_clock()
    return Process.scheduler.system_ns()


time = SimpleNamespace(
    monotonic=lambda: Process.scheduler.read_clock() / NS,
    monotonic_ns=lambda: Process.scheduler.read_clock(),
    perf_counter=lambda: Process.scheduler.read_clock() / NS,
    perf_counter_ns=lambda: Process.scheduler.read_clock(),
    time=lambda: _system_ns() / NS,
    time_ns=_system_ns,
    sleep=lambda seconds: Process.scheduler.sleep(seconds),
    strftime=real_time.strftime,
    gmtime=real_time.gmtime,
)

# -- signal, os, faulthandler ----------------------------------------------------------------------


def _set_handler(number: int, handler: Any) -> Any:
    before = Process.signal_handlers.get(int(number), real_signal.SIG_DFL)
    Process.signal_handlers.pop(int(number), None)
    if handler is real_signal.SIG_IGN:
        Process.signal_handlers[int(number)] = lambda *_: None
    elif callable(handler):
        Process.signal_handlers[int(number)] = handler
    return before


class _Overlay(ModuleType):
    """A module of which some attributes are others."""

    def __init__(self, real: ModuleType, **others: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(others)
        self.__dict__['_real'] = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


signal = _Overlay(real_signal, signal=_set_handler)


def _exit(code: int) -> None:
    scheduler = Process.scheduler
    scheduler.kill(scheduler.main)  # nothing of what unwinds now happens
    raise Exited(code)


os = _Overlay(
    real_os,
    _exit=_exit,
    fsync=lambda descriptor: None,  # slow, and nothing here survives this process
    getpid=lambda: 4242,
)


faulthandler = SimpleNamespace(enable=lambda: None)

# -- the watchdog ----------------------------------------------------------------------------------


class Watchdog:
    """What stands in for ``vla_ros.watchdog.Watchdog``: its child counts virtual time.

    As there, time in which the process is suspended does not count.
    """

    def __init__(self, name: str, warn: Callable[[str], None] | None = None) -> None:
        self.warn = warn or Process.report
        self._is_last = False
        self._limit_ns = self._ends_ns = 0
        self._alarm_ns: int | None = None

    def start(self) -> None:
        Process.watchdog = self

    def beat(self, limit_s: float, why: str) -> None:
        if not self._is_last:
            self._limit_ns = round((limit_s + _WATCHDOG_TICK_S) * NS)
            self._ends_ns = Process.scheduler.now_ns + self._limit_ns
            self._set()

    def end(self, limit_s: float, why: str) -> None:
        self.beat(limit_s, why)
        self._is_last = True

    def _set(self) -> None:
        """One alarm at a time is enough; it looks whether the end has moved."""
        if self._alarm_ns is None or self._ends_ns < self._alarm_ns:
            self._alarm_ns = self._ends_ns
            Process.scheduler.at(self._alarm_ns, self._ring)

    def _ring(self) -> None:
        now_ns = Process.scheduler.now_ns
        if Process.watchdog is not self or now_ns != self._alarm_ns:
            return
        self._alarm_ns = None
        self._ends_ns = max(self._ends_ns, Process.suspended_until_ns + self._limit_ns)
        if now_ns < self._ends_ns:
            self._set()
        else:
            Process.report(f'the process is stuck:\n{Process.scheduler.stacks()}')
            Process.end()
