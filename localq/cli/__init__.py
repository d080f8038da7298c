"""The command line: ``localq MODULE`` runs workers; subcommands look at the queue."""

from __future__ import annotations

from typing import Any

import click

from ..errors import LocalqError
from ..version import __version__
from .dead import dead
from .inspect import info, status
from .worker import worker


class CommandOrModule(click.Group):
    """A group in which what is no subcommand's name is a module for the `worker` command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else "--help"
        if first not in self.commands and first not in ("--help", "--version"):
            args = ["worker", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LocalqError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=CommandOrModule, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Background tasks on one machine, with no broker to install.

    \b
    localq MODULE[:BROKER]   run the messages of a module's actors
                             (the same as: localq worker MODULE[:BROKER])
    """


for command in (worker, info, status, dead):
    main.add_command(command)
