"""The broker of those who set none: where its store is, and that nothing is touched before its first use."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import localq
from localq import Broker, BrokerError, Middleware, StoreError
from localq.brokers import SQLiteBroker
from localq.errors import StoreCorrupt, UnsafeLocation
from localq.location import default_location
from localq.middleware import default_middleware
from localq.results import Results

PACKAGE = Path(localq.__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder, which is the working directory of no one."""
    folder = tmp_path / "projects" / "shop"
    (folder / "scripts" / "deep").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    return folder


def run_python(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """What a fresh Python says, which knows localq and the test's data folder."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SAY_WHERE = "import localq; print(localq.get_broker().location.url)"


def url_of(script: Path, cwd: Path) -> str:
    script.write_text(SAY_WHERE)
    return run_python(script, cwd=cwd).strip()


# -- what it is


def test_the_default_broker_is_made_on_demand_and_remembered() -> None:
    assert localq.broker.global_broker is None

    broker = localq.get_broker()

    assert isinstance(broker, SQLiteBroker)
    assert localq.get_broker() is localq.broker.global_broker is broker


def test_setting_the_global_broker_to_none_has_another_one_made() -> None:
    first = localq.get_broker()

    localq.broker.global_broker = None

    assert localq.get_broker() is not first
    assert isinstance(localq.get_broker(), SQLiteBroker)


def test_the_default_broker_keeps_the_results_of_all_actors(drain: Callable[..., None]) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    message = add.send(1, 2)
    drain(localq.get_broker())

    assert message.get_result() == 3


def test_it_has_the_default_middleware_first_and_in_order() -> None:
    middleware = [type(one) for one in localq.get_broker().middleware]

    assert middleware[: len(default_middleware)] == default_middleware
    assert {"Results", "CurrentMessage"} <= {one.__name__ for one in middleware}


def test_set_broker_makes_a_broker_the_global_one(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker("memory://")

    localq.set_broker(broker)

    assert localq.get_broker() is localq.broker.global_broker is broker


# -- actors that were declared while no broker was set


def test_an_actor_declared_before_set_broker_moves_to_that_broker(
    make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    ran = []

    @localq.actor(queue_name="early")
    def early() -> None:
        ran.append("early")

    default = localq.get_broker()
    broker = make_broker("memory://")
    localq.set_broker(broker)
    early.send()

    assert early.broker is broker
    assert broker.get_actor("early") is early
    assert broker.get_declared_queues() == {"early"}
    assert default.get_declared_actors() == set()
    assert not default.is_open
    drain(broker)
    assert ran == ["early"]


def test_an_actor_declared_before_connect_moves_too(tmp_path: Path) -> None:
    @localq.actor
    def early() -> None: ...

    broker = localq.connect(f"sqlite:///{tmp_path}/jobs.db")
    early.send()

    assert early.broker is broker
    assert broker.get_queue_message_counts("default") == (1, 0, 0)
    assert not (tmp_path / "data").exists()


def test_the_middleware_of_the_new_broker_hears_of_actors_that_move(make_broker: Callable[..., Broker]) -> None:
    heard: list[str] = []

    class Hearing(Middleware):
        def after_declare_actor(self, broker: Broker, actor: localq.Actor[Any, Any]) -> None:
            heard.append(actor.actor_name)

        def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
            heard.append(queue_name)

    @localq.actor
    def early() -> None: ...

    localq.set_broker(make_broker("memory://", [Hearing()]))

    assert heard == ["default", "early"]


def test_an_actor_that_has_been_used_stays_where_its_messages_are(make_broker: Callable[..., Broker]) -> None:
    @localq.actor
    def early() -> None: ...

    early.send()
    default = localq.get_broker()

    try:
        localq.set_broker(make_broker("memory://"))
        assert early.broker is default
        assert default.get_queue_message_counts("default") == (1, 0, 0)
    finally:
        default.close()


def test_actors_of_a_broker_that_was_set_stay_with_it(make_broker: Callable[..., Broker]) -> None:
    first, second = make_broker("memory://"), make_broker("memory://")
    localq.set_broker(first)

    @localq.actor
    def work() -> None: ...

    localq.set_broker(second)

    assert work.broker is first
    assert second.get_declared_actors() == set()


class NotReadyBroker(Broker):
    """Stands in for a broker that is made later, as those of web frameworks do."""

    def __init__(self) -> None:
        pass  # nor is anything else there yet

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("not ready")


def test_a_broker_that_is_not_ready_can_be_set_and_replaced(make_broker: Callable[..., Broker]) -> None:
    early, late = NotReadyBroker(), make_broker("memory://")

    localq.set_broker(early)
    assert localq.get_broker() is early
    localq.set_broker(late)

    assert localq.get_broker() is late


def test_actors_may_be_on_the_broker_already_that_is_set(make_broker: Callable[..., Broker]) -> None:
    @localq.actor
    def act() -> None: ...

    broker = make_broker("memory://")
    broker.declare_actor(act)
    localq.set_broker(broker)
    assert broker.actors == {"act": act}


def test_an_actor_that_moved_gives_way_to_itself_declared_anew_and_to_no_other(
    make_broker: Callable[..., Broker],
) -> None:
    def declare() -> localq.Actor[Any, Any]:
        @localq.actor
        def act() -> None: ...

        return act

    declare()
    localq.set_broker(make_broker("memory://"))
    with pytest.raises(ValueError, match="'act' is already registered"):
        localq.actor(lambda: None, actor_name="act")
    again = declare()
    assert localq.get_broker().get_actor("act") is again
    with pytest.raises(ValueError, match="'act' is already registered"):
        declare()


def test_set_broker_refuses_a_broker_that_has_an_actor_of_that_name(make_broker: Callable[..., Broker]) -> None:
    @localq.actor
    def work() -> None: ...

    broker = make_broker("memory://")

    @localq.actor(actor_name="work", broker=broker)
    def another() -> None: ...

    with pytest.raises(ValueError, match="An actor named 'work' is already registered"):
        localq.set_broker(broker)
    assert broker.get_actor("work") is another


def test_set_broker_that_refuses_an_actor_leaves_all_as_it_was(make_broker: Callable[..., Broker]) -> None:
    @localq.actor
    def plain() -> None: ...

    @localq.actor(max_retries=3)
    def retried() -> None: ...

    default = localq.get_broker()
    bare = make_broker("memory://", [])

    with pytest.raises(ValueError, match="'retried' has options that no middleware"):
        localq.set_broker(bare)

    assert localq.get_broker() is default
    assert (plain.broker, retried.broker) == (default, default)
    assert default.get_declared_actors() == {"plain", "retried"}
    assert bare.get_declared_actors() == set()


# -- nothing is touched before it is needed

WATCHED = """
import sys

seen = []
WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.chmod", "os.link",
          "sqlite3.connect", "socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.exec",
          "_thread.start_new_thread", "mmap.__new__", "fcntl.flock", "fcntl.lockf", "fcntl.fcntl")

