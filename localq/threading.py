"""Raising an exception in another thread, and where it may land.

A time limit, an abort or a shutdown notice is an `Interrupt` that is raised in
the thread that runs the task. It may land only inside the task's own code:
`Interruptible` is the thread's door, open while its actor runs. Parts of ours
that the actor calls (a send, a look for a result) go through `shielded`, and an
interrupt waits until they are left.

On a process's main thread a signal carries the interrupt, so that it also ends
a blocking call. Elsewhere CPython raises it between two bytecodes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums: those take longer than the call
import contextlib
import ctypes
import functools
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from .logging import get_logger

current_platform = platform.python_implementation()
supported_platforms = {"CPython"}

INTERRUPT_SIGNAL = getattr(signal, "SIGURG", None)
"""Ignored by default and hardly used by programs; None where there is no such signal."""


class Interrupt(BaseException):
    """Raised in a thread from outside. Not an `Exception`: a task that catches all of
    those must not swallow it."""


class Abort(Interrupt):
    """Raised in an actor whose message was aborted, and the reason of one that was aborted before it
    ran. It is never retried."""

    def __init__(self, message: str = "the message was aborted") -> None:
        super().__init__(message)


def is_gevent_active() -> bool:
    """Whether gevent has patched this process: localq does not run on gevent, so never."""
    return False


def raise_thread_exception(thread_id: int, exception: type[Interrupt] | Interrupt) -> bool:
    """Raise `exception` in the thread of that ident, as soon as it runs Python code.

    What cannot be done (no such thread, another Python than CPython) is logged as critical.
    """
    name = exception.__name__ if isinstance(exception, type) else type(exception).__name__
    if current_platform not in supported_platforms:
        get_logger(__name__).critical(
            "Setting thread exceptions (%s) is not supported for your current platform (%r).",
            name,
            current_platform,
        )
        return False
    door = _doors.get(thread_id)
    if door is not None:
        return door.interrupt(exception)
    if not _raise_asynchronously(thread_id, exception):
        get_logger(__name__).critical("Failed to set exception (%s) in thread %d.", name, thread_id)
        return False
    return True


def _raise_asynchronously(thread_id: int, exception: type[Interrupt] | Interrupt) -> bool:
    # CPython takes a class here; an instance is carried by a class that makes it.
    raised = exception if isinstance(exception, type) else _class_that_raises(exception)
    count = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(raised))
    wake = _wakers.get(thread_id)
    if wake is not None:
        wake()  # it runs no bytecode while it waits
    return bool(count == 1)


_wakers: dict[int, Callable[[], None]] = {}


@contextlib.contextmanager
def woken_by_interrupts(wake: Callable[[], None]) -> Iterator[None]:
    """A block in which this thread waits, and in which `wake` ends that wait: it is called, by another
    thread, when an interrupt was raised in this one."""
    thread = threading.get_ident()
    try:
        _wakers[thread] = wake
        yield
    finally:
        _wakers.pop(thread, None)


def _class_that_raises(exception: Interrupt) -> type[Interrupt]:
    cls = type(exception)
    return type(cls.__name__, (cls,), {"__init__": lambda self: cls.__init__(self, *exception.args)})


_doors: dict[int, Interruptible] = {}


class Interruptible:
    """The door of one thread, through which interrupts come while it is open.

    Parameters:
      by_signal: whether a signal carries them, which ends blocking calls too; only for
        the main thread of a process of ours (`install_signal_handler`).
    """

    def __init__(self, *, by_signal: bool = False) -> None:
        self.thread_id = threading.get_ident()
        self.process = os.getpid()
        self._by_signal = by_signal
        # Whoever holds it decides about landing: the thread itself while it is shielded,
        # or another one for the moment in which it raises. An RLock knows its owner, so that
        # an exception that lands right after acquire() does not leave it held.
        self._lock = threading.RLock()
        self._shields = 0
        self._open = False
        self._waiting: type[Interrupt] | Interrupt | None = None
        _doors[self.thread_id] = self
        _catch_what_python_ignores()
        _shield_what_python_leaves_broken(by_signal)

    def forget(self) -> None:
        """The thread ends, or runs tasks no more."""
        _doors.pop(self.thread_id, None)

    def open(self) -> None:
        """From here on an interrupt may be raised in the thread. Call it as the first
        statement of a `try` whose end calls `close`."""
        self._waiting = None
        self._open = True

    def close(self) -> None:
        """From here on none is raised any more; one that still waits is dropped."""
        with self._lock:  # one that was just raised lands on this line at the latest
            self._open = False
            self._waiting = None

    def interrupt(self, exception: type[Interrupt] | Interrupt) -> bool:
        """Called by another thread: raise `exception` in this one; False if its door is closed."""
        if not self._open:
            return False  # `open` would drop it
        # First of all: whoever leaves a shield in this moment takes it from here.
        self._waiting = exception
        if self._by_signal:
            signal.pthread_kill(self.thread_id, INTERRUPT_SIGNAL)  # type: ignore[arg-type]
        elif self._lock.acquire(blocking=False):
            try:
                if self._waiting is exception:
                    self._waiting = None
                    return _raise_asynchronously(self.thread_id, exception)
            finally:
                self._lock.release()
        return True

    def deliver(self) -> None:
        """In the thread itself: raise what waits, unless the door is closed or shielded."""
        if self._open and not self._shields and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            raise waiting

    def __enter__(self) -> None:
        self._shields += 1
        try:
            self._lock.acquire()
        except BaseException:  # an interrupt raised just before, which lands on that line
            self._shields -= 1
            with contextlib.suppress(RuntimeError):
                self._lock.release()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # With the lock still held: what comes later finds no shield, and is raised by who brings it.
        waiting = self._take() if exc is None and not self._by_signal else None
        try:
            self._lock.release()  # one may be raised right here, by who waited for the lock
        finally:
            self._shields -= 1
        if waiting is not None:
            raise waiting
        if exc is None:
            self.deliver()

    def _take(self) -> type[Interrupt] | Interrupt | None:
        if not self._open or self._shields > 1:
            return None
        waiting, self._waiting = self._waiting, None
        return waiting


_previous_hook: Any = None


def _catch_what_python_ignores() -> None:
    """Python ignores what is raised in a finalizer or a callback of a weak reference, which the garbage
    collector runs in whatever thread it likes. An interrupt that lands there is raised again."""
    global _previous_hook
    if sys.unraisablehook is not _raise_again:
        _previous_hook, sys.unraisablehook = sys.unraisablehook, _raise_again


def _raise_again(unraisable: Any) -> None:
    door = _doors.get(threading.get_ident())
    if door is None or not issubclass(unraisable.exc_type, Interrupt):
        _previous_hook(unraisable)
        return
    # By another thread, and a moment later: here it would land in the same place.
    again = threading.Timer(0.01, door.interrupt, (unraisable.exc_type,))
    again.daemon = True
    again.start()


def _shield_what_python_leaves_broken(by_signal: bool) -> None:
    if not by_signal and sys.version_info < (3, 12):
        # A thread that was made, and has not begun, bears the number of the one that made it, and gets what
        # is raised in that: it dies of it, and `Thread.start` waits for it for ever.
        _shield(threading.Thread, "start")
    if sys.version_info < (3, 13):
        # It takes its lock one step before its `try`: left held, it would stop every thread that logs.
        _shield(logging.Handler, "handle")


_shielded: set[tuple[type, str]] = set()


def _shield(owner: type, name: str) -> None:
    """From here on, no interrupt lands in this method; for those of Python, once a process."""
    if (owner, name) in _shielded:
        return
    _shielded.add((owner, name))
    method = getattr(owner, name)

    @functools.wraps(method)
    def shielded_method(self: Any, *args: Any) -> Any:
        with _doors.get(threading.get_ident(), _no_door):
            return method(self, *args)

    setattr(owner, name, shielded_method)


class _NoDoor:
    """What shields a thread that nobody interrupts."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


