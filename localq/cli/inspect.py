"""``localq info`` and ``localq status``: where the queue is, and what is in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from ..cells import read_death, read_running
from ..store import Selection, Store
from ..store.base import DEAD, DELAYED, RUNNING, STATES, WAITING
from .printing import printable
from .stores import locate, opened, store_options

COLUMNS = (WAITING, DELAYED, RUNNING, DEAD)


@click.command()
@store_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(url: str | None, app: str | None, as_json: bool) -> None:
    """Tell which file is used, why, and how it is set up."""
    location = locate(url, app)
    facts: dict[str, Any] = {"url": location.url, "why": location.why}
    with opened(location) as store:
        facts |= {"exists": store is not None, **(store.info() if store is not None else {})}
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<20} {printable(value)}")
    if not facts["exists"]:
        click.echo("There is no such file yet: it is made when the first message is sent.")


@click.command()
@store_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(url: str | None, app: str | None, as_json: bool) -> None:
    """Tell how many messages each queue has, and what the workers run."""
    location = locate(url, app)
    with opened(location) as store:
        queues = store.counts() if store is not None else {}
        workers = list(_workers(store)) if store is not None else []
    if as_json:
        whole = {queue: {state: counts.get(state, 0) for state in STATES} for queue, counts in queues.items()}
        click.echo(json.dumps({"url": location.url, "queues": whole, "workers": workers}, indent=2))
        return
    click.echo(f"{'queue':<24}" + "".join(f"{state:>12}" for state in COLUMNS))
    for queue, counts in sorted(queues.items()):
        click.echo(f"{printable(queue):<24}" + "".join(f"{counts.get(state, 0):>12}" for state in COLUMNS))
    if not queues:
        click.echo("(no messages)")
    click.echo()
    for worker in workers:
        serves = ", ".join(worker["queues"]) or "all"
        click.echo(printable(f"worker process {worker['pid']}, queues {serves}: {_doing(worker)}"))
    if not workers:
        click.echo("(no workers)")


def _workers(store: Store) -> Iterator[dict[str, Any]]:
    for worker in store.workers():
        path = store.worker_path(worker.name)
        yield {
            "pid": worker.pid,
            "alive": path is None or read_death(path) is None,
            "queues": list(worker.queues),
            "threads": worker.threads,
            "running": _running(store, path) if path is not None else [],
        }


def _running(store: Store, path: str) -> list[dict[str, Any]]:
    now = time.monotonic_ns() // 1_000_000
    since = {running.sequence: running.since for running in read_running(path)}
    records = store.browse(Selection(sequences=list(since))) if since else []
    return [
        {"message_id": record.message_id, "actor": record.actor, "for_ms": now - since[record.sequence]}
        for record in records
    ]


def _doing(worker: dict[str, Any]) -> str:
    if not worker["alive"]:
        return "dead; a worker that starts or looks gives back what it ran"
    if not worker["running"]:
        return "idle"
    return "; ".join(
        f"{run['actor']} for {run['for_ms'] / 1000:.1f} s ({run['message_id']})" for run in worker["running"]
    )
