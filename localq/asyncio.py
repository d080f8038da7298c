"""The thread of a worker process that runs an event loop, for actors that are coroutines."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from logging import Logger
from typing import TYPE_CHECKING, Any, TypeVar

from .threading import Interrupt, woken_by_interrupts

if TYPE_CHECKING:
    import asyncio

R = TypeVar("R")

# Python's asyncio is imported when the first loop is made: it costs a program that has no
# coroutines some 30 ms at its start.


class EventLoopThread(threading.Thread):
    """A thread that runs coroutines for other threads, which wait for them.

    Parameters:
      logger: where its start and its end are told.
      interrupt_check_ival: seconds between two looks for an interrupt that did not wake its thread while
        that waits for a coroutine: one that was not raised by `localq.threading`.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, logger: Logger, interrupt_check_ival: float = 1.0) -> None:
        import asyncio

        super().__init__(name="localq event loop", daemon=True)
        self.logger = logger
        self.interrupt_check_ival = interrupt_check_ival
        self.loop = asyncio.new_event_loop()
        self._is_up = threading.Event()

    def start(self, *, timeout: float | None = None) -> None:
        """Start the loop; returns when it runs.

        Raises:
          RuntimeError: it does not after `timeout` seconds.
        """
        super().start()
        if not self._is_up.wait(timeout):
            raise RuntimeError("Event loop failed to start.")

    def run(self) -> None:
        """The life of the thread."""
        self.loop.call_soon(self._is_up.set)
        try:
            self.logger.info("The event loop is up.")
            self.loop.run_forever()
        finally:
            self._cancel_what_is_left()
            self.loop.close()

    def _cancel_what_is_left(self) -> None:
        import asyncio

        while tasks := asyncio.all_tasks(self.loop):  # again: one may have been about to start
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def stop(self) -> None:
        """End the loop; coroutines that still run are cancelled. Stopping twice does no harm."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self.is_alive():
            self.join()

    def run_coroutine(self, coro: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in the loop, in a copy of the caller's context, and wait for its result.

        An `Interrupt` that is raised here meanwhile cancels it, waits until its cleanup is done, and
        goes on then.

        Raises:
          RuntimeError: the loop does not run.
          BaseException: what the coroutine raised.
        """
        # Not `is_alive`: in Pythons before 3.13 an interrupt in there makes the thread count as dead.
        if self.ident is None or self.loop.is_closed():
            coro.close()
            raise RuntimeError("The event loop is not running.")
        run = _Run(self.loop, coro)
        try:
            self.loop.call_soon_threadsafe(run.start)
            run.wait(self.interrupt_check_ival)
        except Interrupt:
            # It may have landed before, on, or after the line that schedules the coroutine. The loop
            # takes calls in their order: what is scheduled here finds it started, or never to be.
            while not run.has_ended:
                with contextlib.suppress(Interrupt):  # another one, which cancels the cleanup too
                    self.loop.call_soon_threadsafe(run.cancel)
                    run.wait(self.interrupt_check_ival)
            run.forget()
            raise
        result: R = run.result()
        return result


class _Run:
    """One coroutine in the loop, and whether it has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any]) -> None:
        self._loop = loop
        self._coro = coro
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[Any] | None = None
        self.has_ended = False
        # Not an event: an interrupt that lands in one of its methods, which are Python, could leave it
        # locked, and whoever sets it then, the loop itself, would hang.
        self._news = threading.Lock()
        self._news.acquire()

    def start(self) -> None:
        self._task = self._context.run(self._loop.create_task, self._coro)
        self._task.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        self.has_ended = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake
            self._news.release()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self._coro.close()
            self._end()

    def wait(self, interval: float) -> None:
        # An interrupt is raised between two bytecodes, not in a wait.
        with woken_by_interrupts(self._wake):
            self._wait(interval)

    def _wait(self, interval: float) -> None:
        while not self.has_ended:
            self._news.acquire(timeout=interval)
            if self._loop.is_closed() and not self.has_ended:  # it was stopped before it took the call
                self._coro.close()
                raise RuntimeError("The event loop was stopped.")

    def forget(self) -> None:
        """Ask for the exception that nobody wants, so that the loop does not report it as lost."""
        if self._task is not None and not self._task.cancelled():
            self._task.exception()

    def result(self) -> Any:
        task, self._task = self._task, None
        assert task is not None
        try:
            return task.result()
        finally:
            del task  # it refers to the exception, whose frames refer to it


_event_loop_thread: EventLoopThread | None = None
users: set[Any] = set()
"""The workers of this process that need that thread: it is stopped with the last one."""


def get_event_loop_thread() -> EventLoopThread | None:
    """The event loop's thread of this process, if there is one."""
    return _event_loop_thread


def set_event_loop_thread(thread: EventLoopThread | None) -> None:
    """Make it the event loop's thread of this process, which nobody needs yet; None for no more."""
    global _event_loop_thread
    _event_loop_thread = thread
    users.clear()


async def in_a_thread(call: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call something that blocks in a thread of asyncio's, in the context of this coroutine; the event loop
    goes on meanwhile."""
    import asyncio

    return await asyncio.to_thread(call, *args, **kwargs)


def async_to_sync(fn: Callable[..., Awaitable[R]]) -> Callable[..., R]:
    """A plain function that runs the coroutine function in the event loop's thread and waits for it.

    Raises:
      RuntimeError: (when called) there is no such thread.
    """

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        thread = get_event_loop_thread()
        if thread is None:
            raise RuntimeError(
                "there is no event loop for async actors here: they run in workers whose broker has the "
                "AsyncIO middleware"
            )
        coro: Any = fn(*args, **kwargs)
        result: R = thread.run_coroutine(coro)
        return result

    wrapper.is_async_actor = True  # type: ignore[attr-defined]
    return wrapper


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine, or it was made of such a function by `async_to_sync`."""
    # A proxy is not asked for an attribute that it may not be ready to look up.
    return getattr(fn, "__dict__", {}).get("is_async_actor") is True or inspect.iscoroutinefunction(fn)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: set_event_loop_thread(None))
