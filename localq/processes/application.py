"""Finding the broker whose messages a pool is to run."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from ..actor import Actor
from ..broker import Broker, all_brokers, get_broker
from ..dramatiq_alias import install_as_dramatiq
from ..errors import BrokerConnectionError, LocalqError, PoolError, StoreError
from ..location import ENVIRONMENT_VARIABLE
from ..logging import get_logger
from .config import PoolConfig
from .discover import NAME, can_be_imported, find_task_modules

IMPORT_ERROR = 2
CONNECTION_ERROR = 3

LONGEST_TRACEBACK = 20_000  # characters: it goes through a pipe

BEFORE_THE_PROGRAM = {__name__.partition(".")[0], "importlib", "multiprocessing", "runpy"}
"""The packages whose frames stand above those of a program that is imported."""

importing_for_a_pool = False
"""Whether this process is importing a program's main module for its pool: a pool that starts
meanwhile has no ``__main__`` guard around it."""


class ApplicationError(PoolError):
    """The app cannot be imported, or has no broker; `code` is the exit status for that."""

    def __init__(self, message: str, code: int = IMPORT_ERROR) -> None:
        super().__init__(message)
        self.code = code


def failure_of(error: LocalqError) -> dict[str, Any]:
    """What is reported of an error that keeps a process from starting. The supervisor says it once."""
    code = getattr(error, "code", CONNECTION_ERROR)
    cause = error.__cause__ if code == IMPORT_ERROR else None  # what is wrong with a store needs no traceback
    frames = "" if cause is None or _is_not_found(cause) else _frames_of(cause)
    return {"failed": str(error), "traceback": frames[-LONGEST_TRACEBACK:], "code": code}


def _frames_of(error: BaseException) -> str:
    """The traceback of an error, from the first line of the program on."""
    return "".join(traceback.format_exception(type(error), error, _first_of_the_program(error.__traceback__)))


def _first_of_the_program(frames: TracebackType | None) -> TracebackType | None:
    """What comes after our own frames and the import system's; None if that is nothing."""
    while frames is not None and _name_of(frames).partition(".")[0] in BEFORE_THE_PROGRAM:
        frames = frames.tb_next
    return frames


def _name_of(frames: TracebackType) -> str:
    return str(frames.tb_frame.f_globals.get("__name__", ""))


def _is_not_found(error: BaseException) -> bool:
    """Whether a module that was named to us is not there, rather than one that it imports."""
    # TypeError: what begins with a dot, such as ./tasks.py, is taken for a relative import.
    is_of_import = isinstance(error, (ModuleNotFoundError, TypeError))
    return is_of_import and _first_of_the_program(error.__traceback__) is None


def load_application(config: PoolConfig) -> Broker:
    """Import what the config names and return its broker, ready to be used.

    Raises:
      ApplicationError: with what is wrong, and the exit status for it.
    """
    with importing(config, describe_application(config)):
        broker = _named_broker(config.app) if config.app else None
        for module in config.modules:
            importlib.import_module(module)
        if config.discover:
            _import_what_is_found(config)
    if config.url and not config.app:
        return _broker_of_pool(config)
    return broker or get_broker()


@contextlib.contextmanager
def importing(config: PoolConfig, what: str) -> Iterator[None]:
    """A block in which the program's modules can be imported, its main module being there already.

    Raises:
      ApplicationError: whatever the block raises; the text names `what` it was to import.
    """
    if config.as_dramatiq:
        install_as_dramatiq()
    for folder in reversed(config.path):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    if config.url:
        # So that a program which names no store finds, in this process too, the one of its project.
        os.environ[ENVIRONMENT_VARIABLE] = config.url
    try:
        if config.main is not None:
            _import_main(config.main)
        yield
    except ApplicationError:
        raise
    except (BrokerConnectionError, StoreError) as error:
        raise ApplicationError(f"cannot reach the broker: {error}", CONNECTION_ERROR) from error
    except BaseException as error:
        remedy = _where_to_look(config) if _is_not_found(error) else ""
        raise ApplicationError(f"cannot import {what}: {type(error).__name__}: {error}{remedy}") from error


