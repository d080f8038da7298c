from __future__ import annotations

import threading

import pytest

from localq.store.base import Store, Value
from localq.store.memory import MemoryStore
from localq.threading import Interrupt, Interruptible, raise_thread_exception

from .contract import EVERYTHING, HOUR, StoreContract, done, message, take


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore("memory://")

    def test_an_interrupt_lands_between_two_verbs_and_never_inside_one(
        self, store: Store, worker: int, now: int
    ) -> None:
        # Bare locks for the two to signal with: an interrupt may leave an Event's own lock held.
        opened, landed, over = threading.Lock(), threading.Lock(), False
        opened.acquire(), landed.acquire()

        def work() -> None:
            while not over:
                store.put([message(), message("later", eta=now + 1)], now=now)
                store.set_values([Value("k", b"v", HOUR)], now=now)
                store.finish([done(each) for each in take(store, worker, now + 1, 9)], now=now)

        def work_until_interrupted() -> None:
            while not over:
                door = Interruptible()
                try:
                    door.open()
                    opened.release()
                    work()
                except Interrupt:
                    door.close()
                    door.forget()
                    landed.release()

        thread = threading.Thread(target=work_until_interrupted)
        thread.start()
        try:
            for _ in range(200):
                assert opened.acquire(timeout=5)
                raise_thread_exception(thread.ident or 0, Interrupt)
                assert landed.acquire(timeout=5)
        finally:
            over = True
            thread.join(5)
        store.leave(worker, now=now)
        left = store.browse(EVERYTHING, limit=10**6)
        taken = take(store, worker, now + 1, limit=10**6)
        assert {each.sequence for each in taken} == {each.sequence for each in left}
        store.finish([done(each) for each in taken], now=now)
        assert store.counts() == {}
