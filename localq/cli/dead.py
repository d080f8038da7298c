"""``localq dead``: the messages that failed for good, and what can be done with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from ..clock import clock
from ..store import Record, Selection, Store
from ..store.base import DEAD, WAITING
from .printing import printable
from .stores import locate, opened, store_options

F = TypeVar("F", bound=Callable[..., Any])


def selection_options(function: F) -> F:
    """The options that say which dead letters are meant."""
    for name in ("actor", "queue"):
        text = f"Only of this {name}; may be repeated."
        function = click.option(f"--{name}", f"{name}s", multiple=True, help=text)(function)
    return store_options(function)


def list_options(function: F) -> F:
    """The options of a list of dead letters."""
    limit = click.IntRange(min=1)
    function = click.option("--limit", type=limit, default=100, show_default=True, help="At most.")(function)
    function = click.option("--json", "as_json", is_flag=True, help="For programs.")(function)
    return selection_options(function)


@click.group(invoke_without_command=True)
@list_options
@click.pass_context
def dead(ctx: click.Context, /, **options: Any) -> None:
    """List dead letters, run them again, or remove them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_dead, **options)


@dead.command("list")
@list_options
def list_dead(
    url: str | None,
    app: str | None,
    queues: tuple[str, ...],
    actors: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters with their reason, the oldest first."""
    selection = Selection([DEAD], queues or None, actors or None)
    with opened(locate(url, app)) as store:
        letters = store.browse(selection, limit=limit) if store is not None else []
    if as_json:
        click.echo(json.dumps([_facts(record) for record in letters], indent=2))
        return
    for record in letters:
        facts = _facts(record)
        click.echo(printable(f"{facts['message_id']}  {facts['died_at']}  {record.queue}/{record.actor}"))
        click.echo(f"    {printable(record.reason)}")
    if not letters:
        click.echo("No dead letters.")
    elif len(letters) == limit:
        click.echo(f"(the first {limit}; --limit shows more)")


@dead.command()
@click.argument("message_id")
@store_options
def show(message_id: str, url: str | None, app: str | None) -> None:
    """Show a dead letter with its traceback: of the exception that it died of, or of where the threads of its
    process were when that crashed."""
    with opened(locate(url, app)) as store:
        letters = store.browse(Selection([DEAD], message_ids=[message_id])) if store is not None else []
    if not letters:
        raise click.ClickException(f"{message_id!r} is no dead letter here")
    for record in letters:
        for name, fact in _facts(record).items():
            if name != "traceback":
                click.echo(f"{name + ':':12} {printable(fact)}")
        click.echo()
        for line in (record.traceback or "No traceback.").splitlines():
            click.echo(printable(line))


@dead.command()
@click.argument("message_ids", nargs=-1)
@selection_options
@click.option("--all", "everything", is_flag=True, help="All that match, or simply all.")
def retry(message_ids: tuple[str, ...], everything: bool, **where: Any) -> None:
    """Run dead letters again, as if they had just been sent."""

    def run_again(store: Store, selection: Selection) -> int:
        return store.move(selection, WAITING, now=clock.wall())

    _act(message_ids, everything, where, run_again, "waiting again")


@dead.command()
@click.argument("message_ids", nargs=-1)
@selection_options
@click.option("--all", "everything", is_flag=True, help="All that match, or simply all.")
def purge(message_ids: tuple[str, ...], everything: bool, **where: Any) -> None:
    """Remove dead letters for good."""
    _act(message_ids, everything, where, lambda store, selection: store.purge(selection), "removed")


def _act(
    message_ids: tuple[str, ...],
    everything: bool,
    where: dict[str, Any],
    act: Callable[[Store, Selection], int],
    what: str,
) -> None:
    if not (message_ids or everything or where["queues"] or where["actors"]):
        raise click.UsageError("name message ids, --queue or --actor, or say --all")
    selection = Selection([DEAD], where["queues"] or None, where["actors"] or None, message_ids or None)
    with opened(locate(where["url"], where["app"])) as store:
        count = act(store, selection) if store is not None else 0
    click.echo(f"{count} dead {'letter is' if count == 1 else 'letters are'} {what}.")
    if message_ids and count < len(set(message_ids)):
        raise click.ClickException(f"{len(set(message_ids)) - count} of the given ids are no dead letters here")


def _facts(record: Record) -> dict[str, Any]:
    try:
        died_at = datetime.fromtimestamp((record.died_at or 0) / 1000).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # no store wrote that
        died_at = f"at {record.died_at}"
    return {
        "message_id": record.message_id,
        "queue": record.queue,
        "actor": record.actor,
        "reason": record.reason,
        "attempts": record.attempts,
        "crashes": record.crashes,
        "died_at": died_at,
        "traceback": record.traceback,
    }
