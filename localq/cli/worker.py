"""``localq worker MODULE``: a pool of worker processes until a signal stops it."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..errors import PoolError
from ..processes.config import START_METHODS, PoolConfig, available_cores, default_start_method
from ..processes.discover import is_inside
from ..processes.logs import set_up_logging
from ..processes.supervisor import Supervisor
from ..worker import ASYNC_CONCURRENCY
from .arguments import WordsAfterOptions, fork_timeout

PID_FILE_ERROR = 4


@click.command(cls=WordsAfterOptions)
@click.argument("app", metavar="MODULE[:BROKER]", required=False)
@click.argument("modules", nargs=-1)
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(min=1),
    default=available_cores,
    help="How many worker processes.  [default: one a core]",
)
@click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many messages each process runs at the same time.",
)
@click.option(
    "--async-concurrency",
    type=click.IntRange(min=0),
    default=ASYNC_CONCURRENCY,
    show_default=True,
    help="How many messages of async actors each process runs besides; 0 to run them on the threads.",
)
@click.option(
    "-Q",
    "--queues",
    multiple=True,
    metavar="QUEUE",
    help="Only this queue; several one after another, or separated by commas.  [default: all]",
)
@click.option(
    "-P",
    "--path",
    multiple=True,
    default=["."],
    show_default=True,
    metavar="FOLDER",
    help="Where modules are found; several one after another.",
)
@click.option(
    "--discover",
    type=click.Path(exists=True, file_okay=False),
    metavar="[FOLDER]",
    help="Import every module and package named 'tasks' in this folder, or below it.  [without one: .]",
)
@click.option("--pid-file", metavar="FILE", help="Write the process id of the supervisor there.")
@click.option("--log-file", metavar="FILE", help="Log there instead of to the standard error stream.")
@click.option("--skip-logging", is_flag=True, help="Leave logging to the application.")
@click.option("-v", "--verbose", count=True, help="Log more.")
@click.option(
    "-f",
    "--fork-function",
    "--fork",
    "fork_functions",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Run this function in a process of its own beside the workers; may be repeated.",
)
@click.option(
    "--worker-fork-timeout",
    callback=fork_timeout,
    default="30000",
    show_default=True,
    metavar="MS",
    help="How long fork functions wait for all worker processes to be ready.",
)
@click.option(
    "--worker-shutdown-timeout",
    type=click.IntRange(min=0),
    default=600_000,
    show_default=True,
    metavar="MS",
    help="How long running messages may go on when told to stop.",
)
@click.option("--preload", is_flag=True, help="Import the application once, before the processes are forked.")
@click.option(
    "--start-method",
    type=click.Choice(START_METHODS),
    default=default_start_method,
    show_default=True,
    help="How processes are started.",
)
@click.option("--use-spawn", is_flag=True, help="The same as --start-method spawn.")
@click.option(
    "--watch",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Replace the workers when a Python file in it changes: for development.",
)
@click.option(
    "-i",
    "--watch-include",
    multiple=True,
    metavar="PATTERN",
    help="Files to watch besides *.py: '*.html', 'templates/*'; may be repeated.",
)
@click.option(
    "-x",
    "--watch-exclude",
    multiple=True,
    metavar="PATTERN",
    help="Files and folders not to watch; may be repeated.",
)
@click.option("--watch-use-polling", is_flag=True, help="Accepted, and always so: files are looked at in turns.")
def worker(
    app: str | None,
    modules: tuple[str, ...],
    processes: int,
    threads: int,
    async_concurrency: int,
    queues: tuple[str, ...],
    path: tuple[str, ...],
    discover: str | None,
    pid_file: str | None,
    log_file: str | None,
    skip_logging: bool,
    verbose: int,
    fork_functions: tuple[str, ...],
    worker_fork_timeout: float,
    worker_shutdown_timeout: int,
    preload: bool,
    start_method: str,
    use_spawn: bool,
    watch: str | None,
    watch_include: tuple[str, ...],
    watch_exclude: tuple[str, ...],
    watch_use_polling: bool,
) -> None:  # fmt: skip
    """Run the messages of the actors in MODULE.

    MODULE is imported, and its BROKER used: a variable of it, a dotted one, or a function that sets
    the global broker; without one, the global broker. Further modules are imported as well. With
    --discover, no module needs to be named.

    \b
    SIGTERM or Ctrl-C   stop claiming, let running messages end, give the rest back, exit 0
    the same again      stop at once, exit 1; nothing is lost
    SIGHUP              replace all worker processes, which import the module anew, then the forks
    Exit status 2: the module or its broker cannot be used. 3: its store cannot. 4: the PID file.
    """
    config = PoolConfig(
        processes=processes,
        threads=threads,
        async_concurrency=async_concurrency,
        queues=[name for names in queues for name in names.split(",")],
        app=app or ("" if discover else _module_named_worker(path)),
        modules=list(modules),
        discover=os.path.abspath(discover) if discover else "",
        path=_importable_folders(path, discover),
        preload=preload,
        fork_functions=list(fork_functions),
        fork_timeout=worker_fork_timeout,
        watch=os.path.abspath(watch) if watch else "",
        watch_include=list(watch_include),
        watch_exclude=list(watch_exclude),
        rerun=[sys.executable, *sys.orig_argv[1:]] if _is_called_by_a_program() else [],
        start_method="spawn" if use_spawn else start_method,
        shutdown_timeout=worker_shutdown_timeout,
        log_level=logging.DEBUG if verbose else logging.INFO,
        log_file=os.path.abspath(log_file) if log_file else "",
        skip_logging=skip_logging,
    )
    try:
        config.check()
    except PoolError as error:
        raise click.UsageError(str(error)) from error
    try:
        set_up_logging(config)
    except OSError as error:
        raise click.UsageError(f"cannot write the log file {log_file!r}: {error.strerror}") from error
    supervisor = Supervisor(config)
    with _pid_file(pid_file):
        code = supervisor.run()
    if supervisor.runs_anew:
        os.execv(config.rerun[0], config.rerun)
    sys.exit(code)


def _is_called_by_a_program() -> bool:
    """Whether a program calls the command, in whose process the application may be already, with words
    that it parsed before."""
    return isinstance(click.get_current_context().obj, Namespace)


def _module_named_worker(folders: tuple[str, ...]) -> str:
    """``localq worker`` alone, beside a worker.py, means that module, as it does for dramatiq."""
    if any(Path(folder, name).exists() for folder in folders for name in ("worker.py", "worker/__init__.py")):
        return "worker"
    raise click.UsageError("Missing argument 'MODULE[:BROKER]'.")


def _importable_folders(path: tuple[str, ...], discover: str | None) -> list[str]:
    """What is searched for modules must be inside of a folder that is importable."""
    folders = [os.path.abspath(folder) for folder in path]
    if discover and not any(is_inside(os.path.abspath(discover), folder) for folder in folders):
        folders.append(os.path.abspath(discover))
    return folders


@contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    """The file holds this process's number meanwhile; a stale one is replaced."""
    if path is None:
        yield
        return
    file = Path(path)
    _refuse_if_in_use(file)
    try:
        # For all to read, as such files are, but for nobody else to write, whatever the umask.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(str(os.getpid()))
    except OSError as error:
        _fail(f"cannot write the PID file {path!r}: {error.strerror}")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _refuse_if_in_use(file: Path) -> None:
    try:
        pid = int(file.read_text("ascii"))
    except FileNotFoundError:
        return
    except (ValueError, OSError):
        _fail(f"the PID file {str(file)!r} holds no process id; look at it, and remove it if it is not needed")
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return
    except PermissionError:
        pass
    if pid != os.getpid():
        _fail(f"the PID file {str(file)!r} names process {pid}, which runs; stop it first, or name another file")


def _fail(text: str) -> None:
    click.echo(f"Error: {text}", err=True)
    sys.exit(PID_FILE_ERROR)
