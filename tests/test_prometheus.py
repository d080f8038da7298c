"""The Prometheus middleware, by itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import localq
import localq.threading
from localq import Broker
from localq.middleware import threading as names_of_threading
from localq.middleware.prometheus import Prometheus, serve_metrics

needs_client = pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is None, reason="prometheus_client is not installed"
)

SERVES = """
import threading, urllib.request
import localq
from localq.middleware.prometheus import Prometheus

prometheus = Prometheus()
prometheus.after_process_boot(localq.Broker([]))
threading.Thread(target=prometheus.forks[0], daemon=True).start()
while True:
    try:
        response = urllib.request.urlopen("http://127.0.0.1:9191/", timeout=10)
        break
    except ConnectionError:
        pass
    except urllib.error.URLError as error:
        assert isinstance(error.reason, ConnectionError), error
print(response.status)
"""


def test_it_is_found_where_settings_written_for_dramatiq_1_look_for_it() -> None:
    assert localq.middleware.Prometheus is Prometheus
    with pytest.raises(AttributeError, match="has no attribute 'Prometeus'"):
        localq.middleware.Prometeus  # noqa: B018


@needs_client
def test_its_fork_serves_on_port_9191_unless_told_otherwise(tmp_path: Path) -> None:
    # In a process of its own: the client decides for good when it is imported where it counts.
    run = subprocess.run(
        [sys.executable, "-c", SERVES],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout == "200\n", run.stderr


def test_without_the_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'localq\[prometheus\]'"):
        Prometheus()


@needs_client
def test_it_has_one_fork_that_any_process_can_find() -> None:
    assert Prometheus().forks == [serve_metrics]
    assert sys.modules[serve_metrics.__module__].serve_metrics is serve_metrics


@needs_client
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_it_counts_nothing_in_a_program_whose_worker_is_no_process_of_a_pool(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    broker.add_middleware(Prometheus())
    ran: list[Any] = []

    @localq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def act(number: int) -> None:
        ran.append(number)
        raise RuntimeError("no")

    act.send(1)
    drain(broker)
    assert ran == [1, 1]
    assert logged(50) == []


def test_the_names_of_threading_are_where_middleware_is() -> None:
    for name in names_of_threading.__all__:
        assert getattr(names_of_threading, name) is getattr(localq.threading, name)
