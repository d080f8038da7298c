"""What every store promises, once, through public verbs only.

To put an engine under it: derive from `StoreContract` in a test module, override
the fixture `store`, and `join` where a worker of that engine must hold a lock.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import pytest

from localq.errors import StoreError
from localq.store.base import (
    ALONE,
    CANCELLED,
    DEAD,
    DEAD_LETTER_TTL,
    DELAYED,
    DONE,
    EVENT_TTL,
    HELD,
    RELEASE,
    RETRY,
    RUNNING,
    STATES,
    WAITING,
    Claim,
    Count,
    Event,
    Outcome,
    Record,
    Schedule,
    Selection,
    Store,
    Value,
    WorkerRecord,
)

T = TypeVar("T")

EVERYTHING = Selection()
LONG = 30_000
"""Milliseconds for a wait that something must end early."""
HOUR = 3_600_000

REFUSED = (StoreError, TypeError, ValueError)
"""What a verb may raise when it is given nonsense."""

SURROGATE = "\ud800"  # no text in any encoding: it may be refused
HOSTILE = {
    "quotes": 'it\'s "quoted" `so`',
    "semicolons": "x'; DROP TABLE message; --",
    "wildcards": "100%_*?[a-z]\\",
    "NUL": "before\0after",
    "emoji": "\N{PILE OF POO}\N{ZERO WIDTH JOINER}\N{PILE OF POO}",
    "newlines": " \r\n\t ",
    "empty": "",
    "long": "x" * 10_000,
    "lone surrogate": SURROGATE,
}


def message(message_id: str = "m", *, queue: str = "q", actor: str = "a", **fields: Any) -> Record:
    fields.setdefault("body", message_id.encode("utf-8", "replace"))
    return Record(message_id, queue, actor, **fields)


def ids(records: Sequence[Record]) -> list[str]:
    return [record.message_id for record in records]


def done(record: Record) -> Outcome:
    return Outcome(record)


def dead(record: Record, reason: str = "it failed") -> Outcome:
    return Outcome(record, DEAD, reason=reason)


def retry(record: Record, **changes: Any) -> Outcome:
    return Outcome(record, RETRY, retry=replace(record, **changes))


def full_outcome(record: Record, kind: str = DONE) -> Outcome:
    """An outcome with something of everything that it can carry."""
    return Outcome(
        record,
        kind,
        puts=[message("follow-up")],
        values=[Value("result", b"42", HOUR)],
        counts=[Count("group", 1, HOUR, [message("group callback")])],
        events=[Event("finished", b"m")],
    )


def nothing_was_carried(store: Store, now: int) -> bool:
    return (
        not {"follow-up", "group callback"} & set(ids(store.browse(EVERYTHING)))
        and store.get_value("result", now=now) is None
        and store.events([], after=0) == []
        and store.add("group", 0, HOUR, now=now)
    )


def take(store: Store, worker: int, now: int, limit: int = 1, **claim: Any) -> list[Record]:
    return store.claim(Claim(worker, claim.pop("queues", ["q"]), limit, **claim), now=now)


def take_one(store: Store, worker: int, now: int) -> Record:
    (record,) = take(store, worker, now)
    return record


def states(store: Store) -> dict[str, str]:
    return {record.message_id: record.state for record in store.browse(EVERYTHING)}


def run_in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """What `work` returns for each number, all started at once."""
    start = threading.Barrier(count)

    def run(number: int) -> T:
        start.wait(5)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@contextmanager
def another_thread(work: Callable[[], T]) -> Iterator[Future[T]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


@contextmanager
def promptly() -> Iterator[None]:
    """Fail if the block takes as long as only a missed wake-up can."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 5


def sweep_all(store: Store, now: int) -> list[int]:
    """How much each call removed, up to the one that found nothing."""
    batches = []
    while swept := store.sweep(now=now):
        batches.append(swept)
    return batches


