"""The house has floors, and imports only lead downwards; to import localq does nothing but import.

Two things are read from the syntax tree of each module: what it imports when it
is loaded (imports for type checkers alone do not count), and what its functions
import when they are called, which may be nothing of ours.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import localq

HOUSE = Path(localq.__file__).parent

FLOORS = (
    "version errors files clock current cells late_imports locks process_table names common dramatiq_alias "
    "logging threading asyncio",
    "encoder unencodable composition message store location",
    "rate_limits",
    "middleware",
    "results",
    "hooks consumer broker brokers actor generic aborting absent",
    "execution worker worker_thread async_lane timekeeper",
    "processes",
    "cli testing pytest_plugin dashboard __main__",
    "__init__",
)
"""From the ground up: the modules and packages of each floor."""


# -- what the modules import


@dataclass
class Module:
    name: str
    """In full, with its dots."""
    path: Path
    tree: ast.Module
    imports: dict[str, int] = field(default_factory=dict)
    """Modules of ours that are imported when it is loaded, and the line."""
    late: dict[str, int] = field(default_factory=dict)
    """Modules of ours that its functions import."""

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def floor(self) -> int:
        _, _, inside = self.name.partition(".")
        first = inside.partition(".")[0] or "__init__"
        return next(floor for floor, names in enumerate(FLOORS) if first in names.split())


def read_modules() -> dict[str, Module]:
    modules = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Module(name, path, ast.parse(path.read_text("utf-8"), str(path)))
    for module in modules.values():
        for statement, is_late in imports_of(module.tree):
            for target in targets_of(statement, module, modules):
                (module.late if is_late else module.imports)[target] = statement.lineno
    return modules


Import = ast.Import | ast.ImportFrom


def imports_of(node: ast.AST, is_late: bool = False) -> Iterator[tuple[Import, bool]]:
    """The imports below a node, and whether each runs only when a function is called."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, is_late
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from imports_of(ast.Module([other], []), is_late)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports_of(child, is_late or is_function)


