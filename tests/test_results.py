"""Results: what actors returned, that they failed, and where that is kept."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import localq
from localq import Broker, Encoder, JSONEncoder, Message, MessageProxy, Middleware, MsgpackEncoder
from localq.brokers import SQLiteBroker
from localq.clock import clock
from localq.errors import SkipMessage
from localq.results import Missing, ResultBackend, ResultFailure, ResultMissing, Results, ResultTimeout
from localq.results.backends import SQLiteBackend, StubBackend
from localq.results.result import wrap_exception, wrap_result
from localq.store import Selection

NOW = {"min_backoff": 0, "max_backoff": 0}
MINUTE = 60_000


class DictBackend(ResultBackend):
    """The least that a backend can be: it cannot wake who waits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.db: dict[str, Any] = {}

    def _get(self, key: str) -> Any:
        return self.db.get(key, Missing)

    def _store(self, key: str, result: Any, ttl: int) -> None:
        self.db[key] = result


def make(**fields: Any) -> Message[Any]:
    given = {"queue_name": "default", "actor_name": "add", "args": (), "kwargs": {}, "options": {}}
    return Message(**{**given, **fields})


@pytest.fixture
def backend(broker_with_results: Broker) -> ResultBackend:
    return broker_with_results.get_results_backend()


# -- getting


def test_a_result_is_there_as_soon_as_the_actor_has_returned(
    broker_with_results: Broker, start_worker: Callable[..., Any]
) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    start_worker(broker_with_results)

    assert add.send(1, 2).get_result(block=True) == 3


def test_what_is_not_there_and_not_waited_for_is_missing(broker_with_results: Broker) -> None:
    message = make()

    with pytest.raises(ResultMissing, match=r"add\(\) has no result"):
        message.get_result()


@pytest.mark.parametrize("timeout", [0, 100, 300])
def test_waiting_for_a_result_times_out(broker_with_results: Broker, timeout: int) -> None:
    began = time.monotonic()

    with pytest.raises(ResultTimeout, match=f"after {timeout} ms"):
        make().get_result(block=True, timeout=timeout)

    assert timeout / 1000 - 0.001 <= time.monotonic() - began < 10


