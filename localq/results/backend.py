"""Where results are kept, and how they are asked for."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from hashlib import md5
from time import sleep
from typing import TYPE_CHECKING, Any

from .. import current
from ..asyncio import in_a_thread
from ..clock import Deadline, clock, compute_backoff
from ..encoder import Encoder, JSONEncoder, MsgpackEncoder
from ..errors import DecodeError, ResultFailure, ResultMissing, ResultTimeout
from ..message import get_encoder
from ..names import q_name
from ..store import Store, Value
from .result import is_failure, unwrap_result, wrap_exception, wrap_result
from .waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..message import Message

DEFAULT_TIMEOUT = 10_000
"""Milliseconds that a blocking `get_result` waits."""

BACKOFF_FACTOR = 100
"""Milliseconds of the first nap of a backend that cannot be woken."""


_HEX = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-")


class _Missing:
    def __repr__(self) -> str:
        return "Missing"


Missing: Any = _Missing()
"""What a backend's `_get` returns where there is nothing: None is a result too."""

Result = MResult = Any
"""A result, and one or `Missing`; dramatiq's names, which packages take from here."""


class ResultBackend:
    """Keeps one result a message, for a time.

    Parameters:
      namespace: what the keys begin with.
      encoder: turns results into bytes; the global encoder by default.
      use_namespace_prefix_keys: write keys as ``namespace:queue:actor:id`` instead of a digest.
    """

    def __init__(
        self,
        *,
        namespace: str = "dramatiq-results",
        encoder: Encoder | None = None,
        use_namespace_prefix_keys: bool = False,
    ) -> None:
        self.namespace = namespace
        self._encoder = encoder
        self.use_namespace_prefix_keys = use_namespace_prefix_keys

    @property
    def encoder(self) -> Encoder:
        """What turns results into bytes."""
        return self._encoder or get_encoder()

    @encoder.setter
    def encoder(self, encoder: Encoder | None) -> None:
        self._encoder = encoder

    def get_result(self, message: Message[Any], *, block: bool = False, timeout: int | None = None) -> Any:
        """The result of a message.

        Parameters:
          message: the message, as it was sent.
          block: whether to wait for it.
          timeout: milliseconds to wait, 10,000 by default.

        Raises:
          ResultMissing: it is not there, and was not waited for.
          ResultTimeout: it did not come in time.
          ResultFailure: the message failed for good.
        """
        key = self.build_message_key(message)
        if block:
            timeout = DEFAULT_TIMEOUT if timeout is None else timeout
            stored = self._wait(key, timeout)
            if stored is Missing:
                raise _too_late(message, timeout)
        else:
            stored = self._get(key)
            if stored is Missing:
                raise ResultMissing(f"{message} has no result (yet, or its time to live is over)")
        return self.unwrap_result(stored)

    async def aget_result(self, message: Message[Any], *, block: bool = True, timeout: int | None = None) -> Any:
        """As `get_result`, without blocking the event loop; it waits unless `block` is False."""
        timeout = DEFAULT_TIMEOUT if timeout is None else timeout
        deadline, naps = Deadline(timeout), 0
        while True:
            try:
                return await in_a_thread(self.get_result, message)
            except ResultMissing:
                if not block:
                    raise
            left = deadline.left() or 0
            if not left:
                raise _too_late(message, timeout)
            stored = await self._await(message, naps, left)
            if stored is not Missing:
                return self.unwrap_result(stored)
            naps += 1

    async def _await(self, message: Message[Any], naps: int, longest: float) -> Any:
        """What is kept of the message's result, or `Missing` when it is time to look (again), after `longest`
        milliseconds at most; it was waited for `naps` times before."""
        import asyncio

        _, nap = compute_backoff(naps, factor=BACKOFF_FACTOR)
        await asyncio.sleep(min(nap, longest) / 1000)
        return Missing

    def wait_for_all(
        self, messages: Iterable[Message[Any]], *, timeout: int | None = None, fail_fast: bool = True
    ) -> None:
        """Return when all of the messages have their result.

        Parameters:
          messages: the messages, as they were sent.
          timeout: milliseconds to wait; by default until none has come for 10,000.
          fail_fast: whether the first failure ends the wait; otherwise it is raised at the end.

        Raises:
          ResultTimeout: they did not all come in time.
          ResultFailure: one of the messages failed for good.
        """
        missing = {self.build_message_key(message): message for message in messages}
        deadline, failure = Deadline(timeout), None
        while missing:
            left = deadline.left()
            stored = self._wait_any(list(missing), DEFAULT_TIMEOUT if left is None else left)
            if not stored:
                raise ResultTimeout(_still_missing(list(missing.values()), timeout))
            for key in [key for key in missing if key in stored]:
                del missing[key]
                try:
                    self.unwrap_result(stored[key])
                except ResultFailure as error:
                    if fail_fast:
                        raise
                    failure = failure or error
        if failure is not None:
            raise failure

    def store_result(self, message: Message[Any], result: Any, ttl: int) -> None:
        """Keep what the actor returned for `ttl` milliseconds.

        Raises:
          EncodeError: it cannot be encoded.
        """
        self._store(self.build_message_key(message), wrap_result(result), ttl)

    def store_exception(self, message: Message[Any], exception: BaseException, ttl: int) -> None:
        """Keep, for `ttl` milliseconds, that the message failed, and by what."""
        self._store(self.build_message_key(message), wrap_exception(exception), ttl)

    def unwrap_result(self, res: Any) -> Any:
        """The value in what `_get` returned.

        Raises:
          ResultFailure: it tells of a failure.
        """
        return unwrap_result(res)

    def build_message_key(self, message: Message[Any]) -> str:
        """The key of a message's result: 32 hexadecimal digits, unless it is to be readable."""
        queue, message_id = q_name(message.queue_name), str(message.message_id)
        key = f"{self.namespace}:{queue}:{message.actor_name}:{message_id}"
        if self.use_namespace_prefix_keys:
            return key
        digest = md5(key.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
        # Ids of ours begin with the time. A key that does so too lies beside those of its time in
        # an index, where a digest alone would cost a page for each.
        return message_id[:8] + message_id[9:13] + digest[12:] if _HEX.match(message_id) else digest

    def _wait(self, key: str, timeout: float) -> Any:
        """What is under the key, waited for; `Missing` after `timeout` milliseconds."""
        return self._wait_any([key], timeout).get(key, Missing)

    def _wait_any(self, keys: Sequence[str], timeout: float) -> dict[str, Any]:
        """What is under any of the keys, waited for; nothing after `timeout` milliseconds."""
        deadline, naps = Deadline(timeout), 0
        while True:
            looked = ((key, self._get(key)) for key in keys)
            stored = {key: result for key, result in looked if result is not Missing}
            if stored or deadline.passed():
                return stored
            naps, nap = compute_backoff(naps, factor=BACKOFF_FACTOR)
            sleep(min(nap, deadline.left() or 0) / 1000)

    def _get(self, key: str) -> Any:
        """What is under the key, or `Missing`."""
        raise NotImplementedError(f"{type(self).__name__} has no _get()")

    def _store(self, key: str, result: Any, ttl: int) -> None:
        """Put it there for `ttl` milliseconds."""
        raise NotImplementedError(f"{type(self).__name__} has no _store()")


class StoreBackend(ResultBackend):
    """Results in a store of messages. Who waits for one is woken when it comes.

    While the hooks after a message run, results of the same store are kept back and written
    together with the end of the message. In another store they are written at once: should the
    process die before the message has ended, it runs again and its result is written again.

    Parameters:
      open_store: gives the store; called when it is first needed.
    """

    def __init__(self, open_store: Callable[[], Store], **options: Any) -> None:
        super().__init__(**options)
        self._open_store = open_store
        self._waiter: Waiter | None = None

    @property
    def store(self) -> Store:
        """The store that keeps the results."""
        return self._open_store()

    async def _await(self, message: Message[Any], naps: int, longest: float) -> Any:
        if self._waiter is None or self._waiter.process != os.getpid():
            self._waiter = Waiter(self.store)
        return self._decode(await self._waiter.wait(self.build_message_key(message), longest))

    def _get(self, key: str) -> Any:
        return self._decode(self.store.get_value(key, now=clock.wall()))

    def _wait_any(self, keys: Sequence[str], timeout: float) -> dict[str, Any]:
        found = self.store.wait_values(keys, clock=clock.wall, timeout=timeout)
        return {key: self._decode(data) for key, data in found.items()}

    def _decode(self, data: bytes | None) -> Any:
        if data is None:
            return Missing
        kept = _decoded(data, self.encoder)
        if "result" not in kept:
            raise DecodeError(f"what is kept here is no result: it has {sorted(map(str, kept))}"[:300], data)
        return kept["result"]

    def _store(self, key: str, result: Any, ttl: int) -> None:
        value = Value(key, self.encoder.encode({"result": result}), ttl)
        outcome = current.outcome_in(self.store)
        if outcome is None:
            self.store.set_values([value], now=clock.wall())
            return
        if is_failure(result):
            value.until_revived = outcome.record.message_id
        outcome.values.append(value)


def _decoded(data: bytes, encoder: Encoder) -> dict[str, Any]:
    """What the encoder made these bytes of, or else one of ours: the worker may have had another one, where
    only one of the two has `install_as_dramatiq`. Pickled ones are never tried."""
    try:
        return encoder.decode(data)
    except DecodeError:
        for other in (MsgpackEncoder, JSONEncoder):
            with suppress(DecodeError):
                return other().decode(data)
        raise


def _too_late(message: Message[Any], timeout: int) -> ResultTimeout:
    return ResultTimeout(
        f"{message} has no result after {timeout} ms; does a worker of its actor run on the same store?"
    )


def _still_missing(messages: Sequence[Message[Any]], timeout: int | None) -> str:
    more = f" and {len(messages) - 1} more" if len(messages) > 1 else ""
    patience = f"after {timeout} ms" if timeout is not None else f"and none has come for {DEFAULT_TIMEOUT} ms"
    return f"{messages[0]}{more} have no result {patience}"