def targets_of(statement: Import, module: Module, modules: dict[str, Module]) -> Iterator[str]:
    """The modules of ours that a statement imports."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names if alias.name in modules)
        return
    parents = module.package.split(".")
    base = parents[: len(parents) - statement.level + 1] if statement.level else []
    source = ".".join(base + ([statement.module] if statement.module else []))
    for alias in statement.names:
        if f"{source}.{alias.name}" in modules:
            yield f"{source}.{alias.name}"
        elif source in modules:
            yield source


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return read_modules()


def test_every_module_has_a_floor(modules: dict[str, Module]) -> None:
    known = {name for names in FLOORS for name in names.split()}
    homeless = {name for name in modules if (name.split(".")[1:] or ["__init__"])[0] not in known}
    assert homeless == set(), "give each a place in FLOORS"
    assert "localq.store.sqlite" in modules["localq.store"].imports, "the imports are seen"


def test_imports_only_lead_downwards(modules: dict[str, Module]) -> None:
    upwards = [
        f"{module.path}:{line}: {module.name} (floor {module.floor}) imports {target} "
        f"(floor {modules[target].floor})"
        for module in modules.values()
        for target, line in module.imports.items()
        if modules[target].floor > module.floor
    ]
    assert upwards == []


def test_nothing_is_imported_in_a_circle(modules: dict[str, Module]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in modules[name].imports:
                visit(target, (*path, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_no_function_imports_a_module_of_ours(modules: dict[str, Module]) -> None:
    late = [
        f"{module.path}:{line}: a function imports {target}"
        for module in modules.values()
        for target, line in module.late.items()
    ]
    assert late == []


def test_every_module_says_what_it_is_for(modules: dict[str, Module]) -> None:
    assert [name for name, module in modules.items() if not ast.get_docstring(module.tree)] == []


def test_every_module_leaves_annotations_alone(modules: dict[str, Module]) -> None:
    line = "from __future__ import annotations"
    assert [name for name, module in modules.items() if line not in map(ast.unparse, module.tree.body)] == []


def test_every_module_can_be_imported(modules: dict[str, Module]) -> None:
    found = {each.name for each in pkgutil.walk_packages(localq.__path__, "localq.")} | {"localq"}
    assert found == modules.keys(), "a folder lacks its __init__.py, or a file its place"
    for name in sorted(found):
        if not name.endswith("__main__"):
            importlib.import_module(name)


def test_nothing_lies_about_in_the_house() -> None:
    kinds = {path.suffix or path.name for path in HOUSE.rglob("*") if path.is_file()}
    assert kinds - {".py", ".pyc", ".sql", ".typed"} == set()


# -- what importing does


def in_a_fresh_interpreter(script: str) -> Any:
    """What the script prints, as JSON."""
    ran = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, cwd=HOUSE.parent, timeout=60,
        env={**os.environ, "LOCALQ_URL": "sqlite:////nowhere/at/all.db"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_importing_opens_nothing_but_modules() -> None:
    done = in_a_fresh_interpreter("""
        import json, sys
        events = []
        watched = ("open", "os.", "socket.", "sqlite3.", "subprocess.", "shutil.", "tempfile.", "signal.", "mmap.",
                   "ctypes.dlopen", "fcntl.", "_thread.", "pty.", "urllib.")
        harmless = ("os.listdir", "os.scandir", "os.putenv", "os.fspath")
        sys.addaudithook(lambda event, args: events.append((event, str(args[0])))
                         if event.startswith(watched) and event not in harmless else None)
        import localq

        @localq.actor
        def task(): pass

        print(json.dumps(events))
    """)
    others = [[event, what] for event, what in done if event != "open" or not what.endswith((".py", ".pyc", ".so"))]
    assert [each for each in others if each != ["ctypes.dlopen", "None"]] == []  # that is Python itself


def test_importing_starts_no_thread_and_changes_no_signal() -> None:
    before, after = in_a_fresh_interpreter("""
        import json, signal, sys, threading
        def state():
            handlers = [str(signal.getsignal(number)) for number in signal.valid_signals()]
            return handlers, threading.active_count(), str(sys.excepthook), str(sys.unraisablehook)
        before = state()
        import localq
        print(json.dumps([before, state()]))
    """)
    assert before == after


@pytest.mark.parametrize("package", ["click", "platformdirs", "filelock"])
def test_packages_of_others_are_imported_when_they_are_needed(package: str) -> None:
    assert not in_a_fresh_interpreter(f"""
        import json, sys
        import localq

        @localq.actor
        def task(): pass

        print(json.dumps({package!r} in sys.modules))
    """)


@pytest.mark.parametrize(
    "statement",
    [
        "import localq",
        "import localq.actor",
        "from localq.actor import Actor; import localq",
        "import importlib, localq; importlib.import_module('localq.actor')",
    ],
)
def test_actor_is_the_decorator_however_it_was_imported(statement: str) -> None:
    assert in_a_fresh_interpreter(f"""
        import json
        {statement}

        @localq.actor
        def add(x, y): return x + y

        print(json.dumps([callable(localq.actor), type(add).__name__, add(1, 2)]))
    """) == [True, "Actor", 3]


@pytest.mark.parametrize(
    "module",
    [
        *("broker", "brokers", "worker", "errors", "common", "generic"),
        *("middleware", "results", "rate_limits", "message", "encoder"),
        *("middleware.threading", "results.backend", "results.errors", "results.result", "threading", "asyncio"),
    ],
)
def test_modules_that_users_reach_from_the_root_are_modules(module: str) -> None:
    assert in_a_fresh_interpreter(f"""
        import json, types
        import localq
        print(json.dumps(isinstance(localq.{module}, types.ModuleType)))
    """)


PATHS = """
localq: Actor GenericActor actor Broker Consumer ConsumerThread MessageProxy get_broker set_broker group pipeline
    Encoder JSONEncoder MsgpackEncoder
    PickleEncoder get_logger Message get_encoder set_encoder Middleware Worker WorkerThread connect pool __version__
