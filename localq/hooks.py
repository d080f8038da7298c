"""The hooks of a broker's middleware: looked up once, called in order, and contained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .errors import MiddlewareError
from .middleware import Middleware

_NOTHING = dict(vars(Middleware))
"""The hooks that do nothing, by name, as they were before a test replaced one."""


class Hooks:
    """What a broker does with its ``middleware``, a list that may be changed at any time."""

    logger: logging.Logger
    looks_hooks_up_each_time = False
    """Whether a hook may be replaced after its first call, as tests do. It costs too much where nobody does."""

    def __init__(self) -> None:
        self.middleware: list[Middleware] = []
        self._hooks: dict[str, list[Callable[..., Any]]] = {}
        self._hooks_of: list[Middleware] = []
        self._kinds: set[str] = set()

    def hooks(self, name: str) -> list[Callable[..., Any]]:
        """The hooks of that name that do something, in the order of the middleware."""
        if self.looks_hooks_up_each_time or self._hooks_of != self.middleware:
            self._hooks_of = list(self.middleware)
            self._hooks = {}
            self._kinds = {cls.__name__ for one in self.middleware for cls in type(one).__mro__}
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = [getattr(one, name) for one in self.middleware if _overrides(one, name)]
            self._hooks[name] = hooks
        return hooks

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Run all ``before_SIGNAL`` hooks in order.

        Raises:
          MiddlewareError: a hook raised it. Whatever else a hook raises is logged as critical.
        """
        for hook in self.hooks(f"before_{signal}"):
            try:
                hook(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except BaseException:  # SystemExit too: it would end a thread without a word
                self.logger.critical("Unexpected failure in before_%s of %r.", signal, hook, exc_info=True)

    def announce(self, signal: str, *args: Any) -> None:
        """As `emit_before`, where nothing can be refused any more: a `MiddlewareError` is logged, too."""
        try:
            self.emit_before(signal, *args)
        except MiddlewareError:
            self.logger.critical("Unexpected failure in before_%s.", signal, exc_info=True)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Run all ``after_SIGNAL`` hooks in reverse order; what they raise is logged as critical."""
        for hook in reversed(self.hooks(f"after_{signal}")):
            try:
                hook(self, *args, **kwargs)
            except BaseException:  # SystemExit too: it would end a thread without a word
                self.logger.critical("Unexpected failure in after_%s of %r.", signal, hook, exc_info=True)

    def has_middleware(self, name: str) -> bool:
        """Whether there is middleware of the class of that name, or of a subclass."""
        self.hooks("enqueue")  # brings the table up to date
        return name in self._kinds


def _overrides(middleware: Middleware, name: str) -> bool:
    """Whether the middleware has a hook of that name, other than the one that does nothing."""
    hook = getattr(middleware, name, None)
    return hook is not None and getattr(hook, "__func__", hook) is not _NOTHING.get(name)