def watch(event, args):
    if event in WRITES:
        seen.append((event, repr(args)))
    if event == "open":
        path, mode, flags = args
        reading = mode in ("r", "rb") or (mode is None and flags & 3 == 0)
        if not reading or str(path).endswith((".db", ".toml", ".ini", ".env")):
            seen.append((event, repr(args)))

sys.addaudithook(watch)

import localq
import localq.brokers, localq.results.backends, localq.middleware, localq.threading

@localq.actor(max_retries=3)
def work(x): ...

@localq.actor(queue_name="other", on_success=work)
async def wait(): ...

broker = localq.get_broker()
message = work.message(1)
pipe = message | work.message()
group = localq.group([pipe, message])
assert not broker.is_open

import json, os
print(json.dumps({"touched": seen, "data": os.path.exists(os.environ["XDG_DATA_HOME"]), "folder": os.listdir()}))
work.send(1)
assert {"os.mkdir", "sqlite3.connect"} <= {event for event, _ in seen}, "the watch saw nothing of a send"
"""


def test_importing_a_module_with_actors_touches_no_disk_and_starts_no_thread(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()

    seen = json.loads(run_python("-c", WATCHED, cwd=folder))

    assert seen == {"touched": [], "data": False, "folder": []}


def test_actors_can_be_declared_where_the_url_is_wrong_and_the_first_use_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCALQ_URL", "nonsense://x")

    @localq.actor
    def work() -> None: ...

    with pytest.raises(BrokerError, match=r"'nonsense://x' names no store; use sqlite:///jobs\.db"):
        work.send()


def test_modules_and_names_of_the_root_are_reachable_after_one_import(tmp_path: Path) -> None:
    code = """
