"""Actors: functions that can be sent messages."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from difflib import get_close_matches
from logging import Logger
from math import inf
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .asyncio import async_to_sync, in_a_thread, is_async
from .broker import Broker, get_broker
from .logging import get_logger
from .message import Message
from .names import check_actor_name, check_queue_name
from .names import queue_name_re as _queue_name_re  # noqa: F401  # packages take it from here, by dramatiq's name

P = ParamSpec("P")
R = TypeVar("R")

CALLBACK_OPTIONS = ("on_success", "on_failure", "on_retry_exhausted")
MILLISECONDS = ("min_backoff", "max_backoff", "time_limit", "time_limit_grace", "max_age", "result_ttl")
NUMBERS = ("max_retries", "priority", *MILLISECONDS)
ENDLESS = ("max_retries", "time_limit", "max_age")
"""What may be infinity."""
OPTIONS_OF_MESSAGES = {"delay", "eta", "priority", "retries"}
"""What a message may have besides the options that an actor may have too."""


class Actor(Generic[P, R]):
    """A function together with the queue, the name and the options by which messages reach it.

    Calling it runs the function here and now; `send` has a worker run it.
    """

    _has_warned = False
    _has_moved = False

    def __init__(
        self,
        fn: Callable[P, Any],
        *,
        broker: Broker,
        actor_name: str,
        queue_name: str,
        priority: int,
        options: dict[str, Any],
    ) -> None:
        if actor_name in broker.actors and not broker.actors[actor_name]._gives_way_to(fn):
            raise ValueError(f"An actor named {actor_name!r} is already registered.")
        module = fn.__module__ if getattr(fn, "__module__", None) else "_"
        self.logger: Logger = get_logger(module, actor_name)
        self.fn: Callable[P, R] = async_to_sync(fn) if is_async(fn) else fn
        self.broker: Broker = broker
        self.actor_name = actor_name
        self.queue_name = queue_name
        self.priority = priority
        self.options = options
        self.broker.declare_actor(self)

    def check_move_to(self, broker: Broker) -> None:
        """Refuse what `move_to` could not do.

        Raises:
          ValueError: an actor of that name is there already, or it has options that nobody knows there.
        """
        if self.actor_name in broker.actors:
            raise ValueError(f"An actor named {self.actor_name!r} is already registered.")
        check_options(broker, self.actor_name, self.options)

    def move_to(self, broker: Broker) -> None:
        """Belong to another broker from now on."""
        self.broker = broker
        self._has_moved = True
        broker.declare_actor(self)

    def _gives_way_to(self, fn: Callable[..., Any]) -> bool:
        """Whether a function is its own, declared anew: who sets a broker for tests may reload the modules then."""
        return self._has_moved and _place_of(self.fn) == _place_of(fn)

    def message(self, *args: P.args, **kwargs: P.kwargs) -> Message[R]:
        """A message for this actor, not sent."""
        return self.message_with_options(args=args, kwargs=kwargs)

    def message_with_options(
        self, *, args: tuple[Any, ...] | list[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Message[R]:
        """A message for this actor, not sent, with options that its middleware reads.

        One that nobody knows is carried all the same, as in dramatiq; the first is logged as a warning.

        Raises:
          TypeError: an option cannot have that value.
        """
        if kwargs is not None and not isinstance(kwargs, dict):
            raise TypeError(f"kwargs is a dict of arguments by name, not {kwargs!r}")
        options = {name: _option_value(name, value) for name, value in options.items()}
        if options and not self._has_warned:
            self._warn_of_unknown(options)
        return Message(
            queue_name=self.queue_name,
            actor_name=self.actor_name,
            args=tuple(args),
            kwargs=kwargs or {},
            options=options,
        )

    def _warn_of_unknown(self, options: dict[str, Any]) -> None:
        known = self.broker.actor_options | OPTIONS_OF_MESSAGES
        unknown = sorted(options.keys() - known)
        if unknown:
            self._has_warned = True
            hints = ", ".join(_with_likely_name(name, known) for name in unknown)
            self.logger.warning("A message of %s has options that no middleware knows: %s.", self, hints)

    def send(self, *args: P.args, **kwargs: P.kwargs) -> Message[R]:
        """Have a worker run the actor with these arguments; returns when the message is stored.

        Raises:
          EncodeError: an argument cannot be encoded; the text says where it stands.
          StoreError: the message could not be stored.
        """
        return self.send_with_options(args=args, kwargs=kwargs)

    def send_with_options(
        self,
        *,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: dict[str, Any] | None = None,
        delay: int | timedelta | None = None,
        **options: Any,
    ) -> Message[R]:
        """As `send`, with options that middleware reads.

        Parameters:
          args, kwargs: what the actor is called with.
          delay: milliseconds, or a timedelta, before which it does not run.
          options: for example ``priority`` (lower runs first), ``max_retries``, ``time_limit``.
        """
        if isinstance(delay, timedelta):
            delay = round(delay.total_seconds() * 1000)
        message: Message[R] = self.message_with_options(args=args, kwargs=kwargs, **options)
        return self.broker.enqueue(message, delay=delay)

    async def asend(self, *args: P.args, **kwargs: P.kwargs) -> Message[R]:
        """As `send`, for coroutines: the event loop goes on meanwhile.

        A coroutine that is cancelled in it may have sent the message or not.
        """
        return await self.asend_with_options(args=args, kwargs=kwargs)

    async def asend_with_options(
        self,
        *,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: dict[str, Any] | None = None,
        delay: int | timedelta | None = None,
        **options: Any,
    ) -> Message[R]:
        """As `send_with_options`, for coroutines; see `asend`."""
        return await in_a_thread(self.send_with_options, args=args, kwargs=kwargs, delay=delay, **options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, and return what it returns."""
        self.logger.debug("Received args=%r kwargs=%r.", args, kwargs)
        started = time.perf_counter()
        try:
            return self.fn(*args, **kwargs)
        finally:
            self.logger.debug("Completed after %.02fms.", (time.perf_counter() - started) * 1000)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By reference, as a function: a scheduler keeps `actor.send` in its file, not what the actor consists of.
        reference = _place_of(self.fn)
        if reference[0] in sys.modules and _actor_at(*reference) is self:
            return _actor_at, reference
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"Actor({self.fn!r}, queue_name={self.queue_name!r}, actor_name={self.actor_name!r})"

    def __str__(self) -> str:
        return f"Actor({self.actor_name})"