localq.aborting: Abort AbortMode Abortable Event EventBackend abort abort_requested
localq.aborting.backend: Event EventBackend StoreBackend
localq.aborting.backends: SQLiteBackend StoreBackend StubBackend
localq.aborting.backends.sqlite: SQLiteBackend
localq.aborting.backends.stub: StubBackend
localq.aborting.middleware: Abort AbortMode Abortable abort abort_requested
localq.actor: Actor actor _queue_name_re
localq.broker: Broker Consumer MessageProxy get_broker set_broker global_broker
localq.brokers: SQLiteBroker StubBroker connect
localq.brokers.sqlite: SQLiteBroker
localq.brokers.stub: StubBroker _StubMessageProxy
localq.common: compute_backoff current_millis dq_name getenv_int iter_queue join_all join_queue q_name xq_name
localq.cli: CPUS HAS_WATCHDOG LOGFORMAT VERBOSITY import_broker main make_argument_parser
localq.composition: group pipeline
localq.encoder: Encoder JSONEncoder MessageData MsgpackEncoder PickleEncoder
localq.errors: DramatiqError BrokerError DecodeError ActorNotFound QueueNotFound QueueJoinTimeout RateLimitExceeded
    Retry BrokerConnectionError ConnectionClosed ConnectionFailed
localq.generic: GenericActor
localq.logging: get_logger
localq.message: Message get_encoder set_encoder
localq.middleware: AgeLimit Callbacks CurrentMessage GroupCallbacks Interrupt Middleware MiddlewareError Pipelines
    Retries Shutdown ShutdownNotifications SkipMessage TimeLimit TimeLimitExceeded default_middleware
    raise_thread_exception
localq.middleware.age_limit: AgeLimit
localq.middleware.callbacks: Callbacks
localq.middleware.current_message: CurrentMessage
localq.middleware.group_callbacks: GroupCallbacks
localq.middleware.middleware: Middleware
localq.middleware.pipelines: Pipelines
localq.middleware.retries: Retries
localq.middleware.shutdown: Shutdown ShutdownNotifications
localq.middleware.time_limit: TimeLimit TimeLimitExceeded
localq.rate_limits: Barrier BucketRateLimiter ConcurrentRateLimiter RateLimitExceeded RateLimiter RateLimiterBackend
    WindowRateLimiter
localq.rate_limits.backend: RateLimiterBackend
localq.rate_limits.backends: SQLiteBackend StubBackend
localq.rate_limits.backends.sqlite: SQLiteBackend
localq.rate_limits.backends.stub: StubBackend
localq.rate_limits.barrier: Barrier
localq.rate_limits.bucket: BucketRateLimiter
localq.rate_limits.concurrent: ConcurrentRateLimiter
localq.rate_limits.rate_limiter: RateLimiter RateLimitExceeded
localq.rate_limits.window: WindowRateLimiter
localq.results: Results ResultBackend ResultError ResultFailure ResultMissing ResultTimeout Missing
localq.results.backend: ResultBackend BACKOFF_FACTOR DEFAULT_TIMEOUT Missing MResult Result ResultMissing
    ResultTimeout compute_backoff
localq.results.backends: SQLiteBackend StubBackend
localq.results.backends.sqlite: SQLiteBackend
localq.results.backends.stub: StubBackend
localq.results.errors: ResultError ResultFailure ResultMissing ResultTimeout
localq.results.middleware: Results
localq.results.result: unwrap_result wrap_exception wrap_result
localq.store: Store Record open_store
localq.threading: Interrupt current_platform is_gevent_active raise_thread_exception supported_platforms
localq.worker: Worker ConsumerThread WorkerThread _ConsumerThread _WorkerThread WORKER_TIMEOUT
    CONSUMER_RESTART_DELAY CONSUMER_RESTART_DELAY_SECS QUEUE_PREFETCH DELAY_QUEUE_PREFETCH
"""
"""What programs import, and from where: dramatiq's paths, shallow and deep, and our own."""


def paths() -> list[tuple[str, str]]:
    entries = " ".join(PATHS.split()).replace(": ", ":\n").split()
    pairs, module = [], ""
    for entry in entries:
        if entry.endswith(":"):
            module = entry[:-1]
        else:
            pairs.append((module, entry))
    return pairs


@pytest.mark.parametrize(("module", "name"), paths())
def test_what_programs_import_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_what_the_root_promises_is_there() -> None:
    assert sorted(localq.__all__) == localq.__all__
    assert [name for name in localq.__all__ if not hasattr(localq, name)] == []
    assert len(set(localq.__all__)) == len(localq.__all__)
