"""``localq info`` and ``localq status``: where the queue is, and what is in it."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from ..cells import read_death, read_running
from ..store import Selection, Store
from ..store.base import DEAD, DELAYED, RUNNING, STATES, WAITING
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
        click.echo(f"{name.replace('_', ' '):<20} {value}")
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
        click.echo(f"{queue:<24}" + "".join(f"{counts.get(state, 0):>12}" for state in COLUMNS))
    if not queues:
        click.echo("(no messages)")
    click.echo()
    for worker in workers:
        click.echo(f"worker process {worker['pid']}, queues {', '.join(worker['queues']) or 'all'}: {_doing(worker)}")
    if not workers:
        click.echo("(no workers)")


def _workers(store: Store) -> Any:
    now = time.monotonic_ns() // 1_000_000
    for worker in store.workers():
        path = store.worker_path(worker.name)
        running = read_running(path) if path else []
        sequences = [cell.sequence for cell in running]
        records = {record.sequence: record for record in store.browse(Selection(sequences=sequences))} if sequences else {}
        yield {
            "pid": worker.pid,
            "alive": path is None or read_death(path) is None,
            "queues": list(worker.queues),
            "threads": worker.threads,
            "running": [
                {
                    "message_id": records[cell.sequence].message_id,
                    "actor": records[cell.sequence].actor,
                    "for_ms": now - cell.since,
                }
                for cell in running
                if cell.sequence in records
            ],
        }


def _doing(worker: dict[str, Any]) -> str:
    if not worker["alive"]:
        return "dead; what it ran is about to be given back"
    if not worker["running"]:
        return "idle"
    return "; ".join(
        f"{run['actor']} for {run['for_ms'] / 1000:.1f} s ({run['message_id']})" for run in worker["running"]
    )