def _place_of(fn: Any) -> tuple[str, str]:
    """The module and the qualified name of a function, or of the class of something else that is called."""
    function = getattr(fn, "__wrapped__", fn)
    named = function if hasattr(function, "__qualname__") else type(function)
    return named.__module__, named.__qualname__


def _actor_at(module: str, qualified_name: str) -> Any:
    """The actor of that name in a module; None if there is nothing of that name."""
    found: Any = importlib.import_module(module)
    for name in qualified_name.split("."):
        found = getattr(found, name, None)
    return getattr(found, "__actor__", found)


@overload
def actor(fn: Callable[P, Awaitable[R]], **kwargs: Any) -> Actor[P, R]: ...
@overload
def actor(fn: Callable[P, R], **kwargs: Any) -> Actor[P, R]: ...
@overload
def actor(
    fn: None = None,
    *,
    actor_class: Callable[..., Any] = Actor,
    actor_name: str | None = None,
    queue_name: str = "default",
    priority: int = 0,
    broker: Broker | None = None,
    **options: Any,
) -> ActorDecorator: ...


def actor(
    fn: Callable[..., Any] | None = None,
    *,
    actor_class: Callable[..., Any] = Actor,
    actor_name: str | None = None,
    queue_name: str = "default",
    priority: int = 0,
    broker: Broker | None = None,
    **options: Any,
) -> Any:
    """Declare a function as an actor: ``@actor``, or ``@actor(...)`` with options.

    Parameters:
      fn: the function.
      actor_class: what to make of it.
      actor_name: by default the function's name.
      queue_name: where its messages go.
      priority: lower numbers run first.
      broker: by default the global one.
      options: what the broker's middleware knows, such as ``max_retries`` or ``time_limit`` (ms).

    Raises:
      ValueError: a name that is no queue's, an actor of that name that is there already, or an
        option that no middleware knows.
      TypeError: an option that cannot have that value.
    """

    def declare(function: Callable[..., Any]) -> Any:
        if not callable(function):
            raise TypeError(f"an actor is made of a function, not of {function!r}")
        name = actor_name or function.__name__
        check_actor_name(name)
        _option_value("priority", priority)
        chosen = broker or get_broker()
        check_queue_name(queue_name)
        own = {option: _option_value(option, value) for option, value in options.items()}
        check_options(chosen, name, own)
        return actor_class(
            function,
            actor_name=name,
            queue_name=queue_name,
            priority=priority,
            broker=chosen,
            options=own,
        )

    return declare if fn is None else declare(fn)


class ActorDecorator:
    """What ``actor(...)`` without a function gives; for type checkers."""

    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]]) -> Actor[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> Actor[P, R]: ...
    def __call__(self, fn: Any) -> Any:
        raise NotImplementedError


def check_options(broker: Broker, actor_name: str, options: dict[str, Any]) -> None:
    """Refuse options of an actor that no middleware of its broker knows.

    Raises:
      ValueError: it names them, and what may have been meant.
    """
    unknown = sorted(options.keys() - broker.actor_options)
    if not unknown:
        return
    hints = ", ".join(_with_likely_name(name, broker.actor_options) for name in unknown)
    raise ValueError(
        f"the actor {actor_name!r} has options that no middleware of its broker knows: {hints}; "
        "correct them, or add the middleware that they belong to before the actor is declared"
    )


def _with_likely_name(name: str, known: set[str]) -> str:
    likely = get_close_matches(name, known, n=1)
    return f"{name!r} (did you mean {likely[0]!r}?)" if likely else repr(name)


def _option_value(option: str, value: Any) -> Any:
    """The value as a message carries it: a callback option may be given as an actor, and is its name.

    Raises:
      TypeError: it is nothing that the option can be.
    """
    if value is None:
        return None
    if option in NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
        what = "a number of milliseconds" if option in MILLISECONDS else "a whole number"
        raise TypeError(f"{option} is {what}, not {value!r}")
    if option in NUMBERS and not abs(value) < 2**53 and not (option in ENDLESS and value == inf):
        raise TypeError(f"{option} is out of range: {value!r}"[:100])
    if option == "throws" and not _are_exceptions(value):
        raise TypeError(f"throws is a class of exceptions or a tuple of them, not {value!r}")
    if option == "retry_when" and not callable(value):
        raise TypeError(f"retry_when is a function of the retries so far and the exception, not {value!r}")
    return _name_of(option, value) if option in CALLBACK_OPTIONS else value


def _are_exceptions(value: Any) -> bool:
    classes = value if isinstance(value, tuple) else (value,)
    return all(isinstance(each, type) and issubclass(each, BaseException) for each in classes)


def _name_of(option: str, value: Any) -> str:
    name = getattr(value, "actor_name", value)
    if not isinstance(name, str):
        raise TypeError(f"{option} is an actor, its name or None, not {value!r}")
    return name