def test_who_waits_is_woken_when_the_result_comes(broker_with_results: Broker, backend: ResultBackend) -> None:
    messages = [make() for _ in range(3)]
    waiting = threading.Barrier(4)
    results: dict[int, Any] = {}

    def wait_for(n: int) -> None:
        waiting.wait(20)
        results[n] = messages[n].get_result(block=True, timeout=20_000)

    threads = [threading.Thread(target=wait_for, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    waiting.wait(20)
    for n in (2, 0, 1):
        backend.store_result(messages[n], n, MINUTE)
    for thread in threads:
        thread.join(20)

    assert results == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize(
    "value",
    [None, 0, "", [], {}, False, (1, (2, 3)), {"result": 1}, {"exception": None}, {"bare": 1}, b"x", 2**70, {1, 2}],
)
def test_every_value_comes_back_as_it_was(
    broker_with_results: Broker, drain: Callable[..., None], value: Any
) -> None:
    message = localq.actor(lambda: value, actor_name="give").send()

    drain(broker_with_results)

    assert message.get_result() == value
    assert type(message.get_result()) is type(value)


def test_a_result_that_looks_like_a_failure_is_a_result(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    value = wrap_exception(RuntimeError("not mine"))
    assert wrap_result(value) != value
    message = localq.actor(lambda: value, actor_name="give").send()

    drain(broker_with_results)

    assert message.get_result() == value


def test_a_result_can_be_got_again_and_again(broker_with_results: Broker, drain: Callable[..., None]) -> None:
    message = localq.actor(lambda: 1, actor_name="give").send()
    drain(broker_with_results)

    assert [message.get_result() for _ in range(3)] == [1, 1, 1]


def test_tuples_stay_tuples_and_become_lists_under_json(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    give = localq.actor(lambda: (1, 2), actor_name="give")

    message = give.send()
    drain(broker_with_results)
    assert message.get_result() == (1, 2)

    localq.set_encoder(JSONEncoder())
    message = give.send()
    drain(broker_with_results)
    assert message.get_result() == [1, 2]


def test_the_result_of_a_delayed_message_is_found_by_either_form_of_its_queue(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    message = localq.actor(lambda: 1, actor_name="give").send_with_options(delay=10)
    drain(broker_with_results)

    assert message.get_result() == 1
    assert message.copy(queue_name="default.DQ").get_result() == 1


# -- failures


def test_a_failure_has_the_type_and_the_text_of_the_exception(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    @localq.actor(max_retries=0)
    def fail() -> None:
        raise RuntimeError("failed")

    message = fail.send()
    drain(broker_with_results)

    for ask in (message.get_result, lambda: message.get_result(block=True)):
        with pytest.raises(ResultFailure) as failure:
            ask()
        assert str(failure.value) == "actor raised RuntimeError: failed"
        assert (failure.value.orig_exc_type, failure.value.orig_exc_msg) == ("RuntimeError", "failed")


def test_a_failure_is_there_only_when_there_are_no_retries_left(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    seen = []

    @localq.actor(max_retries=2, **NOW)
    def fail() -> None:
        with pytest.raises(ResultMissing):
            message.get_result()
        seen.append(1)
        raise RuntimeError("failed")

    message = fail.message()
    broker_with_results.enqueue(message)
    drain(broker_with_results)

    assert len(seen) == 3
    with pytest.raises(ResultFailure, match="actor raised RuntimeError: failed"):
        message.get_result()


def test_a_success_after_retries_is_a_result(broker_with_results: Broker, drain: Callable[..., None]) -> None:
    runs = []

    @localq.actor(**NOW)
    def work() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError
        return len(runs)

    message = work.send()
    drain(broker_with_results)

    assert message.get_result() == 3


def test_an_expected_failure_is_there_at_once(broker_with_results: Broker, drain: Callable[..., None]) -> None:
    @localq.actor(throws=KeyError)
    def fail() -> None:
        raise KeyError("known")

    message = fail.send()
    drain(broker_with_results)

    with pytest.raises(ResultFailure, match="actor raised KeyError: 'known'"):
        message.get_result()


def test_a_failure_is_not_kept_where_results_are_not(broker: Broker, drain: Callable[..., None]) -> None:
    broker.add_middleware(Results(store_results=False))

    @localq.actor(max_retries=0)
    def fail() -> None:
        raise RuntimeError

    message = fail.send()
    drain(broker)

    with pytest.raises(ResultMissing):
        message.get_result()


def test_who_waits_for_an_actor_that_nobody_declares_hears_so_at_once_and_no_more_when_one_comes(
    broker_with_results: Broker, start_worker: Callable[..., Any], drain: Callable[..., None]
) -> None:
    broker_with_results.declare_queue("default")
    worker = start_worker(broker_with_results)
    message = broker_with_results.enqueue(make(actor_name="late", args=(1,)))

    with pytest.raises(ResultFailure, match="actor raised ActorNotFound: late"):
        message.get_result(block=True, timeout=20_000)

    worker.stop()
    localq.actor(lambda x: x + 1, actor_name="late")
    second = localq.Worker(broker_with_results, worker_threads=1)
    with pytest.raises(ResultFailure):
        message.get_result()
    second.boot()  # it has joined, and runs nothing yet
    with pytest.raises(ResultMissing):
        message.get_result()
    second.leave()
    drain(broker_with_results)
    assert message.get_result() == 2


def test_an_actor_that_raises_what_an_unknown_actor_would_is_a_failure_like_others(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    runs = []

    @localq.actor(max_retries=1, **NOW)
    def relay() -> None:
        runs.append(1)
        broker_with_results.get_actor("nobody")

    message = relay.send()
    drain(broker_with_results)

    assert len(runs) == 2
    assert broker_with_results.get_queue_message_counts("default") == (0, 0, 1)
    with pytest.raises(ResultFailure, match="actor raised ActorNotFound: nobody"):
        message.get_result()
    drain(broker_with_results)  # another worker, which declares the actor of the dead letter
    assert len(runs) == 2


@pytest.mark.parametrize("how", ["again", "for good"])
def test_the_failure_of_a_dead_letter_is_forgotten_when_it_is_run_again(
    broker_with_results: Broker, drain: Callable[..., None], how: str
) -> None:
    broken = [True]

    @localq.actor(max_retries=0)
    def work(*results: Any) -> int:
        if broken[0]:
            raise RuntimeError("broken")
        return 7

    pipe = work.message() | work.message() | work.message()
    pipe.run()
    drain(broker_with_results)
    for step in pipe.messages:
        with pytest.raises(ResultFailure, match="actor raised RuntimeError: broken"):
            step.get_result()

    broken[0] = how == "again"
    assert broker_with_results.store.move(Selection(states=["dead"]), "waiting", now=clock.wall()) == 1
    for step in pipe.messages:
        with pytest.raises(ResultMissing):
            step.get_result()
    drain(broker_with_results)
    if how == "again":
        with pytest.raises(ResultFailure):
            pipe.get_result()
    else:
        assert list(pipe.get_results()) == [7, 7, 7]


@pytest.mark.parametrize("how", ["failed", "expected", "skipped", "skipped as failed", "unknown"])
def test_who_waits_for_the_last_step_of_a_pipeline_hears_at_once_how_an_earlier_one_ended(
    broker_with_results: Broker, start_worker: Callable[..., Any], how: str
) -> None:
    class Ending(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if how.startswith("skipped"):
                message.failed = how == "skipped as failed"
                raise SkipMessage("not today")

    broker_with_results.add_middleware(Ending())

    @localq.actor(max_retries=0, throws=KeyError)
    def first() -> None:
        raise {"failed": RuntimeError, "expected": KeyError}[how]("broken")

    last = localq.actor(lambda *results: 1, actor_name="last")
    middle = localq.actor(lambda *results: 1, actor_name="middle", store_results=False)
    begin: Message[Any] = first.message() if how != "unknown" else make(actor_name="nobody")
    pipe = begin | middle.message() | last.message()
    start_worker(broker_with_results)
    pipe.run()

    reason = {"failed": "RuntimeError: broken", "expected": "KeyError", "unknown": "ActorNotFound: nobody"}
    with pytest.raises(ResultFailure, match=f"actor raised {reason.get(how, 'SkipMessage: not today')}"):
        pipe.get_result(block=True, timeout=20_000)
    with pytest.raises(ResultMissing):
        pipe.messages[1].get_result()


def test_who_waits_for_bytes_that_cannot_be_read_hears_so_at_once(
    broker_with_results: Broker, start_worker: Callable[..., Any]
) -> None:
    broker_with_results.declare_queue("default")
    message = make(actor_name="give")
    record = broker_with_results.record_of(message, clock.wall())
    record.body = b"no message"
    broker_with_results.store.put([record], now=clock.wall())
    start_worker(broker_with_results)

    with pytest.raises(ResultFailure, match="actor raised DecodeError: "):
        message.get_result(block=True, timeout=20_000)


def test_a_message_that_a_middleware_failed_is_a_failure_although_its_actor_returned(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    class Failing(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            message.fail()

    broker_with_results.add_middleware(Failing())
    message = localq.actor(lambda: 1, actor_name="give").send()
    drain(broker_with_results)

    with pytest.raises(ResultFailure, match="actor raised Exception: failed by a middleware"):
        message.get_result()


def test_the_hook_after_a_failure_does_nothing_for_an_actor_that_nobody_declares(broker: Broker) -> None:
    backend = DictBackend()
    results = Results(backend=backend, store_results=True)

    results.after_nack(broker, MessageProxy(make(actor_name="nobody")))

    assert backend.db == {}


def test_a_result_that_cannot_be_encoded_is_a_failure_that_says_so(
    broker_with_results: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    message = localq.actor(lambda: {"when": object()}, actor_name="give").send()
    drain(broker_with_results)

    with pytest.raises(ResultFailure, match=r'actor raised EncodeError: cannot encode result\["when"\]') as failure:
        message.get_result()

    assert failure.value.orig_exc_type == "EncodeError"
    assert broker_with_results.store.counts() == {}
    assert len(logged(logging.ERROR)) == 1


# -- skipped messages


class Skipping(Middleware):
    def __init__(self, *, failing: bool) -> None:
        self.failing = failing

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if self.failing:
            message.fail()
        raise SkipMessage("not today")


def test_the_result_of_a_skipped_message_is_none(broker_with_results: Broker, drain: Callable[..., None]) -> None:
    broker_with_results.add_middleware(Skipping(failing=False))
    message = localq.actor(lambda: 1, actor_name="give").send()
    drain(broker_with_results)

    assert message.get_result() is None


def test_a_message_that_was_skipped_and_failed_has_that_as_its_failure(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    broker_with_results.add_middleware(Skipping(failing=True))
    message = localq.actor(lambda: 1, actor_name="give").send()
    drain(broker_with_results)

    with pytest.raises(ResultFailure, match="actor raised SkipMessage: not today"):
        message.get_result()


def test_a_skipped_message_has_no_result_where_none_are_kept(broker: Broker, drain: Callable[..., None]) -> None:
    broker.add_middleware(Results(store_results=False))
    broker.add_middleware(Skipping(failing=False))
    message = localq.actor(lambda: 1, actor_name="give").send()
    drain(broker)

    with pytest.raises(ResultMissing):
        message.get_result()


# -- which results are kept, and how long


@pytest.mark.parametrize("on_middleware", [False, True])
@pytest.mark.parametrize("on_actor", [None, False, True])
@pytest.mark.parametrize("on_message", [None, False, True])
def test_the_message_decides_then_the_actor_then_the_middleware(
    make_broker: Callable[..., Broker],
    drain: Callable[..., None],
    on_middleware: bool,
    on_actor: bool | None,
    on_message: bool | None,
) -> None:
    broker = make_broker("memory://", [Results(store_results=on_middleware)])
    give = localq.actor(lambda: 1, actor_name="give", broker=broker, store_results=on_actor)

    message = give.send_with_options(store_results=on_message)
    drain(broker)

    kept = on_message if on_message is not None else on_actor if on_actor is not None else on_middleware
    if kept:
        assert message.get_result(backend=broker.get_results_backend()) == 1
    else:
        with pytest.raises(ResultMissing):
            message.get_result(backend=broker.get_results_backend())


def test_results_are_not_kept_by_default_and_ten_minutes_if_they_are() -> None:
    results = Results()

    assert (results.store_results, results.result_ttl) == (False, 600_000)


@pytest.mark.parametrize("options", [{}, {"result_ttl": 5_000}])
def test_a_result_is_gone_when_its_time_is_over(
    broker_with_results: Broker,
    drain: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, int],
) -> None:
    ttl = options.get("result_ttl", 600_000)
    message = localq.actor(lambda: 1, actor_name="give", **options).send()
    drain(broker_with_results)
    now = clock.wall()

    monkeypatch.setattr(clock, "wall", lambda: now + ttl - 2_000)
    assert message.get_result() == 1

    monkeypatch.setattr(clock, "wall", lambda: now + ttl + 2_000)
    with pytest.raises(ResultMissing):
        message.get_result()


def test_the_time_to_live_of_a_message_wins(broker_with_results: Broker, drain: Callable[..., None]) -> None:
    give = localq.actor(lambda: 1, actor_name="give", result_ttl=MINUTE)
    message = give.send_with_options(result_ttl=1)
    drain(broker_with_results)

    time.sleep(0.01)
    with pytest.raises(ResultMissing):
        message.get_result()


def test_results_that_are_over_leave_the_store(
    broker_with_results: Broker, drain: Callable[..., None], backend: ResultBackend
) -> None:
    for _ in range(10):
        backend.store_result(make(), 1, ttl=1)
    time.sleep(0.01)

    assert broker_with_results.store.sweep(now=clock.wall()) == 10


# -- keys and backends


def test_the_key_of_a_result_is_32_hex_digits() -> None:
    message = make()
    backend = DictBackend()

    key = backend.build_message_key(message)

    assert re.fullmatch("[0-9a-f]{32}", key)
    assert key == backend.build_message_key(message.copy(args=(1,), queue_name="default.DQ"))
    others = [
        backend.build_message_key(make()),
        backend.build_message_key(message.copy(actor_name="other")),
        backend.build_message_key(message.copy(queue_name="other")),
        DictBackend(namespace="other").build_message_key(message),
    ]
    assert len({key, *others}) == 5


@pytest.mark.parametrize("message_id", ["x", "", "ä" * 100, "\ud800", 42, "0190a3c4-1234-7000-8000-000000000000"])
def test_every_message_id_has_a_key(message_id: Any) -> None:
    key = DictBackend().build_message_key(make(message_id=message_id))

    assert re.fullmatch("[0-9a-f]{32}", key)
    assert key != DictBackend().build_message_key(make(message_id=message_id, actor_name="other"))


def test_the_key_is_readable_with_the_prefix_of_its_namespace() -> None:
    message = make(queue_name="mail.DQ", message_id="x")

    plain = DictBackend(use_namespace_prefix_keys=True)
    named = DictBackend(namespace="mine", use_namespace_prefix_keys=True)

    assert plain.build_message_key(message) == "dramatiq-results:mail:add:x"
    assert named.build_message_key(message) == "mine:mail:add:x"


def test_a_bare_value_reads_back_as_that_value(backend: ResultBackend) -> None:
    message = make()

    for value in (42, "text", [1], None, {"a": 1}, {"bare": 2}):
        backend._store(backend.build_message_key(message), value, MINUTE)
        assert backend.get_result(message) == value


def test_a_backend_of_a_package_has_an_encoder_and_keeps_what_dramatiq_keeps(broker: Broker) -> None:
    localq.set_encoder(localq.JSONEncoder())

    class BytesBackend(ResultBackend):
        kept: list[bytes] = []

        def _get(self, key: str) -> Any:
            return self.encoder.decode(self.kept.pop())

        def _store(self, key: str, result: Any, ttl: int) -> None:
            self.kept.append(self.encoder.encode(result))

    backend = BytesBackend()
    backend.store_result(make(), {"answer": 42}, MINUTE)
    assert backend.kept == [b'{"answer":42}']
    assert backend.get_result(make()) == {"answer": 42}
    backend.store_exception(make(), ValueError("bad"), MINUTE)
    assert backend.kept == [b'{"__t":"dramatiq.results.Result","exn":{"type":"ValueError","msg":"bad"}}']
    with pytest.raises(ResultFailure, match="actor raised ValueError: bad"):
        backend.get_result(make())
    assert type(BytesBackend(encoder=localq.PickleEncoder()).encoder) is localq.PickleEncoder


def test_what_is_under_no_key_is_missing(backend: ResultBackend) -> None:
    assert backend._get("nothing") is Missing
    assert repr(Missing) == "Missing"


def test_a_backend_with_get_and_store_alone_is_enough(
    make_broker: Callable[..., Broker], start_worker: Callable[..., Any]
) -> None:
    backend = DictBackend()
    broker = make_broker("memory://", [Results(backend=backend, store_results=True)])
    give = localq.actor(lambda: 7, actor_name="give", broker=broker)

    with pytest.raises(ResultMissing):
        give.message().get_result(backend=backend)
    for timeout in (0, 100):
        with pytest.raises(ResultTimeout):
            give.message().get_result(backend=backend, block=True, timeout=timeout)
    start_worker(broker)
    assert give.send().get_result(backend=backend, block=True) == 7


def test_a_backend_may_answer_in_a_way_of_its_own_and_have_neither() -> None:
    class Oracle(ResultBackend):
        def get_result(self, message: Message[Any], **how: Any) -> Any:
            return len(message.args)

    assert make(args=(1, 2)).get_result(backend=Oracle()) == 2
    with pytest.raises(NotImplementedError, match=r"Oracle has no _store\(\)"):
        Oracle().store_result(make(), 1, MINUTE)
    with pytest.raises(NotImplementedError, match=r"ResultBackend has no _get\(\)"):
        make().get_result(backend=ResultBackend())


@pytest.mark.parametrize(("worker", "caller"), [(JSONEncoder, MsgpackEncoder), (MsgpackEncoder, JSONEncoder)])
def test_a_result_is_read_where_another_of_our_encoders_is_set(
    broker_with_results: Broker, drain: Callable[..., None], worker: type[Encoder], caller: type[Encoder]
) -> None:
    @localq.actor(max_retries=0)
    def divide(x: int, y: int) -> list[float]:
        return [x / y]

    messages = [divide.send(1, 2), divide.send(1, 0)]
    localq.set_encoder(worker())
    drain(broker_with_results)
    localq.set_encoder(caller())
    assert messages[0].get_result() == [0.5]
    with pytest.raises(ResultFailure, match="ZeroDivisionError"):
        messages[1].get_result()


def test_an_encoder_of_the_backend_is_used_in_the_place_of_the_global_one(
    make_broker: Callable[..., Broker], tmp_path: Path, drain: Callable[..., None]
) -> None:
    backend = SQLiteBackend(tmp_path / "results.db", encoder=JSONEncoder())
    broker = make_broker("memory://", [Results(backend=backend, store_results=True)])
    message = localq.actor(lambda: (1, 2), actor_name="give", broker=broker).send()
    drain(broker)

    assert message.get_result(backend=backend) == [1, 2]
    backend.store.close()


@pytest.mark.parametrize("options", [{}, {"namespace": "mine", "use_namespace_prefix_keys": True}])
def test_a_stub_backend_keeps_results_in_memory_and_can_be_emptied(
    broker: Broker, drain: Callable[..., None], options: dict[str, Any]
) -> None:
    backend = StubBackend(**options)
    broker.add_middleware(Results(backend=backend, store_results=True))
    message = localq.actor(lambda: (1, 2), actor_name="give").send()
    drain(broker)

    assert message.get_result() == (1, 2)
    assert backend.db.keys() == {backend.build_message_key(message)}
    assert ("mine:default:give:" in next(iter(backend.db))) == bool(options)

    backend.db = {}
    with pytest.raises(ResultMissing):
        message.get_result()
    assert backend.db == {}
    with pytest.raises(ValueError, match="can only be emptied"):
        backend.db = {"key": b"value"}


def test_a_stub_backend_wakes_who_waits_for_a_result(broker: Broker, start_worker: Callable[..., Any]) -> None:
    broker.add_middleware(Results(backend=StubBackend()))

    @localq.actor(store_results=True, max_retries=0)
    def work(ok: bool) -> int:
        return 1 // ok

    start_worker(broker)

    assert work.send(True).get_result(block=True) == 1
    with pytest.raises(ResultFailure, match="actor raised ZeroDivisionError"):
        work.send(False).get_result(block=True)


@pytest.mark.parametrize("file", ["jobs.db", "results.db"])
def test_a_backend_can_be_made_by_hand_on_the_same_or_another_file(
    tmp_path: Path, file: str, drain: Callable[..., None]
) -> None:
    backend = SQLiteBackend(path=tmp_path / file, namespace="mine")
    broker = SQLiteBroker(path=tmp_path / "jobs.db")
    broker.add_middleware(Results(backend=backend))
    localq.set_broker(broker)

    @localq.actor(store_results=True, max_retries=0)
    def work(ok: bool) -> int:
        if ok:
            return 7
        raise RuntimeError("failed")

    good, bad = work.send(True), work.send(False)
    drain(broker)

    assert good.get_result() == 7
    assert good.get_result(backend=SQLiteBackend(tmp_path / file, namespace="mine")) == 7
    with pytest.raises(ResultFailure, match="actor raised RuntimeError: failed"):
        bad.get_result()
    assert (backend.store is broker.store) == (file == "jobs.db")
    assert broker.get_queue_message_counts("default") == (0, 0, 1)
    backend.store.close()


def test_making_a_backend_touches_no_disk(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "results.db")
    Results(backend=backend)

    assert list(tmp_path.iterdir()) == []


# -- the result and the end of its message


class Looking(Middleware):
    """Writes down, around the end of each message, what its result and how many running ones there are."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, int]] = []

    def look(self, when: str, broker: Broker, message: MessageProxy) -> None:
        try:
            result = message.get_result(backend=broker.get_results_backend())
        except ResultMissing:
            result = Missing
        running = broker.store.counts().get("default", {}).get("running", 0)
        self.seen.append((when, result, running))

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self.look("before", broker, message)

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        self.look("after", broker, message)


def test_a_result_is_visible_exactly_when_its_message_is_done(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    looking = Looking()
    broker_with_results.add_middleware(looking)
    localq.actor(lambda: 7, actor_name="give").send()

    drain(broker_with_results)

    assert looking.seen == [("before", Missing, 1), ("after", 7, 0)]


def test_a_result_in_another_file_is_written_before_the_end_of_its_message(
    tmp_path: Path, make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    backend = SQLiteBackend(tmp_path / "results.db")
    looking = Looking()
    broker = make_broker(f"sqlite:///{tmp_path}/jobs.db", [Results(backend=backend, store_results=True), looking])
    message = localq.actor(lambda: 7, actor_name="give", broker=broker).send()

    drain(broker)

    # Should its process die in between, the message runs again, and its result is written again.
    assert looking.seen == [("before", 7, 1), ("after", 7, 0)]
    assert message.get_result(backend=backend) == 7
    backend.store.close()


# -- warnings


DISCARDED = "the value has been discarded"
CONSIDER = "Consider adding the Results middleware"


def warned_of(logged: Callable[[int], list[str]], text: str) -> bool:
    return any(text in line for line in logged(logging.WARNING))


def test_a_value_that_nothing_keeps_is_warned_of(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = []
    monkeypatch.setattr(logging.Logger, "warning", lambda self, text, *args, **kwargs: formats.append(text))
    localq.actor(lambda: 1, actor_name="give").send()

    drain(broker)

    (text,) = formats
    assert CONSIDER in text


def test_a_value_that_the_results_middleware_does_not_keep_is_warned_of(
    broker: Broker, drain: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = []
    monkeypatch.setattr(logging.Logger, "warning", lambda self, text, *args, **kwargs: formats.append(text))
    broker.add_middleware(Results())
    localq.actor(lambda: 1, actor_name="give").send()

    drain(broker)

    (text,) = formats
    assert DISCARDED in text


@pytest.mark.parametrize("with_results", [False, True])
def test_nothing_is_warned_of_when_there_is_no_value_or_it_is_passed_on(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]], with_results: bool
) -> None:
    if with_results:
        broker.add_middleware(Results())
    nothing = localq.actor(lambda *args: None, actor_name="nothing")
    give = localq.actor(lambda: 1, actor_name="give")

    nothing.send()
    (give.message() | nothing.message()).run()
    drain(broker)

    assert logged(logging.WARNING) == []


def test_nothing_is_warned_of_when_the_value_is_kept(
    broker_with_results: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    localq.actor(lambda: 1, actor_name="give").send()

    drain(broker_with_results)

    assert logged(logging.WARNING) == []
    assert not broker_with_results.store.browse(Selection())
