"""Messages that belong together: one after the other (pipeline), side by side (group)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from . import current
from .asyncio import in_a_thread
from .clock import Deadline
from .errors import ResultFailure, ResultMissing

if TYPE_CHECKING:
    from .broker import Broker
    from .message import Message
    from .results.backend import ResultBackend


class pipeline:
    """Messages that run one after the other, each with the result of the one before it
    as its last positional argument (unless its option ``pipe_ignore`` is set).

    Parameters:
      children: messages or pipelines; they are copied, so that one message can stand in several.
      broker: what sends them; the global broker by default.
    """

    messages: list[Message[Any]]

    def __init__(self, children: Iterable[Message[Any] | pipeline], *, broker: Broker | None = None) -> None:
        self.broker: Broker = broker or current.get_broker()
        self.messages = []
        for child in children:
            if isinstance(child, pipeline):
                self.messages += (message.copy() for message in child.messages)
            elif _is_message(child):
                self.messages.append(child.copy())
            else:
                raise TypeError(f"a pipeline consists of messages and pipelines, not of {child!r}{_REMEDY}")
        # From the tail, since each message holds the next one as data.
        for n in range(len(self.messages) - 1, 0, -1):
            target = self.messages[n].asdict()
            self.messages[n - 1] = self.messages[n - 1].copy(options={"pipe_target": target})

    def __len__(self) -> int:
        return len(self.messages)

    def __or__(self, other: Message[Any] | pipeline) -> pipeline:
        return type(self)([self, other], broker=self.broker)

    def __str__(self) -> str:
        return f"pipeline([{', '.join(map(str, self.messages))}])"

    def first(self, delay: int | None = None) -> tuple[Message[Any], int | None]:
        """The message that starts it, and the delay (ms) for that: the larger of `delay` and its own."""
        first = self.messages[0]
        delays = [given for given in (delay, first.options.get("delay")) if given is not None]
        return first, max(delays) if delays else None

    def run(self, *, delay: int | None = None) -> pipeline:
        """Send the first message, not before `delay` milliseconds are over; returns itself."""
        message, delay = self.first(delay)
        self.broker.enqueue(message, delay=delay)
        return self

    async def arun(self, *, delay: int | None = None) -> pipeline:
        """As `run`, for coroutines: the event loop goes on meanwhile."""
        return await in_a_thread(self.run, delay=delay)

    @property
    def completed(self) -> bool:
        """Whether the last result is there.

        Raises:
          RuntimeError: the broker keeps no results.
        """
        return _has_result(self.messages[-1], self.broker)

    @property
    def completed_count(self) -> int:
        """How many of the messages have a result, counted from the first."""
        for count, message in enumerate(self.messages):
            if not _has_result(message, self.broker):
                return count
        return len(self.messages)

    def get_result(self, *, block: bool = False, timeout: int | None = None) -> Any:
        """The result of the last message; as `Message.get_result`."""
        backend = self.broker.get_results_backend()
        return self.messages[-1].get_result(backend=backend, block=block, timeout=timeout)

    def get_results(self, *, block: bool = False, timeout: int | None = None) -> Iterator[Any]:
        """The result of each message in turn; `timeout` (ms) is over all of them."""
        return _results(self.messages, self.broker, block, timeout)

    async def aget_result(self, *, block: bool = True, timeout: int | None = None) -> Any:
        """The result of the last message; as `Message.aget_result`."""
        backend = self.broker.get_results_backend()
        return await self.messages[-1].aget_result(backend=backend, block=block, timeout=timeout)

    def aget_results(self, *, block: bool = True, timeout: int | None = None) -> AsyncIterator[Any]:
        """As `get_results`, for ``async for``; it waits, unless `block` is False."""
        return _results_async(self.messages, self.broker, block, timeout)


class group:
    """Messages that run side by side.

    Parameters:
      children: messages, pipelines or groups.
      broker: what sends them; the global broker by default.
    """

    children: list[Message[Any] | pipeline | group]

    def __init__(
        self,
        children: Iterable[Message[Any] | pipeline | group],
        *,
        broker: Broker | None = None,
    ) -> None:
        self.children = list(children)
        for child in self.children:
            if not (isinstance(child, (group, pipeline)) or _is_message(child)):
                raise TypeError(f"a group consists of messages, pipelines and groups, not of {child!r}{_REMEDY}")
        self.broker: Broker = broker or current.get_broker()
        self.completion_callbacks: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.children)

    def __str__(self) -> str:
        return f"group([{', '.join(map(str, self.children))}])"

    def add_completion_callback(self, message: Message[Any]) -> None:
        """Send `message` once all messages of the group (of a pipeline: its last) have succeeded.

        The messages of groups in it count too. Each run of the group sends `message` again. With the
        option ``fire_on_failure`` it is sent when all have ended. The broker needs `GroupCallbacks`.
        """
        if not _is_message(message):
            raise TypeError(f"a completion callback is a message (of a pipeline: its first), not {message!r}")
        self.completion_callbacks.append(message.asdict())

    def run(self, *, delay: int | None = None) -> group:
        """Send all messages, none before `delay` milliseconds are over; returns itself.

        All are stored in one transaction: all of them are sent, or none.

        Raises:
          RuntimeError: there are completion callbacks, and the broker has no `GroupCallbacks`.
        """
        self.broker.enqueue_together(self.starts(delay))
        return self

    async def arun(self, *, delay: int | None = None) -> group:
        """As `run`, for coroutines: the event loop goes on meanwhile."""
        return await in_a_thread(self.run, delay=delay)

    def starts(
        self, delay: int | None = None, runs: Sequence[Run] = ()
    ) -> Iterator[tuple[Message[Any], int | None]]:
        """The messages that start it, each with its delay (ms).

        `runs` are those of the groups that this one is in.
        """
        runs = [*runs, *self._begin()]
        for child in self.children:
            if isinstance(child, group):
                yield from child.starts(delay, runs)
            elif isinstance(child, pipeline):
                yield _last_as_member(child, runs).first(delay)
            else:
                yield _as_member(child, runs), delay

    def _begin(self) -> Iterator[Run]:
        """This run of the group, if somebody is to be told of its end."""
        if self.completion_callbacks:
            size = self._count_members()
            if not size:
                raise ValueError("a group of no messages never completes: send its callbacks yourself")
            keeper = _keeper_of_groups(self.broker)
            yield keeper.open_group(self.broker, self.completion_callbacks, size), itertools.count()

    def _count_members(self) -> int:
        return sum(child._count_members() if isinstance(child, group) else 1 for child in self.children)

    @property
    def completed(self) -> bool:
        """Whether all results are there."""
        return self.completed_count == len(self)

    @property
    def completed_count(self) -> int:
        """How many children have their result, in whatever order they came."""
        return sum(
            child.completed if isinstance(child, (group, pipeline)) else _has_result(child, self.broker)
            for child in self.children
        )

    def get_results(self, *, block: bool = False, timeout: int | None = None) -> Iterator[Any]:
        """The result of each child in the order of the group (of a group in it: a list).

        `timeout` (ms) is over all of them.
        """
        return _results(self.children, self.broker, block, timeout)

    def aget_results(self, *, block: bool = True, timeout: int | None = None) -> AsyncIterator[Any]:
        """As `get_results`, for ``async for``; it waits, unless `block` is False."""
        return _results_async(self.children, self.broker, block, timeout)

    def wait(self, *, timeout: int | None = None, fail_fast: bool = True) -> None:
        """Return when all messages of the group (of a pipeline: its last) have their result.

        Parameters:
          timeout: milliseconds to wait; by default until none has come for 10,000.
          fail_fast: whether the first failure ends the wait, wherever it stands; otherwise it is
            raised when all have ended.

        Raises:
          ResultTimeout: they did not all come in time.
          ResultFailure: one of them failed for good.
        """
        deadline, failure = Deadline(timeout), None
        for backend, messages in self._members_by_backend().items():
            left = deadline.left()
            try:
                backend.wait_for_all(messages, timeout=None if left is None else ceil(left), fail_fast=fail_fast)
            except ResultFailure as error:
                if fail_fast:
                    raise
                failure = failure or error
        if failure is not None:
            raise failure

    def _members_by_backend(self) -> dict[ResultBackend, list[Message[Any]]]:
        members: dict[ResultBackend, list[Message[Any]]] = {}
        for child in self.children:
            if isinstance(child, group):
                for backend, messages in child._members_by_backend().items():
                    members.setdefault(backend, []).extend(messages)
            else:
                broker = child.broker if isinstance(child, pipeline) else self.broker
                last = child.messages[-1] if isinstance(child, pipeline) else child
                members.setdefault(broker.get_results_backend(), []).append(last)
        return members


Run = tuple[dict[str, Any], Iterator[int]]
"""A run of a group: what its members are to know of it, and their numbers, each drawn once."""

_REMEDY = "; make messages with an actor's .message(...)"


def _is_message(child: Any) -> bool:
    return hasattr(child, "message_id")


def _keeper_of_groups(broker: Broker) -> Any:
    for one in broker.middleware:
        if any(cls.__name__ == "GroupCallbacks" for cls in type(one).__mro__):
            return one
    raise RuntimeError(
        "this group has completion callbacks, but its broker has no GroupCallbacks middleware, which "
        "would send them; add it with broker.add_middleware(GroupCallbacks(...))"
    )


def _as_member(message: Message[Any], runs: Sequence[Run]) -> Message[Any]:
    if not runs:
        return message
    return message.copy(options={"groups": [{**run, "member": next(numbers)} for run, numbers in runs]})


def _last_as_member(child: pipeline, runs: Sequence[Run]) -> pipeline:
    if not runs:
        return child
    *rest, last = child.messages
    return pipeline([*rest, _as_member(last, runs)], broker=child.broker)


def _has_result(message: Message[Any], broker: Broker) -> bool:
    try:
        broker.get_results_backend().get_result(message)
    except ResultMissing:
        return False
    return True


def _results(children: Any, broker: Broker, block: bool, timeout: int | None) -> Iterator[Any]:
    backend: ResultBackend = broker.get_results_backend()
    for child, millis in _with_time_left(children, timeout):
        if isinstance(child, group):
            yield list(child.get_results(block=block, timeout=millis))
        elif isinstance(child, pipeline):
            yield child.get_result(block=block, timeout=millis)
        else:
            yield child.get_result(backend=backend, block=block, timeout=millis)


async def _results_async(children: Any, broker: Broker, block: bool, timeout: int | None) -> AsyncIterator[Any]:
    backend: ResultBackend = broker.get_results_backend()
    for child, millis in _with_time_left(children, timeout):
        if isinstance(child, group):
            yield [result async for result in child.aget_results(block=block, timeout=millis)]
        elif isinstance(child, pipeline):
            yield await child.aget_result(block=block, timeout=millis)
        else:
            yield await child.aget_result(backend=backend, block=block, timeout=millis)


def _with_time_left(children: Iterable[Any], timeout: int | None) -> Iterator[tuple[Any, int | None]]:
    """Each of them, with what is left of the milliseconds when its turn comes."""
    deadline = Deadline(timeout)
    for child in children:
        left = deadline.left()
        yield child, None if left is None else int(left)