_no_door = _NoDoor()


class _CtrlC:
    """What shields a main thread without a door: while it is entered, Ctrl-C waits.

    Python raises KeyboardInterrupt between any two bytecodes, also on the way out of a `finally`.
    So another handler takes the signal meanwhile, for the price of two system calls a write.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._before: Any = None
        self._heard = False

    def __enter__(self) -> None:
        if not self._depth:
            # One that was there before is raised by this very call, which then changes nothing.
            try:
                before = _signal.signal(signal.SIGINT, self._hear)
            except ValueError:  # of a subinterpreter, which no signal reaches
                before = None
            if before != self._hear:  # else another signal's handler came here between two of these lines
                self._before = before
        self._depth += 1

    def _hear(self, signum: int, frame: Any) -> None:
        self._heard = True

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if not self._depth and self._before is not None:
            _signal.signal(signal.SIGINT, self._before)
            if self._heard:
                self._heard = False
                if callable(self._before):  # not once more by a signal, of which asyncio would hear twice
                    self._before(signal.SIGINT, sys._getframe())
                else:
                    signal.raise_signal(signal.SIGINT)


_ctrl_c = _CtrlC()


def shielded() -> Interruptible | _NoDoor | _CtrlC:
    """A context in which no interrupt lands on this thread; one that comes waits for its end."""
    thread = threading.get_ident()
    door = _doors.get(thread)
    if door is not None:
        return door
    return _ctrl_c if thread == threading.main_thread().ident else _no_door


def install_signal_handler() -> bool:
    """Let `INTERRUPT_SIGNAL` open the main thread's door; False where that cannot be."""
    if INTERRUPT_SIGNAL is None or not hasattr(signal, "pthread_kill"):
        return False
    signal.signal(INTERRUPT_SIGNAL, _deliver_on_main_thread)
    return True


def _deliver_on_main_thread(signum: int, frame: Any) -> None:
    door = _doors.get(threading.get_ident())
    if door is not None:
        door.deliver()


def native_thread_count() -> int:
    """How many operating-system threads this process has, those of libraries included.

    Where the system does not say (no ``/proc``), the number of Python's own.
    """
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
