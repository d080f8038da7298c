"""The command line: ``localq MODULE`` runs workers; subcommands look at the queue."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

import click

from ..dramatiq_alias import install_as_dramatiq
from ..errors import LocalqError
from ..version import __version__
from .arguments import AS_DRAMATIQ_DOES
from .as_dramatiq import (
    CPUS,
    HAS_WATCHDOG,
    LOGFORMAT,
    VERBOSITY,
    import_broker,
    make_argument_parser,
    the_real_one,
    words_of,
)
from .dead import dead
from .inspect import info, status
from .printing import printable
from .worker import worker

__all__ = ["CPUS", "HAS_WATCHDOG", "LOGFORMAT", "VERBOSITY", "import_broker", "main", "make_argument_parser"]

AS_DRAMATIQ = "--as-dramatiq"


class CommandOrModule(click.Group):
    """A group in which what is no subcommand's name is a module for the `worker` command."""

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        if isinstance(args, Namespace):
            extra |= {"obj": args, "prog_name": AS_DRAMATIQ_DOES}
            args = ["worker", *words_of(args)]
        return super().main(args, *rest, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Wherever it stands: it is about all of them.
        ours = [word for word in args if word == AS_DRAMATIQ]
        args = [word for word in args if word != AS_DRAMATIQ]
        first = args[0] if args else "--help"
        if first not in self.commands and first not in ("-h", "--help", "--version"):
            args = ["worker", *args]
        return super().parse_args(ctx, [*ours, *args])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LocalqError as error:
            raise click.ClickException(printable(error)) from error
        except UnicodeEncodeError as error:  # bytes of the shell that are no text
            raise click.ClickException(f"{error.object!r} cannot be the name of anything here") from error


@click.group(cls=CommandOrModule, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option(AS_DRAMATIQ, is_flag=True, help="Let 'import dramatiq' give localq.")
def main(as_dramatiq: bool) -> None:
    """Background tasks on one machine, with no broker to install.

    \b
    localq MODULE[:BROKER]   run the messages of a module's actors
                             (the same as: localq worker MODULE[:BROKER])
    """
    if as_dramatiq:
        install_as_dramatiq()


for command in (worker, info, status, dead):
    main.add_command(command)


def dramatiq() -> None:
    """The command ``dramatiq``: dramatiq's own where that is installed, and else ``localq --as-dramatiq``."""
    real = the_real_one()
    if real is not None:
        sys.exit(real())
    main([AS_DRAMATIQ, *sys.argv[1:]], prog_name=AS_DRAMATIQ_DOES)