import localq, types
for name in ("broker", "worker", "errors", "middleware", "results", "message", "encoder"):
    assert isinstance(getattr(localq, name), types.ModuleType), name
assert localq.errors.Retry is localq.Retry
assert localq.results.Results
assert localq.broker.MessageProxy is localq.MessageProxy
import localq.actor
assert isinstance(localq.actor, types.FunctionType)
assert localq.DramatiqError is localq.LocalqError
"""
    run_python("-W", "error", "-c", code, cwd=tmp_path)


# -- which file


def test_the_file_is_made_private_at_the_first_send(tmp_path: Path) -> None:
    @localq.actor
    def work() -> None: ...

    assert not (tmp_path / "data").exists()
    work.send()

    file = Path(localq.get_broker().store.path)  # type: ignore[attr-defined]
    assert file.is_relative_to(tmp_path / "data" / "localq")
    assert file.name == "jobs.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert Path(localq.get_broker().location.folder) == file.parent


@pytest.mark.parametrize("marker", ["pyproject.toml", ".git"])
def test_the_scripts_of_one_project_share_a_file_wherever_they_are_run(tmp_path: Path, marker: str) -> None:
    root = tmp_path / "shop"
    (root / "scripts" / "deep").mkdir(parents=True)
    (root / marker).mkdir() if marker == ".git" else (root / marker).write_text("")

    urls = {
        url_of(root / "main.py", cwd=tmp_path),
        url_of(root / "scripts" / "deep" / "job.py", cwd=root),
    }

    (url,) = urls
    assert url.startswith(f"sqlite:///{tmp_path}/data/localq/shop-")


def test_two_projects_of_one_name_never_share_a_file(tmp_path: Path) -> None:
    urls = set()
    for owner in ("ann", "bob"):
        root = tmp_path / owner / "shop"
        root.mkdir(parents=True)
        (root / "pyproject.toml").write_text("")
        urls.add(url_of(root / "main.py", cwd=tmp_path))

    assert len(urls) == 2


def test_the_working_directory_decides_for_commands_and_for_code_without_a_script(
    project: Path, tmp_path: Path
) -> None:
    script = url_of(project / "main.py", cwd=tmp_path)

    assert run_python("-c", SAY_WHERE, cwd=project / "scripts").strip() == script
    assert run_python("-c", SAY_WHERE, cwd=tmp_path).strip() != script


def test_a_command_that_is_called_by_a_roundabout_path_is_a_command_still(project: Path, tmp_path: Path) -> None:
    command = os.path.join(sys.prefix, "lib", "..", "bin", "localq")
    pretend = f"import __main__; __main__.__file__ = {command!r}; " + SAY_WHERE
    url = run_python("-c", pretend, cwd=project)
    assert url == run_python("-c", SAY_WHERE, cwd=project)


def test_why_a_place_was_chosen_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = project / "scripts" / "job.py"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)

    assert default_location().why == (
        f"the queue of the project in {project} (the main script job.py is in it; pyproject.toml marks its root)"
    )

    (project / "pyproject.toml").unlink()
    (project / ".git").mkdir()
    assert ".git marks its root" in default_location().why


def test_a_script_outside_of_any_project_has_a_file_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "loose.py"), raising=False)

    location = default_location()

    assert (
        f"the project in {tmp_path} (the main script loose.py; no pyproject.toml or .git above it)" in location.why
    )
    assert Path(location.folder).name.startswith(f"{tmp_path.name}-")


# -- LOCALQ_URL and connect


@pytest.mark.parametrize("scheme", ["sqlite", "memory"])
def test_the_environment_variable_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    url = f"sqlite:///{tmp_path}/mine.db" if scheme == "sqlite" else "memory://"
    monkeypatch.setenv("LOCALQ_URL", url)

    broker = localq.get_broker()
    broker.store.counts()

    assert isinstance(broker, SQLiteBroker) == (scheme == "sqlite")
    assert broker.location.url == url
    assert broker.location.why == "the environment variable LOCALQ_URL is set"
    assert (tmp_path / "mine.db").exists() == (scheme == "sqlite")
    assert not (tmp_path / "data").exists()


def test_connect_makes_the_broker_of_that_url_the_global_one(tmp_path: Path, url: str) -> None:
    broker = localq.connect(url)

    assert localq.get_broker() is broker
    assert isinstance(broker, SQLiteBroker) == url.startswith("sqlite:")
    assert broker.location.url == url
    assert isinstance(broker.get_results_backend(), localq.results.ResultBackend)


def test_connect_takes_a_relative_path_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    broker = localq.connect("sqlite:///jobs.db")
    broker.declare_queue("default")

    assert (tmp_path / "jobs.db").exists()
    monkeypatch.chdir("/")
    assert broker.get_queue_message_counts("default") == (0, 0, 0)


def test_connect_without_a_url_uses_the_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALQ_URL", f"sqlite:///{tmp_path}/mine.db")

    broker = localq.connect()

    assert not broker.is_open
    assert broker.location.url.endswith("/mine.db")


def test_connect_takes_the_middleware_that_it_is_given() -> None:
    results = Results()

    assert localq.connect("memory://", middleware=[results]).middleware == [results]
    localq.get_broker().close()
    assert localq.connect("memory://", middleware=[]).middleware == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", r"'nonsense' names no store; use sqlite:///jobs\.db"),
        ("postgres://host/db", r"'postgres://host/db' names no store"),
        ("sqlite://jobs.db", r"three slashes .*four.*"),
        ("sqlite://", r"names no file"),
        ("sqlite:///", r"names no file"),
        ("sqlite:///:memory:", r"memory:// for a store without a file"),
        ("sqlite:////tmp/x.db?speed=high", r"option 'speed' that nobody knows; there are: durability"),
        ("sqlite:////tmp/x.db?gate_timeout=soon", r"gate_timeout is a number of milliseconds, not 'soon'"),
        ("sqlite:////tmp/x.db?durability=some", r"durability is normal or full, not 'some'"),
        ("", r"names no store"),
    ],
)
def test_a_url_that_is_wrong_is_refused_at_once_with_what_would_be_right(url: str, says: str) -> None:
    with pytest.raises(BrokerError, match=says):
        localq.connect(url)
    assert localq.broker.global_broker is None


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("buy milk\n" * 1000)

    with pytest.raises(StoreCorrupt, match=r"notes\.txt' is not an SQLite database; nothing was written"):
        localq.connect(f"sqlite:///{file}")

    assert file.read_text() == "buy milk\n" * 1000


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the folder '.*/missing' of '.*jobs\.db' does not exist; make it"):
        localq.connect(f"sqlite:///{tmp_path}/missing/jobs.db")


def test_a_folder_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(UnsafeLocation, match="everybody may write in .*chmod o-w"):  # noqa: RUF043
        localq.connect(f"sqlite:///{folder}/jobs.db")


def test_a_data_folder_that_cannot_be_made_is_named_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "occupied"))

    @localq.actor
    def work() -> None: ...

    with pytest.raises(BrokerError, match=r"occupied/.*cannot be made.*LOCALQ_URL.*localq\.connect"):
        work.send()


def test_an_sqlite_broker_takes_a_path_and_options(tmp_path: Path) -> None:
    broker = SQLiteBroker(path=tmp_path / "jobs.db", durability="full", gate_timeout=5000)

    broker.declare_queue("default")

    assert broker.get_queue_message_counts("default") == (0, 0, 0)
    assert (tmp_path / "jobs.db").exists()
    assert [type(one) for one in broker.middleware] == default_middleware
    broker.close()


def test_an_sqlite_broker_takes_a_url_in_their_place(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db?durability=full"
    broker = SQLiteBroker(url=url, middleware=[])
    localq.actor(lambda: None, actor_name="work", broker=broker).send()

    assert broker.location.url == url
    assert (tmp_path / "jobs.db").exists()
    broker.close()
    with pytest.raises(TypeError, match="path and url cannot be given together"):
        SQLiteBroker(tmp_path / "jobs.db", url=url)


def test_an_sqlite_broker_names_an_argument_that_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="speed"):
        SQLiteBroker(path=tmp_path / "jobs.db", speed="high")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="durability can only be given together with a path"):
        SQLiteBroker(durability="full")