def _where_to_look(config: PoolConfig) -> str:
    """The remedy for a module that is not there."""
    names = [config.app.partition(":")[0], *config.modules]
    if any(os.sep in name or name.startswith(".") or name.endswith(".py") for name in names):
        return "; name a module as an import does, with dots and without .py, and its folder with --path"
    folders = ", ".join(repr(folder) for folder in config.path)
    return f"; it was looked for in {folders}; name another folder with --path" if folders else ""


def describe_application(config: PoolConfig) -> str:
    """The names of the modules that make up the application."""
    names = [config.app, *config.modules]
    if config.main is not None:
        names.append(config.main.get("init_main_from_name") or config.main.get("init_main_from_path") or "")
    described = [repr(name) for name in names if name]
    if config.discover:
        described.append(f"the {NAME!r} modules below {config.discover!r}")
    return ", ".join(described) or "the application"


def _import_what_is_found(config: PoolConfig) -> None:
    usable = []
    for parts, file in find_task_modules(config.discover):
        if can_be_imported(parts):
            usable.append((".".join(parts), file))
        elif config.keeps_house:  # once a pool
            get_logger(__name__).warning(
                "Leaving out %s: %r cannot be a module's name; rename it, or add a folder of it to --path.",
                file,
                ".".join(parts),
            )
    if not usable:
        raise ApplicationError(
            f"found no module or package named {NAME!r} in {config.discover!r} or below it (hidden folders, "
            "virtual environments and node_modules are left out)"
        )
    if config.keeps_house:
        get_logger(__name__).info("Found %s below %s.", ", ".join(name for name, _ in usable), config.discover)
    for name, file in usable:
        imported = getattr(importlib.import_module(name), "__file__", None) or "something else"
        if os.path.realpath(imported) != os.path.realpath(file):
            raise ApplicationError(f"found {file!r}, but {name!r} is {imported!r} already; rename one of them")


def _named_broker(app: str) -> Broker | None:
    if ":" not in app:
        importlib.import_module(app)
        return None
    found = find_object(app)
    if callable(found) and not isinstance(found, (Broker, Actor)):
        found()  # it sets the global broker
        return None
    if not isinstance(found, Broker):
        raise ApplicationError(f"{app!r} is not a Broker.")
    return found


def find_object(path: str) -> Any:
    """What ``module:attribute`` or ``module:object.attribute`` names.

    Raises:
      ApplicationError: the module has no such attribute.
    """
    module_name, _, attributes = path.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ApplicationError(f"Module {module_name!r} does not define a {attributes!r} variable.") from None
    return found


def _import_main(main: dict[str, Any]) -> None:
    global importing_for_a_pool
    import multiprocessing.spawn

    importing_for_a_pool = True
    try:
        # The same steps, and the same name `__mp_main__`, as for a child of multiprocessing.
        multiprocessing.spawn.prepare(main)
    finally:
        importing_for_a_pool = False


def _broker_of_pool(config: PoolConfig) -> Broker:
    """The broker that the program started the pool for, as importing its modules has made it here."""
    # A default broker that the program replaced may still be in memory.
    replaced = [broker for broker in all_brokers if broker.is_default and not broker.actors]
    others = [broker for broker in all_brokers if broker not in replaced]
    here = [broker for broker in (get_broker(), *others) if broker.location.url == config.url]
    if not here:
        raise ApplicationError(
            f"the pool was started for the broker at {config.url!r}, but importing the program in a fresh process "
            f"sets {get_broker().location.url!r}; set the broker at the top level of the module (localq.connect or "
            "set_broker), outside of the __main__ guard"
        )
    broker = max(here, key=lambda candidate: len(candidate.actors))
    missing = sorted(set(config.actors) - broker.actors.keys())
    if missing:
        raise ApplicationError(
            f"fresh worker processes cannot find the actor {missing[0]!r}: importing the program does not declare "
            "it; declare actors at the top level of a module, outside of the __main__ guard"
        )
    return broker


def preparation_of_main() -> dict[str, Any]:
    """What a fresh process needs to find this program's main module; see `PoolConfig.main`."""
    import multiprocessing.spawn

    data = multiprocessing.spawn.get_preparation_data("localq worker")
    with contextlib.suppress(KeyError):
        del data["authkey"]
    return {name: value for name, value in data.items() if name != "start_method"}
