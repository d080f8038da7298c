"""The numbers that a pool serves for Prometheus."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from .support import Lab, both_start_methods, wait_until

pytest.importorskip("prometheus_client")

Numbers = dict[str, float]


@pytest.fixture
def port() -> int:
    """One that nobody else uses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def env(lab: Lab, port: int) -> dict[str, str]:
    return {
        "dramatiq_prom_db": str(lab.folder / "prometheus"),
        "dramatiq_prom_host": "127.0.0.1",
        "dramatiq_prom_port": str(port),
    }


@pytest.fixture
def fetch(port: int) -> Callable[[], Numbers | None]:
    """What is served now, by name and labels; None while nobody serves."""

    def fetch() -> Numbers | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
                assert response.status == 200
                lines = response.read().decode().splitlines()
        except urllib.error.URLError:
            return None
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    return fetch


def labels(actor: str, queue: str = "default") -> str:
    return f'{{actor_name="{actor}",queue_name="{queue}"}}'


@both_start_methods
def test_messages_of_all_workers_are_counted_and_timed_under_the_names_that_dashboards_know(
    lab: Lab, env: dict[str, str], fetch: Callable[[], Numbers | None]
) -> None:
    pool = lab.start_pool("measured", "-p", "2", **env)
    for number in range(20):
        lab.result(lab.send("add", number, 1))
    lab.failure(lab.send("fail"))
    lab.broker.enqueue(lab.message("skipped").copy(message_timestamp=1))
    lab.wait_until_done()

    numbers = wait_until(lambda: (found := fetch()) and len(found) > 20 and found)

    assert numbers["dramatiq_messages_total" + labels("add")] == 20
    assert "dramatiq_message_errors_total" + labels("add") not in numbers
    assert numbers["dramatiq_messages_total" + labels("fail")] == 3
    assert numbers["dramatiq_message_errors_total" + labels("fail")] == 3
    assert numbers["dramatiq_message_retries_total" + labels("fail")] == 2
    assert numbers["dramatiq_message_rejects_total" + labels("fail")] == 1
    assert numbers["dramatiq_message_rejects_total" + labels("skipped")] == 1
    assert numbers["dramatiq_messages_inprogress" + labels("add")] == 0
    assert numbers.get("dramatiq_messages_inprogress" + labels("skipped"), 0) == 0
    assert numbers["dramatiq_message_duration_milliseconds_count" + labels("add")] == 20
    assert 0 < numbers["dramatiq_message_duration_milliseconds_sum" + labels("add")] < 60_000
    pool.stop()


def test_what_runs_is_in_progress_until_it_ends_or_its_process_does(
    lab: Lab, env: dict[str, str], fetch: Callable[[], Numbers | None]
) -> None:
    pool = lab.start_pool("measured", "-p", "2", **env)
    name = "dramatiq_messages_inprogress" + labels("hold", "aside")

    def in_progress() -> float:
        return (fetch() or {}).get(name, -1)

    for message in ("a", "b"):
        lab.send("hold", message, queue="aside")
    victim = lab.held("a")
    lab.held("b")
    wait_until(lambda: in_progress() == 2)
    lab.kill(victim)
    lab.held("a", times=2)
    assert in_progress() == 2  # not three
    lab.release("a", "b")
    wait_until(lambda: in_progress() == 0)
    pool.stop()


def test_a_new_pool_counts_from_zero_and_a_replaced_worker_goes_on(
    lab: Lab, env: dict[str, str], fetch: Callable[[], Numbers | None]
) -> None:
    name = "dramatiq_messages_total" + labels("who")

    def count() -> float:
        return (fetch() or {}).get(name, 0)

    for _ in range(2):
        pool = lab.start_pool("measured", "-p", "1", **env)
        wait_until(lambda: fetch() is not None)
        lab.kill(lab.result(lab.send("who")))
        lab.result(lab.send("who"))
        wait_until(lambda: count() == 2)
        pool.stop()
    assert list(Path(env["dramatiq_prom_db"]).glob("counter_*.db"))


def test_a_port_that_is_taken_is_reported_and_the_workers_run(lab: Lab, env: dict[str, str], port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        pool = lab.start_pool("measured", "-p", "1", **env)
        pool.wait_for_log(f"Cannot serve metrics at 127.0.0.1:{port} (")
        assert "dramatiq_prom_port" in pool.log()
        assert lab.result(lab.send("add", 1, 2)) == 3
        pool.stop()


def test_a_port_that_is_none_is_reported(lab: Lab, env: dict[str, str]) -> None:
    pool = lab.start_pool("measured", "-p", "1", **{**env, "dramatiq_prom_port": "http"})
    pool.wait_for_log("Cannot serve metrics at 127.0.0.1:http")
    pool.stop()


def test_a_program_that_imports_the_client_too_early_is_warned(
    lab: Lab, env: dict[str, str], fetch: Callable[[], Numbers | None]
) -> None:
    lab.write("early.py", "import prometheus_client\nfrom measured import *\n")
    pool = lab.start_pool("early", "-p", "1", **env)
    assert "prometheus_client was imported before this worker booted" in pool.log()
    pool.stop()
    folder = env["dramatiq_prom_db"]
    pool = lab.start_pool("early", "-p", "1", **env, PROMETHEUS_MULTIPROC_DIR=folder)
    assert lab.result(lab.send("add", 1, 2)) == 3
    wait_until(lambda: (fetch() or {}).get("dramatiq_messages_total" + labels("add")) == 1)
    assert "imported before" not in pool.log()
    pool.stop()