class StoreContract:
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        raise NotImplementedError("override this fixture with the store to be tested")

    @pytest.fixture
    def now(self) -> int:
        return 1_700_000_000_000

    @pytest.fixture
    def worker(self, store: Store, now: int) -> int:
        return self.join(store, now)

    def join(self, store: Store, now: int, *, queues: Sequence[str] = (), actors: Sequence[str] = ()) -> int:
        """Sign on as a worker that lives until the test is over."""
        return store.join(WorkerRecord("worker", 1, queues, actors), now=now)

    # -- order

    def test_messages_of_one_priority_are_claimed_in_the_order_they_were_put(
        self, store: Store, worker: int, now: int
    ) -> None:
        names = [f"m{n}" for n in range(1000)]
        for n in range(0, 500, 50):
            store.put([message(name) for name in names[n : n + 50]], now=now)
        for name in names[500:]:
            store.put([message(name)], now=now + 1)
        claimed = [ids(take(store, worker, now + 1, limit=size)) for size in (1, 99, 400, 1000)]
        assert list(chain(*claimed)) == names

    def test_a_lower_priority_number_goes_first_over_all_queues(self, store: Store, worker: int, now: int) -> None:
        for n, (queue, priority) in enumerate([("p", 5), ("q", 0), ("p", 0), ("q", -1), ("p", -1)]):
            store.put([message(f"m{n}", queue=queue, priority=priority)], now=now + n)
        claimed = take(store, worker, now + 9, limit=9, queues=["q", "p"])
        assert ids(claimed) == ["m3", "m4", "m1", "m2", "m0"]

    def test_equal_priorities_are_first_in_first_out_over_all_queues(
        self, store: Store, worker: int, now: int
    ) -> None:
        for n in range(20):
            store.put([message(f"m{n}", queue=f"q{n % 3}")], now=now)
        queues = ["q2", "q0", "q1"]
        claimed = [take(store, worker, now, limit=3, queues=queues) for _ in range(7)]
        assert ids(list(chain(*claimed))) == [f"m{n}" for n in range(20)]

    def test_a_clock_that_jumps_back_does_not_reorder(self, store: Store, worker: int, now: int) -> None:
        for n, moment in enumerate([now, now - HOUR, now - 2 * HOUR, now]):
            store.put([message(f"m{n}")], now=moment)
        assert ids(take(store, worker, now - HOUR, limit=9)) == ["m0", "m1", "m2", "m3"]

    def test_delayed_messages_are_claimed_in_the_order_of_their_etas(
        self, store: Store, worker: int, now: int
    ) -> None:
        etas = list(range(1, 201))
        random.Random(1).shuffle(etas)
        store.put([message(f"m{eta}", eta=now + eta) for eta in etas], now=now)
        assert take(store, worker, now, limit=999) == []
        assert ids(take(store, worker, now + 10, limit=999)) == [f"m{n}" for n in range(1, 11)]
        assert ids(take(store, worker, now + 200, limit=999)) == [f"m{n}" for n in range(11, 201)]

    def test_a_message_whose_eta_has_come_stands_among_the_others_by_its_eta(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message("before")], now=now)
        store.put([message("due", eta=now + 50), message("urgent", eta=now + 60, priority=-1)], now=now)
        store.put([message("after")], now=now + 100)
        claimed = take(store, worker, now + 100, limit=9)
        assert ids(claimed) == ["urgent", "before", "due", "after"]

    def test_an_eta_that_is_past_does_not_delay_nor_overtake(self, store: Store, worker: int, now: int) -> None:
        store.put([message("first")], now=now)
        store.put([message("past", eta=now - HOUR), message("present", eta=now)], now=now)
        assert set(states(store).values()) == {WAITING}
        assert ids(take(store, worker, now, limit=9)) == ["first", "past", "present"]

    # -- put and claim

    def test_put_gives_numbers_in_order_and_leaves_the_callers_record_alone(self, store: Store, now: int) -> None:
        given = message("a", created_at=now - 5)
        store.put([given, message("b")], now=now)
        given.body = b"changed later"
        a, b = store.browse(EVERYTHING)
        assert (a.message_id, a.body, a.created_at) == ("a", b"a", now - 5)
        assert (b.message_id, b.created_at) == ("b", now)
        assert 0 < a.sequence < b.sequence
        assert given.sequence == 0

    def test_every_field_that_a_sender_writes_comes_back(self, store: Store, worker: int, now: int) -> None:
        sender: dict[str, Any] = {"body": b"\0\xff", "encoder": "json", "wire": 7, "priority": -3, "eta": now - 1}
        sender |= {"root": "r", "unique_key": "u", "created_at": now - 9}
        store.put([message(**sender)], now=now)
        got = take_one(store, worker, now)
        assert {name: getattr(got, name) for name in sender} == sender
        assert (got.message_id, got.queue, got.actor) == ("m", "q", "a")

    def test_a_claim_marks_what_it_takes(self, store: Store, worker: int, now: int) -> None:
        store.put([message()], now=now)
        got = take_one(store, worker, now + 5)
        assert (got.state, got.owner, got.claimed_at, got.attempts) == (RUNNING, worker, now + 5, 1)
        assert store.browse(EVERYTHING) == [got]
        assert take(store, worker, now + 5) == []

    def test_a_claim_takes_no_more_than_its_limit(self, store: Store, worker: int, now: int) -> None:
        store.put([message(f"m{n}") for n in range(5)], now=now)
        assert take(store, worker, now, limit=0) == []
        assert ids(take(store, worker, now, limit=3)) == ["m0", "m1", "m2"]
        assert ids(take(store, worker, now, limit=3)) == ["m3", "m4"]

    def test_a_claim_takes_nothing_of_other_queues(self, store: Store, worker: int, now: int) -> None:
        store.put([message(queue="other"), message(queue="late", eta=now + 1)], now=now)
        assert take(store, worker, now + 1, limit=9) == []
        assert take(store, worker, now + 1, limit=9, queues=[]) == []

    def test_a_queue_that_is_named_twice_is_one_queue(self, store: Store, worker: int, now: int) -> None:
        store.put([message(f"m{n}") for n in range(5)], now=now)
        assert ids(take(store, worker, now, limit=3, queues=["q", "q"])) == ["m0", "m1", "m2"]

    def test_a_claim_leaves_the_actors_that_it_skips(self, store: Store, worker: int, now: int) -> None:
        actors = ["slow", "a", "slow", "b", "slower"]
        store.put([message(f"{n}", actor=actor) for n, actor in enumerate(actors)], now=now)
        store.put([message("late", actor="slow", eta=now + 1)], now=now)
        skip = frozenset({"slow", "slower"})
        assert ids(take(store, worker, now + 1, limit=9, skip=skip)) == ["1", "3"]
        assert ids(take(store, worker, now + 1, limit=9)) == ["0", "2", "4", "late"]

    def test_a_suspect_goes_before_all_and_alone(self, store: Store, worker: int, now: int) -> None:
        store.put([message("urgent", priority=-9), message("plain")], now=now)
        store.put([message("suspect", lane=ALONE), message("another", lane=ALONE)], now=now)
        claims = [ids(take(store, worker, now, limit=9)) for _ in range(3)]
        assert claims == [["suspect"], ["another"], ["urgent", "plain"]]

    def test_a_suspect_of_a_skipped_actor_is_left(self, store: Store, worker: int, now: int) -> None:
        store.put([message("suspect", lane=ALONE), message("plain", actor="b")], now=now)
        assert ids(take(store, worker, now, limit=9, skip=frozenset({"a"}))) == ["plain"]

    @pytest.mark.parametrize("nonsense", [{"body": None}, {"body": "text"}, {"queue": None}])
    def test_a_put_with_one_bad_record_stores_none(
        self, store: Store, worker: int, now: int, nonsense: dict[str, Any]
    ) -> None:
        batch = [message("a"), replace(message("b"), **nonsense), message("c")]
        with pytest.raises(REFUSED):
            store.put(batch, now=now)
        assert store.counts() == {}
        store.put([message("d")], now=now)
        assert ids(take(store, worker, now, limit=9)) == ["d"]

    def test_messages_may_share_an_id(self, store: Store, worker: int, now: int) -> None:
        store.put([message("twin", body=b"1"), message("twin", body=b"2")], now=now)
        store.finish([done(take_one(store, worker, now))], now=now)
        assert [twin.body for twin in store.browse(Selection(message_ids=["twin"]))] == [b"2"]

    @pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
    def test_no_name_means_anything_to_the_store(self, store: Store, worker: int, now: int, text: str) -> None:
        hostile = message(text, body=b"", queue=text, actor=text, root=text, unique_key=text)
        try:
            store.put([hostile, message("innocent", actor="b")], now=now)
        except (StoreError, UnicodeError):
            assert text == SURROGATE
            assert store.counts() == {}
            return
        queues, everyone = [text, "q"], Selection(None, [text], [text], [text])
        assert store.counts() == {text: {WAITING: 1}, "q": {WAITING: 1}}
        assert [found.root for found in store.browse(everyone)] == [text]
        assert ids(take(store, worker, now, 9, queues=queues, skip=frozenset({text}))) == ["innocent"]
        assert store.wait([text], now=now, timeout=LONG)
        (claimed,) = take(store, worker, now, 9, queues=queues)
        assert (claimed.message_id, claimed.queue, claimed.actor) == (text, text, text)
        store.finish([dead(claimed, text)], now=now)
        assert [found.reason for found in store.browse(everyone)] == [text]
        assert (store.move(everyone, WAITING, now=now), store.purge(everyone)) == (1, 1)

    @pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
    def test_no_key_means_anything_to_the_store(self, store: Store, now: int, text: str) -> None:
        try:
            store.set_values([Value(text, b"v", HOUR)], now=now)
        except (StoreError, UnicodeError):
            assert text == SURROGATE
            return
        assert store.get_value(text, now=now) == b"v"
        assert store.delete_values([text]) == 1
        assert store.add(text, 1, HOUR, now=now)
        assert not store.incr_and_sum(text, lambda: [text], 1, 1, HOUR, now=now)
        store.put_schedule(Schedule(text, now, b"s"))
        assert store.due_schedules(now=now) == [Schedule(text, now, b"s")]
        assert store.delete_schedule(text)

    @pytest.mark.parametrize("size", [0, 1, 5_000, 1_000_000, 10_000_000])
    def test_a_body_of_any_size_comes_back_as_it_was(self, store: Store, worker: int, now: int, size: int) -> None:
        body, other = random.Random(size).randbytes(size), b"short" * (1 if size > 1000 else 9999)
        store.put([message("a", body=body), message("b", body=other)], now=now)
        assert [record.body for record in store.browse(EVERYTHING)] == [body, other]
        a, b = take(store, worker, now, limit=2)
        assert (a.body, b.body) == (body, other)
        store.finish([retry(a, body=other), retry(b, body=body)], now=now)
        a, b = take(store, worker, now, limit=2)
        assert (a.body, b.body) == (other, body)
        store.finish([done(a), dead(b)], now=now)
        assert [record.body for record in store.browse(EVERYTHING)] == [body]

    # -- finish

    def test_done_removes_the_message(self, store: Store, worker: int, now: int) -> None:
        store.put([message()], now=now)
        store.finish([done(take_one(store, worker, now))], now=now)
        assert store.counts() == {}
        assert store.browse(EVERYTHING) == []

    def test_finish_claims_the_next_in_the_same_call(self, store: Store, worker: int, now: int) -> None:
        store.put([message("a"), message("b")], now=now)
        outcome = Outcome(take_one(store, worker, now), puts=[message("c", priority=-1)])
        claimed = store.finish([outcome], now=now, claim=Claim(worker, ["q"], limit=9))
        assert ids(claimed) == ["c", "b"]
        assert store.finish([done(record) for record in claimed], now=now) == []
        assert store.counts() == {}

    def test_finish_with_nothing_to_say_changes_nothing(self, store: Store, now: int) -> None:
        store.put([message()], now=now)
        assert store.finish([], now=now) == []
        assert states(store) == {"m": WAITING}

    def test_release_gives_a_message_back_uncharged_to_its_old_place(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message(name) for name in "abcd"], now=now)
        _, b, c = take(store, worker, now, limit=3)
        store.finish([Outcome(c, RELEASE), Outcome(b, RELEASE)], now=now + 5)
        b_again, *others = take(store, worker, now + 5, limit=9)
        assert ids([b_again, *others]) == ["b", "c", "d"]
        assert (b_again.attempts, b_again.position) == (1, b.position)
        assert b_again.claim != b.claim or b_again.owner != b.owner
        assert states(store)["a"] == RUNNING

    def test_a_retry_without_eta_goes_to_the_end(self, store: Store, worker: int, now: int) -> None:
        store.put([message("a"), message("b")], now=now)
        store.finish([retry(take_one(store, worker, now))], now=now)
        assert ids(take(store, worker, now, limit=9)) == ["b", "a"]

    def test_a_retry_with_an_eta_waits_for_it(self, store: Store, worker: int, now: int) -> None:
        store.put([message("a")], now=now)
        store.finish([retry(take_one(store, worker, now), eta=now + 50)], now=now)
        store.put([message("b")], now=now + 20)
        assert states(store) == {"a": DELAYED, "b": WAITING}
        assert ids(take(store, worker, now + 49)) == ["b"]
        store.put([message("c")], now=now + 60)
        assert ids(take(store, worker, now + 60, limit=9)) == ["a", "c"]

    def test_a_retry_takes_what_was_sent_anew_and_keeps_what_became_of_it(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message("a", created_at=now - HOUR)], now=now)
        first = take_one(store, worker, now)
        anew: dict[str, Any] = {
            "body": b"2",
            "queue": "r",
            "actor": "b",
            "encoder": "json",
            "wire": 2,
            "priority": 4,
        }
        anew |= {"root": "r", "unique_key": "u", "eta": now + 9, "lane": ALONE}
        resent = message("ignored", created_at=now, **anew)
        store.finish([Outcome(first, RETRY, retry=resent)], now=now)
        (again,) = take(store, worker, now + 9, queues=["r"])
        assert {name: getattr(again, name) for name in anew} == anew
        assert (again.message_id, again.sequence) == ("a", first.sequence)
        assert (again.created_at, again.attempts) == (now - HOUR, 2)
        assert store.counts() == {"r": {RUNNING: 1}}

    def test_a_dead_letter_keeps_its_body_and_tells_why_and_when(self, store: Store, worker: int, now: int) -> None:
        store.put([message(body=b"precious")], now=now)
        store.finish([dead(take_one(store, worker, now), "ValueError: no")], now=now + 7)
        (letter,) = store.browse(Selection(states=[DEAD]))
        assert (letter.body, letter.reason, letter.died_at) == (
            b"precious",
            "ValueError: no",
            now + 7,
        )
        assert letter.attempts == 1
        assert take(store, worker, now + HOUR) == []

    @pytest.mark.parametrize("kind", [DONE, DEAD, RELEASE])
    def test_what_an_outcome_carries_is_written_with_it(
        self, store: Store, worker: int, now: int, kind: str
    ) -> None:
        store.put([message()], now=now)
        outcome = full_outcome(take_one(store, worker, now), kind)
        store.finish([outcome], now=now)
        assert set(ids(store.browse(EVERYTHING))) - {"m"} == {"follow-up", "group callback"}
        assert store.get_value("result", now=now) == b"42"
        assert [event for _, event in store.events([], after=0)] == [Event("finished", b"m")]
        assert outcome == full_outcome(outcome.record, kind)

    def test_outcomes_of_one_call_are_written_in_order(self, store: Store, worker: int, now: int) -> None:
        store.put([message("a"), message("b")], now=now)
        claimed = take(store, worker, now, limit=2)
        store.finish(
            [
                Outcome(
                    record,
                    puts=[message(f"{record.message_id}{n}") for n in range(2)],
                    values=[Value("last", record.body, HOUR)],
                    events=[Event("t", record.body)],
                )
                for record in claimed
            ],
            now=now,
        )
        assert ids(take(store, worker, now, limit=9)) == ["a0", "a1", "b0", "b1"]
        assert store.get_value("last", now=now) == b"b"
        assert [event.data for _, event in store.events([], after=0)] == [b"a", b"b"]

    def test_the_step_that_completes_a_count_stores_its_puts_and_ends_it(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message(f"m{n}") for n in range(6)], now=now)
        stored, reached = [], []
        for record in take(store, worker, now, limit=6):
            step = Count("group", 3, HOUR, [message(f"after {record.message_id}")])
            store.finish([Outcome(record, counts=[step])], now=now)
            stored.append(ids(take(store, worker, now, limit=9)))
            reached.append(step.reached)
        assert stored == [[], [], ["after m2"], [], [], ["after m5"]]
        assert reached == [False, False, True, False, False, True]

    def test_a_count_expires_after_its_first_step(self, store: Store, worker: int, now: int) -> None:
        store.put([message("a"), message("b")], now=now)
        for record, moment in zip(take(store, worker, now, 2), [now, now + 101], strict=True):
            step = Count("group", 2, 100, [message("complete")])
            store.finish([Outcome(record, counts=[step])], now=moment)
        assert store.counts() == {}

    @pytest.mark.parametrize("kind", [DONE, DEAD, RELEASE, RETRY])
    @pytest.mark.parametrize("how", ["done", "dead", "retry", "release", "reclaimed", "left"])
    def test_an_outcome_whose_claim_has_ended_is_left_out_with_all_it_carries(
        self, store: Store, worker: int, now: int, how: str, kind: str
    ) -> None:
        store.put([message()], now=now)
        record = take_one(store, worker, now)
        if how == "left":
            store.leave(worker, now=now)
        else:
            endings = {"done": done(record), "dead": dead(record), "retry": retry(record)}
            store.finish([endings.get(how, Outcome(record, RELEASE))], now=now)
        if how == "reclaimed":
            take_one(store, worker, now)
        before = store.browse(EVERYTHING)
        late = replace(full_outcome(record, kind), retry=record if kind == RETRY else None)
        assert store.finish([late], now=now) == []
        assert store.browse(EVERYTHING) == before
        assert nothing_was_carried(store, now)

    def test_a_claim_that_is_finished_twice_in_one_call_counts_once(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message()], now=now)
        record = take_one(store, worker, now)
        store.finish([Outcome(record, puts=[message(name)]) for name in "ab"], now=now)
        assert ids(store.browse(EVERYTHING)) == ["a"]

    def test_a_stale_outcome_does_not_disturb_the_others_of_its_call(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message("a"), message("b"), message("c")], now=now)
        a, b, c = take(store, worker, now, limit=3)
        store.finish([done(b)], now=now)
        store.finish([Outcome(record, puts=[message("x")]) for record in (a, b, c)], now=now)
        assert ids(store.browse(EVERYTHING)) == ["x", "x"]

    def test_of_many_threads_that_finish_one_claim_one_is_heard(self, store: Store, worker: int, now: int) -> None:
        store.put([message()], now=now)
        record = take_one(store, worker, now)
        outcomes = [Outcome(record, puts=[message(f"from {n}")]) for n in range(8)]
        run_in_threads(8, lambda n: store.finish([outcomes[n]], now=now))
        assert store.counts() == {"q": {WAITING: 1}}

    @pytest.mark.parametrize(
        "bad",
        [
            {"puts": [message(body=None)]},
            {"values": [Value("k", None, HOUR)]},  # type: ignore[arg-type]
            {"counts": [Count("k", 1, HOUR, [message(body=None)])]},
            {"events": [Event("t", None)]},  # type: ignore[arg-type]
        ],
        ids=lambda bad: next(iter(bad)),
    )
    def test_a_finish_that_cannot_be_written_whole_is_not_written_at_all(
        self, store: Store, worker: int, now: int, bad: dict[str, Any]
    ) -> None:
        store.put([message("a"), message("b")], now=now)
        a, b = take(store, worker, now, limit=2)
        with pytest.raises(REFUSED):
            store.finish([full_outcome(a), Outcome(b, **bad)], now=now)
        assert states(store) == {"a": RUNNING, "b": RUNNING}
        assert nothing_was_carried(store, now)
        store.finish([done(a), done(b)], now=now)
        assert store.counts() == {}

    def test_sixteen_threads_claim_each_message_exactly_once(self, store: Store, worker: int, now: int) -> None:
        store.put([message(f"m{n}") for n in range(2000)], now=now)
        claim = Claim(worker, ["q"], limit=7)

        def drain(_: int) -> list[str]:
            seen, claimed = [], store.claim(claim, now=now)
            while claimed:
                seen += ids(claimed)
                claimed = store.finish([done(each) for each in claimed], now=now, claim=claim)
            return seen

        seen = list(chain(*run_in_threads(16, drain)))
        assert sorted(seen) == sorted(f"m{n}" for n in range(2000))
        assert store.counts() == {}

    # -- wait

    def test_wait_returns_at_once_when_there_is_something(self, store: Store, now: int) -> None:
        store.put([message(), message(queue="r", eta=now - 1)], now=now)
        store.put([message(queue="s", lane=ALONE)], now=now)
        with promptly():
            assert all(store.wait([queue], now=now, timeout=LONG) for queue in "qrs")

    def test_wait_ends_when_its_time_is_over(self, store: Store, now: int) -> None:
        store.put([message(queue="other"), message(actor="skipped")], now=now)
        started = time.monotonic()
        assert not store.wait(["q"], now=now, timeout=50, skip=lambda: frozenset({"skipped"}))
        assert not store.wait(["q"], now=now, timeout=0, skip=lambda: frozenset({"skipped"}))
        assert 0.045 < time.monotonic() - started < 5

    def test_wait_asks_whom_to_skip_when_a_wake_is_heard_already(self, store: Store, now: int) -> None:
        """So whoever makes room for an actor and then wakes all is never overlooked."""
        asked: list[str] = []

        def skip() -> frozenset[str]:
            asked.append("skip")
            store.wake()
            return frozenset({"a"})

        store.put([message(actor="a")], now=now)
        with promptly():
            store.wait(["q"], now=now, timeout=LONG, skip=skip)
        assert asked

    def test_wait_wakes_on_each_put_of_another_thread(self, store: Store, worker: int, now: int) -> None:
        wanted = threading.Semaphore(0)

        def consume() -> list[str]:
            seen: list[str] = []
            while len(seen) < 20:
                wanted.release()
                store.wait(["p", "q"], now=now, timeout=LONG)
                seen += ids(take(store, worker, now, queues=["p", "q"]))
            return seen

        with promptly(), another_thread(consume) as consumer:
            for n in range(20):
                wanted.acquire(timeout=5)
                store.put([message(f"m{n}", queue="pq"[n % 2])], now=now)
            assert consumer.result(5) == [f"m{n}" for n in range(20)]

    def test_put_tells_its_caller_before_it_wakes_who_sleeps(self, store: Store, worker: int, now: int) -> None:
        sleeps: list[bool] = []

        def look() -> None:
            time.sleep(0.02)
            sleeps.append(not waiter.done())

        with promptly():
            while not any(sleeps):  # until it was asleep, as it may not be yet
                assert len(sleeps) < 100
                with another_thread(lambda: store.wait(["q"], now=now, timeout=LONG)) as waiter:
                    time.sleep(0.01)
                    store.put([message()], now=now, on_stored=look)
                    assert waiter.result(5)
                assert len(take(store, worker, now)) == 1

    def test_put_wakes_who_sleeps_even_if_its_caller_cannot_be_told(self, store: Store, now: int) -> None:
        def fail() -> None:
            raise RuntimeError("on purpose")

        with promptly(), another_thread(lambda: store.wait(["q"], now=now, timeout=LONG)) as waiter:
            with pytest.raises(RuntimeError, match="on purpose"):
                store.put([message()], now=now, on_stored=fail)
            assert waiter.result(5)

    @pytest.mark.parametrize("kind", [RELEASE, RETRY, "move", "leave", "follow-up"])
    def test_wait_wakes_on_whatever_brings_a_message(self, store: Store, worker: int, now: int, kind: str) -> None:
        store.put([message("a")], now=now)
        record = take_one(store, worker, now)
        if kind == "move":
            store.finish([dead(record)], now=now)
        with promptly(), another_thread(lambda: store.wait(["q"], now=now, timeout=LONG)) as waiter:
            if kind == "move":
                store.move(EVERYTHING, WAITING, now=now)
            elif kind == "leave":
                store.leave(worker, now=now)
            elif kind == "follow-up":
                store.finish([Outcome(record, puts=[message("b")])], now=now)
            else:
                store.finish([Outcome(record, kind, retry=record)], now=now)
            waiter.result(5)
        assert len(take(store, self.join(store, now), now)) == 1

    def test_wait_returns_at_the_next_eta(self, store: Store, worker: int, now: int) -> None:
        store.put([message("later", eta=now + HOUR), message("soon", eta=now + 100)], now=now)
        started = time.monotonic()
        with promptly():
            assert store.wait(["q"], now=now, timeout=LONG)
        assert time.monotonic() - started > 0.09
        assert ids(take(store, worker, now + 100)) == ["soon"]

    def test_a_sleeper_learns_of_an_earlier_eta(self, store: Store, worker: int, now: int) -> None:
        store.put([message("later", eta=now + HOUR)], now=now)
        started = time.monotonic()

        def consume() -> list[str]:
            claimed: list[Record] = []
            while not claimed:
                moment = now + int((time.monotonic() - started) * 1000)
                store.wait(["q"], now=moment, timeout=LONG)
                moment = now + int((time.monotonic() - started) * 1000)
                claimed = take(store, worker, moment)
            return ids(claimed)

        with promptly(), another_thread(consume) as consumer:
            store.put([message("soon", eta=now + 100)], now=now)
            assert consumer.result(5) == ["soon"]

    def test_wake_ends_every_wait_for_messages_and_none_for_a_value(self, store: Store, now: int) -> None:
        with promptly(), ThreadPoolExecutor(4) as pool:
            for_value = pool.submit(store.wait_value, "k", clock=lambda: now, timeout=LONG)
            sleepers: list[Future[object]] = [
                pool.submit(store.wait, ["q"], now=now, timeout=LONG),
                pool.submit(store.wait, ["r"], now=now, timeout=LONG),
            ]
            while wait(sleepers, timeout=0.01).not_done:
                store.wake()
            assert not for_value.done()
            store.set_values([Value("k", b"there", 1000)], now=now)
            assert for_value.result() == b"there"

    # -- what a person sees and does

    def test_counts_tell_each_state_of_each_queue(self, store: Store, worker: int, now: int) -> None:
        assert store.counts() == {}
        store.put([message(f"m{n}") for n in range(5)], now=now)
        store.put([message("r", queue="r", eta=now + 1), message("h", queue="r")], now=now)
        a, b, *_ = take(store, worker, now, limit=3)
        store.finish([dead(a), done(b)], now=now)
        store.move(Selection(message_ids=["h"]), HELD, now=now)
        store.move(Selection(message_ids=["m4"]), CANCELLED, now=now)
        assert store.counts() == {
            "q": {WAITING: 1, RUNNING: 1, DEAD: 1, CANCELLED: 1},
            "r": {DELAYED: 1, HELD: 1},
        }

    def test_browse_pages_in_order_of_sequence(self, store: Store, now: int) -> None:
        names = [f"m{n}" for n in range(25)]
        store.put([message(name, priority=-n) for n, name in enumerate(names)], now=now)
        pages: list[list[Record]] = [store.browse(EVERYTHING, limit=10)]
        while pages[-1]:
            pages.append(store.browse(EVERYTHING, limit=10, after=pages[-1][-1].sequence))
        assert [ids(page) for page in pages] == [names[:10], names[10:20], names[20:], []]

    def test_a_selection_means_what_matches_all_its_fields(self, store: Store, worker: int, now: int) -> None:
        for name in ("q a", "q b", "r a", "r b"):
            store.put([message(name, queue=name[0], actor=name[2])], now=now)
        (first,) = take(store, worker, now)
        second, third, fourth = store.browse(EVERYTHING)[1:]

        def found(**fields: Any) -> list[str]:
            return ids(store.browse(Selection(**fields)))

        assert found() == ["q a", "q b", "r a", "r b"]
        assert found(states=[RUNNING, DEAD]) == ["q a"]
        assert found(queues=["r"]) == ["r a", "r b"]
        assert found(queues=["r", "q"], actors=["b"]) == ["q b", "r b"]
        assert found(message_ids=["r b", "q b", "nobody", "q b"]) == ["q b", "r b"]
        assert found(sequences=[third.sequence, first.sequence, 10**9]) == ["q a", "r a"]
        assert found(sequences=[second.sequence, fourth.sequence], actors=["a"]) == []
        assert found(states=[DEAD]) == []
        assert ids(store.browse(Selection(actors=["a"]), after=first.sequence)) == ["r a"]

    def test_browse_hands_out_copies(self, store: Store, now: int) -> None:
        store.put([message()], now=now)
        (seen,) = store.browse(EVERYTHING)
        seen.state = seen.queue = "changed"
        assert store.counts() == {"q": {WAITING: 1}}
        assert states(store) == {"m": WAITING}

    def put_one_in(self, state: str, store: Store, worker: int, now: int) -> Record:
        store.put([message("m", eta=now + HOUR if state == DELAYED else None)], now=now)
        if state in (HELD, CANCELLED):
            store.move(EVERYTHING, state, now=now)
        if state in (RUNNING, DEAD):
            record = take_one(store, worker, now)
            store.finish([dead(record)] if state == DEAD else [], now=now)
        (record,) = store.browse(EVERYTHING)
        assert record.state == state
        return record

    @pytest.mark.parametrize("source", [DELAYED, DEAD, HELD, CANCELLED])
    def test_what_is_moved_to_waiting_runs_without_delay_after_the_others(
        self, store: Store, worker: int, now: int, source: str
    ) -> None:
        self.put_one_in(source, store, worker, now)
        store.put([message("other")], now=now)
        assert store.move(Selection(message_ids=["m"]), WAITING, now=now) == 1
        other, moved = take(store, worker, now, limit=9)
        assert ids([other, moved]) == ["other", "m"]
        assert (moved.attempts, moved.reason, moved.died_at) == (1, None, None)

    @pytest.mark.parametrize("target", [HELD, CANCELLED])
    @pytest.mark.parametrize("source", [WAITING, DELAYED])
    def test_what_is_set_aside_is_not_claimed(
        self, store: Store, worker: int, now: int, source: str, target: str
    ) -> None:
        self.put_one_in(source, store, worker, now)
        assert store.move(EVERYTHING, target, now=now) == 1
        assert store.counts() == {"q": {target: 1}}
        assert take(store, worker, now + 2 * HOUR) == []
        assert not store.wait(["q"], now=now + 2 * HOUR, timeout=1)

    @pytest.mark.parametrize("source", [WAITING, DELAYED, HELD])
    def test_a_cancelled_message_is_never_claimed_and_carries_its_reason(
        self, store: Store, worker: int, now: int, source: str
    ) -> None:
        record = self.put_one_in(source, store, worker, now)
        outcome = Outcome(record, CANCELLED, "not wanted", values=[Value("k", b"v", HOUR)], puts=[message("other")])
        store.finish([outcome], now=now)
        assert outcome.written
        assert states(store) == {"m": CANCELLED, "other": WAITING}
        (cancelled,) = store.browse(Selection(states=[CANCELLED]))
        assert (cancelled.reason, cancelled.died_at) == ("not wanted", now)
        assert store.get_value("k", now=now) == b"v"
        assert ids(take(store, worker, now + 2 * HOUR, limit=9)) == ["other"]

    def test_who_claims_a_message_first_has_it_whoever_saw_it_waiting(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message()], now=now)
        (seen,) = store.browse(EVERYTHING)
        claimed = take_one(store, worker, now)
        late = Outcome(seen, CANCELLED, "too late", values=[Value("k", b"v", HOUR)])
        store.finish([late], now=now)
        assert not late.written
        assert store.get_value("k", now=now) is None
        store.finish([Outcome(claimed)], now=now)
        assert store.browse(EVERYTHING) == []

    @pytest.mark.parametrize("source", [DEAD, CANCELLED])
    def test_what_does_not_wait_is_not_cancelled(self, store: Store, worker: int, now: int, source: str) -> None:
        before = self.put_one_in(source, store, worker, now)
        outcome = Outcome(before, CANCELLED, "too late", values=[Value("k", b"v", HOUR)])
        store.finish([outcome], now=now)
        assert not outcome.written
        assert store.browse(EVERYTHING) == [before]
        assert store.get_value("k", now=now) is None

    def test_a_cancelled_message_that_is_moved_back_starts_anew(self, store: Store, worker: int, now: int) -> None:
        record = self.put_one_in(WAITING, store, worker, now)
        told = Value("k", b"cancelled", HOUR, until_revived="m")
        store.finish([Outcome(record, CANCELLED, "not wanted", values=[told])], now=now)
        assert store.move(EVERYTHING, WAITING, now=now) == 1
        assert store.get_value("k", now=now) is None
        (again,) = take(store, worker, now)
        assert (again.reason, again.died_at, again.attempts) == (None, None, 1)

    @pytest.mark.parametrize(
        ("source", "target"),
        [(RUNNING, state) for state in STATES]
        + [(DEAD, state) for state in (DELAYED, RUNNING, DEAD, HELD, CANCELLED)]
        + [(WAITING, state) for state in (DELAYED, RUNNING, DEAD, "nonsense")]
        + [(HELD, state) for state in (DELAYED, RUNNING, DEAD)]
        + [(CANCELLED, state) for state in (DELAYED, RUNNING, DEAD, HELD)],
    )
    def test_nothing_is_moved_against_the_arrows(
        self, store: Store, worker: int, now: int, source: str, target: str
    ) -> None:
        before = self.put_one_in(source, store, worker, now)
        assert store.move(EVERYTHING, target, now=now) == 0
        assert store.browse(EVERYTHING) == [before]

    def test_move_touches_only_what_is_selected(self, store: Store, worker: int, now: int) -> None:
        store.put([message(name) for name in "abc"], now=now)
        assert store.move(Selection(states=[WAITING], message_ids=["b"]), HELD, now=now) == 1
        assert store.move(Selection(states=[DEAD]), HELD, now=now) == 0
        assert ids(take(store, worker, now, limit=9)) == ["a", "c"]

    def test_a_message_may_be_moved_to_and_fro(self, store: Store, worker: int, now: int) -> None:
        store.put([message(f"m{n}") for n in range(200)], now=now)
        for _ in range(3):
            assert store.move(EVERYTHING, HELD, now=now) == 200
            assert store.move(EVERYTHING, WAITING, now=now) == 200
        assert ids(take(store, worker, now, limit=999)) == [f"m{n}" for n in range(200)]

    def test_purge_removes_all_that_is_selected_but_what_runs(self, store: Store, worker: int, now: int) -> None:
        store.put([message(name) for name in ("running", "dead", "waiting", "kept")], now=now)
        store.put([message("delayed", eta=now + 1), message("held", priority=9)], now=now)
        running, letter = take(store, worker, now, limit=2)
        store.finish([dead(letter)], now=now)
        store.move(Selection(message_ids=["held"]), HELD, now=now)
        doomed = Selection(message_ids=["running", "dead", "waiting", "delayed", "held"])
        assert store.purge(doomed) == 4
        assert states(store) == {"running": RUNNING, "kept": WAITING}
        store.finish([done(running)], now=now)
        assert ids(take(store, worker, now + 1, limit=9)) == ["kept"]
        assert store.purge(Selection(states=[RUNNING])) == 0

    # -- workers

    def test_workers_are_listed_until_they_leave(self, store: Store, now: int) -> None:
        first = self.join(store, now, queues=["q"], actors=["a", "b"])
        second = self.join(store, now + 1)
        assert first != second
        one, two = store.workers()
        assert (one.id, list(one.queues), list(one.actors)) == (first, ["q"], ["a", "b"])
        assert (two.id, one.joined_at, two.joined_at) == (second, now, now + 1)
        store.leave(first, now=now)
        store.leave(first, now=now)
        assert [worker.id for worker in store.workers()] == [second]

    def test_who_leaves_gives_back_what_it_held_uncharged(self, store: Store, now: int) -> None:
        leaver, stayer = self.join(store, now), self.join(store, now)
        store.put([message(name) for name in "abc"], now=now)
        take(store, leaver, now), take(store, stayer, now)
        store.leave(leaver, now=now)
        assert states(store) == {"a": WAITING, "b": RUNNING, "c": WAITING}
        a, c = take(store, stayer, now, limit=9)
        assert (a.message_id, a.attempts, c.message_id) == ("a", 1, "c")

    def test_a_living_worker_is_not_reaped(self, store: Store, worker: int, now: int) -> None:
        store.put([message()], now=now)
        record = take_one(store, worker, now)
        assert store.reap(now=now + 1000 * HOUR) == 0
        assert store.browse(EVERYTHING) == [record]

    def test_who_joins_revives_the_dead_letters_of_actors_that_it_knows(
        self, store: Store, worker: int, now: int
    ) -> None:
        unknown = "ActorNotFound: nobody declares it"
        for name, reason in {"a": unknown, "b": unknown, "c": "ValueError: no"}.items():
            store.put([message(name, actor=name)], now=now)
            store.finish([dead(take_one(store, worker, now), reason)], now=now)
        self.join(store, now, queues=["elsewhere"], actors=["a", "b", "c"])
        self.join(store, now)
        assert set(states(store).values()) == {DEAD}
        self.join(store, now, queues=["q", "r"], actors=["a", "c"])
        assert states(store) == {"a": WAITING, "b": DEAD, "c": DEAD}
        self.join(store, now, actors=["b", "c"])
        assert states(store) == {"a": WAITING, "b": WAITING, "c": DEAD}
        for revived in take(store, worker, now, limit=9):
            assert (revived.attempts, revived.reason, revived.died_at) == (1, None, None)

    def test_a_message_whose_actor_has_just_been_declared_goes_back_with_nothing_that_its_burial_carries(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.put([message()], now=now)
        record = take_one(store, worker, now)
        self.join(store, now, actors=["a"])
        store.finish([replace(full_outcome(record, DEAD), reason="ActorNotFound: a")], now=now)
        assert states(store) == {"m": WAITING}
        assert nothing_was_carried(store, now)

    # -- values

    def test_a_value_is_kept_for_its_time_to_live(self, store: Store, now: int) -> None:
        store.set_values([Value("a", b"1", 1000), Value("b", b"", 9000)], now=now)
        assert store.get_value("a", now=now + 999) == b"1"
        assert store.get_value("a", now=now + 1001) is None
        assert store.get_value("b", now=now + 1001) == b""
        assert store.get_value("c", now=now) is None

    def test_a_value_takes_the_place_of_the_one_before(self, store: Store, now: int) -> None:
        store.set_values((Value("k", data, ttl) for data, ttl in [(b"1", 10), (b"2", HOUR)]), now=now)
        store.sweep(now=now + 11)
        assert store.get_value("k", now=now + 11) == b"2"
        store.set_values([Value("k", b"3", 10)], now=now)
        assert store.get_value("k", now=now + 11) is None

    @pytest.mark.parametrize("how", ["moved", "claimed by who knows its actor"])
    def test_what_is_kept_until_a_dead_letter_lives_again_is_forgotten_then(
        self, store: Store, worker: int, now: int, how: str
    ) -> None:
        store.put([message("m"), message("other")], now=now)
        for record in take(store, worker, now, limit=2):
            kept = [Value(f"{record.message_id}{n}", b"v", HOUR, until_revived=record.message_id) for n in "12"]
            store.finish([replace(dead(record, "ActorNotFound: a"), values=kept)], now=now)
        store.set_values([Value("m2", b"replaced", HOUR), Value("plain", b"v", HOUR)], now=now)
        if how == "moved":
            store.move(Selection(message_ids=["m"]), WAITING, now=now)
        else:
            store.move(Selection(message_ids=["other"]), WAITING, now=now)
            self.join(store, now, actors=["a"])
        left = [key for key in ("m1", "m2", "other1", "other2", "plain") if store.get_value(key, now=now)]
        assert left == (["m2", "other1", "other2", "plain"] if how == "moved" else ["m2", "plain"])

    def test_of_many_who_delete_one_key_one_hears_so(self, store: Store, now: int) -> None:
        store.set_values([Value(key, b"v", HOUR) for key in "abc"], now=now)
        assert store.delete_values(["a", "nobody", "b"]) == 2
        assert sum(run_in_threads(8, lambda _: store.delete_values(["c"]))) == 1
        assert store.delete_values([]) == 0

    def test_wait_value_does_not_wait_for_what_is_there(self, store: Store, now: int) -> None:
        store.set_values([Value("k", b"", HOUR)], now=now)
        with promptly():
            assert store.wait_value("k", clock=lambda: now, timeout=LONG) == b""

    def test_wait_value_ends_when_its_time_is_over(self, store: Store, now: int) -> None:
        store.set_values([Value("expired", b"v", 1)], now=now - 2)
        started = time.monotonic()
        assert store.wait_value("expired", clock=lambda: now, timeout=50) is None
        assert store.wait_value("missing", clock=lambda: now, timeout=0) is None
        assert 0.045 < time.monotonic() - started < 5

    def test_wait_value_wakes_when_another_thread_sets_it(self, store: Store, now: int) -> None:
        def wait_for(n: int) -> bytes | None:
            return store.wait_value(f"k{n % 2}", clock=lambda: now, timeout=LONG)

        with promptly(), ThreadPoolExecutor(4) as pool:
            waiters = [pool.submit(wait_for, n) for n in range(4)]
            store.set_values([Value("other", b"v", HOUR)], now=now)
            store.set_values([Value("k1", b"1", HOUR), Value("k0", b"0", HOUR)], now=now)
            assert [waiter.result(5) for waiter in waiters] == [b"0", b"1", b"0", b"1"]

    def test_wait_values_returns_with_what_is_there_of_what_it_waits_for(self, store: Store, now: int) -> None:
        keys = [f"k{n}" for n in range(1500)]
        assert store.wait_values([], clock=lambda: now, timeout=None) == {}
        assert store.wait_values(keys, clock=lambda: now, timeout=0) == {}
        store.set_values([Value("k3", b"3", HOUR), Value("other", b"", HOUR), Value("k1200", b"", HOUR)], now=now)
        with promptly():
            found = store.wait_values(keys, clock=lambda: now, timeout=None)
        assert found == {"k3": b"3", "k1200": b""}

    def test_who_waits_for_many_keys_wakes_when_one_of_them_is_set(self, store: Store, now: int) -> None:
        keys = [f"k{n}" for n in range(200)]

        def wait_for_any() -> dict[str, bytes]:
            return store.wait_values(keys, clock=lambda: now, timeout=None)

        with promptly(), another_thread(wait_for_any) as waiter:
            store.set_values([Value("other", b"v", HOUR)], now=now)
            store.set_values([Value("k77", b"v", HOUR)], now=now)
            assert waiter.result(5) == {"k77": b"v"}

    def test_who_waits_looks_for_keys_that_were_added_meanwhile_when_it_is_woken(
        self, store: Store, now: int
    ) -> None:
        keys = {"k0": None}

        def wait_for_any() -> dict[str, bytes]:
            return store.wait_values(keys, clock=lambda: now, timeout=None)

        store.set_values([Value("k1", b"v", HOUR)], now=now)
        with promptly(), another_thread(wait_for_any) as waiter:
            assert not waiter.done()
            keys["k1"] = None
            store.wake()
            assert waiter.result(5) == {"k1": b"v"}

    def test_wait_value_wakes_when_a_message_brings_it(self, store: Store, worker: int, now: int) -> None:
        store.put([message()], now=now)
        record = take_one(store, worker, now)
        with (
            promptly(),
            another_thread(lambda: store.wait_value("result", clock=lambda: now, timeout=LONG)) as waiter,
        ):
            store.finish([full_outcome(record)], now=now)
            assert waiter.result(5) == b"42"

    # -- counters

    def test_a_counter_is_added_once(self, store: Store, now: int) -> None:
        assert store.add("k", 3, HOUR, now=now)
        assert not store.add("k", 9, HOUR, now=now)
        assert store.incr("k", 1, 4, HOUR, now=now)
        assert not store.incr("k", 1, 4, HOUR, now=now)
        assert sum(run_in_threads(8, lambda n: store.add("other", n, HOUR, now=now))) == 1

    def test_a_counter_stays_within_its_bounds(self, store: Store, now: int) -> None:
        assert not store.decr("k", 1, 0, HOUR, now=now)
        assert not store.incr("k", 3, 2, HOUR, now=now)
        assert store.incr("k", 2, 2, HOUR, now=now)
        assert not store.incr("k", 1, 2, HOUR, now=now)
        assert store.decr("k", 2, 0, HOUR, now=now)
        assert not store.decr("k", 1, 0, HOUR, now=now)
        assert store.decr("k", 5, -5, HOUR, now=now)
        assert store.incr("k", 3, -2, HOUR, now=now)

    def test_of_32_threads_that_count_up_to_4_four_succeed(self, store: Store, now: int) -> None:
        assert sum(run_in_threads(32, lambda _: store.incr("k", 1, 4, HOUR, now=now))) == 4
        assert sum(run_in_threads(32, lambda _: store.decr("k", 1, 0, HOUR, now=now))) == 4

    def test_incr_and_sum_bounds_the_sum_over_the_keys(self, store: Store, now: int) -> None:
        store.add("a", 2, HOUR, now=now)
        store.add("expired", 100, 10, now=now - 20)

        def step(amount: int) -> bool:
            keys = ["a", "b", "expired", "missing"]
            return store.incr_and_sum("b", lambda: keys, amount, 5, HOUR, now=now)

        assert [step(1), step(3), step(2), step(1)] == [True, False, True, False]
        assert not store.incr("b", 1, 3, HOUR, now=now)

    def test_of_32_threads_that_share_a_sum_four_succeed(self, store: Store, now: int) -> None:
        keys = [f"k{n}" for n in range(3)]
        assert sum(run_in_threads(
            32, lambda n: store.incr_and_sum(keys[n % 3], lambda: keys, 1, 4, HOUR, now=now)
        )) == 4  # fmt: skip

    def test_a_counter_expires_and_begins_anew(self, store: Store, now: int) -> None:
        store.add("k", 4, 100, now=now)
        assert not store.incr("k", 1, 4, 100, now=now + 99)
        assert store.incr("k", 1, 4, 100, now=now + 101)
        assert store.incr("k", 1, 4, 100, now=now + 150)
        assert not store.add("k", 0, 100, now=now + 220), "each step prolongs it"
        assert store.add("k", 0, 100, now=now + 251)

    # -- places under a limit

    def test_no_more_places_are_taken_than_there_are(self, store: Store) -> None:
        assert [store.hold("k", 2) for _ in range(3)] == [True, True, False]
        assert store.hold("other", 1)
        assert store.hold("k", 3), "each call says itself how many there are"
        assert not store.hold("k", 1)

    def test_a_place_that_was_let_go_can_be_taken_again(self, store: Store) -> None:
        assert [store.hold("k", 2) for _ in range(2)] == [True, True]
        for _ in range(3):
            store.let_go("k")
            assert store.hold("k", 2)
            assert not store.hold("k", 2)

    def test_who_holds_nothing_gives_nothing_back(self, store: Store) -> None:
        store.let_go("k")
        assert store.hold("k", 1)
        for _ in range(3):
            store.let_go("other")
        assert not store.hold("k", 1)
        for _ in range(3):
            store.let_go("k")
        assert [store.hold("k", 1) for _ in range(2)] == [True, False]

    def test_of_32_threads_that_take_one_of_4_places_four_succeed(self, store: Store) -> None:
        assert sum(run_in_threads(32, lambda _: store.hold("k", 4))) == 4
        run_in_threads(4, lambda _: store.let_go("k"))
        assert sum(run_in_threads(32, lambda _: store.hold("k", 4))) == 4

    def test_places_and_counters_of_one_key_have_nothing_to_do_with_each_other(
        self, store: Store, now: int
    ) -> None:
        assert store.add("k", 7, HOUR, now=now)
        assert store.hold("k", 1)
        assert not store.decr("k", 1, 7, HOUR, now=now)
        assert not store.hold("k", 1)

    def test_no_time_that_passes_makes_a_place_free(self, store: Store, now: int) -> None:
        assert store.hold("k", 1)
        assert sweep_all(store, now + 1000 * DEAD_LETTER_TTL) == []
        store.reap(now=now + 1000 * DEAD_LETTER_TTL)
        assert not store.hold("k", 1)

    # -- cancelling what was claimed

    def test_a_claimed_message_can_be_cancelled_too(self, store: Store, worker: int, now: int) -> None:
        store.put([message()], now=now)
        claimed = take_one(store, worker, now)
        end = Outcome(claimed, CANCELLED, "not wanted", events=[Event("t", b"e")])
        store.finish([end], now=now)
        (record,) = store.browse(EVERYTHING)
        assert (record.state, record.reason, record.owner) == (CANCELLED, "not wanted", None)
        store.finish([end, Outcome(claimed)], now=now)
        assert len(store.events([], after=0)) == len(store.browse(EVERYTHING)) == 1, "once"

    def test_a_claim_that_was_released_cancels_nothing(self, store: Store, worker: int, now: int) -> None:
        store.put([message()], now=now)
        claimed = take_one(store, worker, now)
        store.finish([Outcome(claimed, RELEASE)], now=now)
        store.finish([Outcome(claimed, CANCELLED, "not wanted")], now=now)
        assert [record.state for record in store.browse(EVERYTHING)] == [WAITING]

    # -- events and schedules

    def test_events_can_be_added_by_themselves(self, store: Store, now: int) -> None:
        store.put_events([Event("t", b"1"), Event("t", b"2", 50)], now=now)
        store.put_events([], now=now)
        assert [event.data for _, event in store.events(["t"], after=0)] == [b"1", b"2"]
        sweep_all(store, now + 50)
        assert [event.data for _, event in store.events(["t"], after=0)] == [b"1"]

    def test_events_that_are_there_are_not_waited_for(self, store: Store, now: int) -> None:
        store.put_events([Event("t", b"1"), Event("u", b"2"), Event("t", b"3")], now=now)
        first, second = store.wait_events(["t"], after=0, timeout=60_000)
        assert (first[1].data, second[1].data) == (b"1", b"3")
        assert store.wait_events(["t"], after=0, timeout=60_000, limit=1) == [first]
        assert store.wait_events(["t"], after=first[0], timeout=60_000) == [second]
        assert store.wait_events(["t"], after=second[0], timeout=0) == []
        assert store.wait_events(["t"], after=second[0], timeout=20) == []

    @pytest.mark.parametrize("how", ["put_events", "finish"])
    def test_who_waits_for_an_event_is_woken(self, store: Store, worker: int, now: int, how: str) -> None:
        heard: list[Event] = []

        def wait() -> None:
            heard.extend(event for _, event in store.wait_events(["t"], after=0, timeout=60_000))

        waiter = threading.Thread(target=wait)
        waiter.start()
        if how == "put_events":
            store.put_events([Event("t", b"1")], now=now)
        else:
            self.put_events(store, worker, now, [Event("t", b"1")])
        waiter.join(20)
        assert not waiter.is_alive()
        assert [event.data for event in heard] == [b"1"]

    def test_a_wait_for_events_ends_when_it_is_told_to(self, store: Store, now: int) -> None:
        waiter = threading.Thread(target=store.wait_events, args=(["t"],), kwargs={"after": 0, "timeout": 60_000})
        waiter.start()
        give_up = time.monotonic() + 20
        while waiter.is_alive() and time.monotonic() < give_up:
            store.wake()  # again and again: it may have been about to lie down
            waiter.join(0.01)
        assert not waiter.is_alive()

    def put_events(self, store: Store, worker: int, now: int, events: list[Event]) -> None:
        store.put([message()], now=now)
        store.finish([Outcome(take_one(store, worker, now), events=events)], now=now)

    def test_events_are_read_by_topic_after_a_number(self, store: Store, worker: int, now: int) -> None:
        happened = [Event("ab"[n % 2], b"%d" % n) for n in range(10)]
        self.put_events(store, worker, now, happened[:5])
        self.put_events(store, worker, now, happened[5:])
        everything = store.events([], after=0)
        numbers = [number for number, _ in everything]
        assert [event for _, event in everything] == happened
        assert numbers == sorted(set(numbers))
        assert store.events(["a", "b"], after=0) == everything
        assert store.events(["b"], after=0) == everything[1::2]
        assert store.events(["b"], after=numbers[1], limit=2) == everything[3:7:2]
        assert store.events([], after=numbers[-1]) == store.events(["c"], after=0) == []

    def test_event_numbers_are_not_given_twice(self, store: Store, worker: int, now: int) -> None:
        self.put_events(store, worker, now, [Event("t", b"1")])
        ((number, _),) = store.events([], after=0)
        sweep_all(store, now + EVENT_TTL)
        assert store.events([], after=0) == []
        self.put_events(store, worker, now + HOUR, [Event("t", b"2")])
        ((later, event),) = store.events([], after=number)
        assert (later > number, event.data) == (True, b"2")

    def test_an_event_can_be_kept_longer(self, store: Store, worker: int, now: int) -> None:
        self.put_events(store, worker, now, [Event("t", b"short"), Event("t", b"long", 2 * EVENT_TTL)])
        sweep_all(store, now + EVENT_TTL)
        assert [event.data for _, event in store.events(["t"], after=0)] == [b"long"]
        sweep_all(store, now + 2 * EVENT_TTL)
        assert store.events(["t"], after=0) == []

    def test_schedules_that_are_due_come_earliest_first(self, store: Store, now: int) -> None:
        for name, due_at in [("b", now), ("late", now + 2), ("a", now - 5), ("moved", now)]:
            store.put_schedule(Schedule(name, due_at, name.encode()))
        store.put_schedule(Schedule("moved", now + 1, b"anew"))
        assert [due.name for due in store.due_schedules(now=now)] == ["a", "b"]
        assert store.due_schedules(now=now + 1)[-1] == Schedule("moved", now + 1, b"anew")
        assert (store.delete_schedule("a"), store.delete_schedule("a")) == (True, False)
        assert [due.name for due in store.due_schedules(now=now)] == ["b"]

    def test_of_two_threads_that_advance_a_schedule_one_wins(self, store: Store, now: int) -> None:
        store.put_schedule(Schedule("s", now, b"body"))
        (seen,) = store.due_schedules(now=now)

        def fire(n: int) -> bool:
            return store.advance_schedule(seen, now + HOUR, [message(f"tick {n}")], now=now)

        assert sorted(run_in_threads(2, fire)) == [False, True]
        assert store.counts() == {"q": {WAITING: 1}}
        assert store.due_schedules(now=now) == []
        assert store.due_schedules(now=now + HOUR) == [Schedule("s", now + HOUR, b"body")]

    def test_a_schedule_that_is_gone_does_not_fire(self, store: Store, now: int) -> None:
        gone = Schedule("s", now, b"")
        assert not store.advance_schedule(gone, now + 1, [message()], now=now)
        assert store.counts() == {}

    def test_a_tick_that_cannot_be_stored_does_not_advance(self, store: Store, now: int) -> None:
        schedule = Schedule("s", now, b"")
        store.put_schedule(schedule)
        with pytest.raises(REFUSED):
            store.advance_schedule(schedule, now + 1, [message("a"), message(body=None)], now=now)
        assert store.due_schedules(now=now) == [schedule]
        assert store.counts() == {}

    # -- life

    def test_sweep_removes_in_bounded_batches_all_that_has_expired(
        self, store: Store, worker: int, now: int
    ) -> None:
        store.set_values([Value(f"v{n}", b"", 10) for n in range(5000)], now=now)
        store.set_values([Value("kept", b"v", HOUR)], now=now)
        store.add("c", 1, 10, now=now)
        store.add("kept", 1, HOUR, now=now)
        self.put_events(store, worker, now, [Event("t", b"old")])
        self.put_events(store, worker, now + 10, [Event("t", b"new")])
        assert sweep_all(store, now) == []
        batches = sweep_all(store, now + EVENT_TTL + 1)
        assert sum(batches) == 5002
        assert len(batches) > 1
        assert store.get_value("kept", now=now) == b"v"
        assert not store.add("kept", 1, HOUR, now=now)
        assert [event.data for _, event in store.events([], after=0)] == [b"new"]

    @pytest.mark.parametrize("how", ["finish", "move"])
    def test_sweep_removes_cancelled_messages_when_their_time_is_over(
        self, store: Store, worker: int, now: int, how: str
    ) -> None:
        record = self.put_one_in(WAITING, store, worker, now)
        if how == "finish":
            store.finish([Outcome(record, CANCELLED, "not wanted")], now=now)
        else:
            store.move(EVERYTHING, CANCELLED, now=now)
        store.sweep(now=now + DEAD_LETTER_TTL - 1)
        assert states(store) == {"m": CANCELLED}
        store.sweep(now=now + DEAD_LETTER_TTL)
        assert states(store) == {}

    def test_sweep_removes_dead_letters_when_their_time_is_over(self, store: Store, worker: int, now: int) -> None:
        for moment, size in ((now, 10), (now + 50, 100_000)):
            store.put([message(f"{moment}", body=bytes(size)) for _ in range(20)], now=now)
            store.finish([dead(each) for each in take(store, worker, now, limit=99)], now=moment)
        store.put([message("alive"), message("delayed", eta=now + 100 * DEAD_LETTER_TTL)], now=now)
        assert sweep_all(store, now + DEAD_LETTER_TTL - 1) == []
        assert sum(sweep_all(store, now + DEAD_LETTER_TTL + 1)) == 20
        assert set(ids(store.browse(EVERYTHING))) == {f"{now + 50}", "alive", "delayed"}
        assert sweep_all(store, now + DEAD_LETTER_TTL + 51)
        assert states(store) == {"alive": WAITING, "delayed": DELAYED}

    def test_info_is_for_a_person(self, store: Store) -> None:
        assert store.info()
        assert all(isinstance(name, str) for name in store.info())

    def test_closing_twice_does_no_harm(self, store: Store, now: int) -> None:
        store.put([message()], now=now)
        store.close()
        store.close()
