"""Messages that belong together: one after the other (pipeline), side by side (group)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from . import current
from .clock import Deadline
from .errors import ResultMissing

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
        self.broker = broker or current.get_broker()
        self.messages = []
        for child in children:
            if isinstance(child, pipeline):
                self.messages += (message.copy() for message in child.messages)
            else:
                self.messages.append(child.copy())
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
        self.broker = broker or current.get_broker()
        self.completion_callbacks: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.children)

    def __str__(self) -> str:
        return f"group([{', '.join(map(str, self.children))}])"

    def add_completion_callback(self, message: Message[Any]) -> None:
        """Send `message` once all messages of the group (of a pipeline: its last) have succeeded.

        The broker needs `GroupCallbacks` for it.
        """
        self.completion_callbacks.append(message.asdict())

    def run(self, *, delay: int | None = None) -> group:
        """Send all messages, none before `delay` milliseconds are over; returns itself.

        All are stored in one transaction: all of them are sent, or none.

        Raises:
          RuntimeError: there are completion callbacks, and the broker has no `GroupCallbacks`.
        """
        self.broker.enqueue_many(list(self.starts(delay)))
        return self

    def starts(self, delay: int | None = None) -> Iterator[tuple[Message[Any], int | None]]:
        """The messages that start it, each with its delay (ms)."""
        options = self._callback_options()
        for child in self.children:
            if isinstance(child, group):
                yield from child.starts(delay)
            elif isinstance(child, pipeline):
                yield _last_with(child, options).first(delay)
            else:
                yield child.copy(options=options), delay

    def _callback_options(self) -> dict[str, Any]:
        if not self.completion_callbacks:
            return {}
        if not self.broker.has_middleware("GroupCallbacks"):
            raise RuntimeError(
                "this group has completion callbacks, but its broker has no GroupCallbacks middleware, which "
                "would send them; add it with broker.add_middleware(GroupCallbacks(...))"
            )
        return {
            "group_info": {
                "group_id": str(uuid4()),
                "children_count": len(self.children),
                "completion_callbacks": self.completion_callbacks,
            }
        }

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

    def wait(self, *, timeout: int | None = None) -> None:
        """Return when all children have their result.

        Raises:
          ResultTimeout: after `timeout` milliseconds (10,000 by default).
          ResultFailure: one of them failed for good.
        """
        for _ in self.get_results(block=True, timeout=timeout):
            pass


def _last_with(child: pipeline, options: dict[str, Any]) -> pipeline:
    if not options:
        return child
    *rest, last = child.messages
    return pipeline([*rest, last.copy(options=options)], broker=child.broker)


def _has_result(message: Message[Any], broker: Broker) -> bool:
    try:
        broker.get_results_backend().get_result(message)
    except ResultMissing:
        return False
    return True


def _results(children: Any, broker: Broker, block: bool, timeout: int | None) -> Iterator[Any]:
    deadline = Deadline(timeout)
    backend: ResultBackend = broker.get_results_backend()
    for child in children:
        left = deadline.left()
        millis = None if left is None else int(left)
        if isinstance(child, group):
            yield list(child.get_results(block=block, timeout=millis))
        elif isinstance(child, pipeline):
            yield child.get_result(block=block, timeout=millis)
        else:
            yield child.get_result(backend=backend, block=block, timeout=millis)
