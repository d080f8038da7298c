"""What the tests share: a queue of their own each, nothing of the user's touched, and waiting for
conditions instead of sleeping."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import localq
from localq import current
from localq.middleware import default_middleware

PATIENCE = 20
"""Seconds after which something that was waited for counts as not coming."""


def pytest_configure() -> None:
    # A shell starts what runs in the background deaf to Ctrl-C, as `nohup` does to a hang-up, and all that the
    # tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def world_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's data folder is never touched, and what a test made global ends with it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("LOCALQ_URL", raising=False)
    localq.broker.global_broker = None  # modules that tests import may have declared actors
    yield
    broker, localq.broker.global_broker = localq.broker.global_broker, None
    current.encoder = None
    if broker is not None:
        broker.close()


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[BaseProcess, Connection]]]:
    """Forks a process that runs ``work(*args, connection)``; gives it and our end of that connection."""
    context = multiprocessing.get_context("fork")
    started: list[BaseProcess] = []

    def start(work: Callable[..., None], *args: Any) -> tuple[BaseProcess, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(*args, theirs))
        process.start()
        theirs.close()
        started.append(process)
        return process, ours

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def until() -> Callable[..., Any]:
    """``until(condition)`` returns what the condition gives as soon as that is true."""

    def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
        give_up = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < give_up, f"{what} did not come true within {PATIENCE} s"
            time.sleep(0.002)
        return value

    return until


@pytest.fixture(params=["sqlite", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind; a module that needs only one overrides this fixture."""
    return f"sqlite:///{tmp_path}/jobs.db" if request.param == "sqlite" else f"memory://{uuid4().hex}"


@pytest.fixture
def make_broker() -> Iterator[Callable[..., localq.Broker]]:
    """Makes brokers that are closed at the end; the global broker stays what it is."""
    made: list[localq.Broker] = []

    def make_broker(url: str, middleware: list[localq.Middleware] | None = None) -> localq.Broker:
        made.append(localq.Broker(middleware, url=url))
        return made[-1]

    yield make_broker
    for broker in made:
        broker.close()


@pytest.fixture
def broker(url: str) -> localq.Broker:
    """The global broker, with the default middleware: it keeps no results."""
    return localq.connect(url, middleware=[make() for make in default_middleware])


@pytest.fixture
def broker_with_results(url: str) -> localq.Broker:
    """The global broker, which keeps the result of every actor."""
    return localq.connect(url)


@pytest.fixture
def start_worker() -> Iterator[Callable[..., localq.Worker]]:
    """Starts workers, which are stopped at the end."""
    started: list[localq.Worker] = []

    def start_worker(broker: localq.Broker, **options: Any) -> localq.Worker:
        worker = localq.Worker(broker, **{"worker_threads": 2, **options})
        worker.start()
        started.append(worker)
        return worker

    yield start_worker
    for worker in started:
        worker.stop(timeout=10_000)


@pytest.fixture
def thread_hooks() -> Callable[[localq.Broker], list[tuple[str, Any]]]:
    """``thread_hooks(broker)`` gives a list that collects the boots and shutdowns of its workers' threads, each
    of which must be told on the thread that it is about."""

    def thread_hooks(broker: localq.Broker) -> list[tuple[str, Any]]:
        calls: list[tuple[str, Any]] = []

        class Watching(localq.Middleware):
            def after_worker_thread_boot(self, broker: localq.Broker, thread: Any) -> None:
                assert threading.current_thread() is thread  # which is logged, and leaves the call out
                calls.append(("boot", thread))

            def before_worker_thread_shutdown(self, broker: localq.Broker, thread: Any) -> None:
                assert threading.current_thread() is thread  # which is logged, and leaves the call out
                calls.append(("shutdown", thread))

        broker.add_middleware(Watching())
        return calls

    return thread_hooks


@pytest.fixture
def drain(start_worker: Callable[..., localq.Worker], until: Callable[..., Any]) -> Callable[..., None]:
    """``drain(broker)`` runs all that is in its store, with what that sends, and then stops."""

    def nothing_left(broker: localq.Broker) -> bool:
        ends = {"dead", "held", "cancelled"}
        return all(states.keys() <= ends for states in broker.store.counts().values())

    def drain(broker: localq.Broker, **options: Any) -> None:
        worker = start_worker(broker, **options)
        until(lambda: nothing_left(broker), "an empty store")
        worker.stop()

    return drain


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """``logged(logging.INFO)`` gives the texts that were logged at exactly that level."""
    caplog.set_level(logging.DEBUG)
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]
