"""`install_as_dramatiq`: what imports dramatiq gets localq, in a process of its own each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REAL_DRAMATIQ = """
    __version__ = "2.2.1"
"""
TASKS = """
    import dramatiq
    from dramatiq.middleware import CurrentMessage

    @dramatiq.actor
    def add(x, y):
        return x + y

    @dramatiq.actor(max_retries=0)
    def fail():
        raise RuntimeError("on purpose")

    @dramatiq.actor
    def where():
        import sys
        from dramatiq.worker import Worker
        return sys.modules["dramatiq"].__name__, Worker.__module__
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python with these arguments in an empty folder; a script may be given as text."""

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        ran = subprocess.run(
            [sys.executable, "-W", "error", *map(textwrap.dedent, arguments)],
            capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment,
        )  # fmt: skip
        assert not check or ran.returncode == 0, ran.stderr
        return ran

    return run


@pytest.fixture
def printed(run: Run) -> Callable[[str], Any]:
    """What a script prints, as JSON, after localq was installed as dramatiq."""
    install = "import json, sys, localq\nlocalq.install_as_dramatiq()\n"
    return lambda script: json.loads(run("-c", install + textwrap.dedent(script)).stdout)


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text), "utf-8")


# -- imports


@pytest.mark.parametrize(
    "path",
    [
        "dramatiq",
        "dramatiq.broker",
        "dramatiq.brokers.stub",
        "dramatiq.cli",
        "dramatiq.errors",
        "dramatiq.message",
        "dramatiq.middleware.prometheus",
        "dramatiq.middleware.threading",
        "dramatiq.rate_limits.backends.stub",
        "dramatiq.results.backends.stub",
        "dramatiq.threading",
        "dramatiq.worker",
    ],
)
def test_every_module_of_dramatiq_is_the_very_module_of_localq(printed: Callable[[str], Any], path: str) -> None:
    ours = path.replace("dramatiq", "localq", 1)
    assert printed(f"""
        import importlib
        theirs = importlib.import_module({path!r})
        print(json.dumps(theirs is importlib.import_module({ours!r})))
    """)


@pytest.mark.parametrize(
    "statement",
    [
        "import dramatiq",
        "import dramatiq.actor",
        "from dramatiq.actor import Actor; import dramatiq",
        "import importlib, dramatiq; importlib.import_module('dramatiq.actor')",
    ],
)
def test_actor_stays_the_decorator(printed: Callable[[str], Any], statement: str) -> None:
    assert printed(f"""
        {statement}

        @dramatiq.actor
        def add(x, y): return x + y

        print(json.dumps([type(add).__name__, add(1, 2), dramatiq.actor is localq.actor]))
    """) == ["Actor", 3, True]


def test_what_is_reached_without_an_import_of_its_own(printed: Callable[[str], Any]) -> None:
    assert printed("""
        import dramatiq
        print(json.dumps([
            dramatiq.broker.MessageProxy.__name__,
            dramatiq.errors.Retry.__name__,
            dramatiq.results.Results.__name__,
        ]))
    """) == ["MessageProxy", "Retry", "Results"]


def test_no_module_exists_twice(printed: Callable[[str], Any]) -> None:
    assert printed("""
        import importlib, pkgutil
        import dramatiq
        names = [each.name for each in pkgutil.walk_packages(dramatiq.__path__, "dramatiq.")]
        for name in names:
            if not name.endswith("__main__"):
                importlib.import_module(name)
        files = {}
        for name, module in list(sys.modules.items()):
            if name.startswith(("dramatiq", "localq")):
                files.setdefault(module.__file__, set()).add(id(module))
        print(json.dumps([file for file, copies in files.items() if len(copies) > 1]))
    """) == []


def test_a_module_that_nobody_has_is_not_there(printed: Callable[[str], Any]) -> None:
    assert printed("""
        try:
            import dramatiq.brokers.pigeon
        except ModuleNotFoundError as error:
            print(json.dumps([str(error), error.name]))
    """) == ["No module named 'dramatiq.brokers.pigeon'", "dramatiq.brokers.pigeon"]


ABSENT = """
    dramatiq.brokers.rabbitmq:RabbitmqBroker dramatiq.brokers.redis:RedisBroker
    dramatiq.rate_limits.backends:MemcachedBackend dramatiq.rate_limits.backends.redis:RedisBackend
    dramatiq.results.backends:RedisBackend dramatiq.results.backends.memcached:MemcachedBackend
"""


@pytest.mark.parametrize("path", ABSENT.split())
def test_what_needs_a_server_can_be_imported_and_asked_for_but_not_made(
    printed: Callable[[str], Any], path: str
) -> None:
    module, _, name = path.partition(":")
    base = {"brokers": "dramatiq.Broker", "results": "dramatiq.results.ResultBackend"}.get(
        module.split(".")[1], "dramatiq.rate_limits.RateLimiterBackend"
    )
    refusals = printed(f"""
        import dramatiq, dramatiq.rate_limits
        from {module} import {name}

        assert issubclass({name}, {base})
        assert not isinstance(dramatiq.get_broker(), {name})

        class Fake({name}):
            def __init__(self): pass

        Fake()
        refusals = []
        for make in ({name}, type("Derived", ({name},), {{}})):
            try:
                make(url="redis://localhost")
            except ImportError as error:
                refusals.append(str(error))
        print(json.dumps(refusals))
    """)
    assert len(refusals) == 2
    assert all(name in refusal and "localq" in refusal and "install dramatiq" in refusal for refusal in refusals)


def test_a_test_can_replace_what_needs_a_server(printed: Callable[[str], Any]) -> None:
    assert printed("""
        from unittest import mock
        with mock.patch("dramatiq.brokers.redis.RedisBroker") as broker:
            from dramatiq.brokers.redis import RedisBroker
            RedisBroker(url="redis://localhost")
        print(json.dumps(broker.call_args.kwargs))
    """) == {"url": "redis://localhost"}


def test_nothing_that_needs_a_server_is_there_without_it(run: Run) -> None:
    for statement in ("import localq.brokers.redis", "from localq.results.backends import RedisBackend"):
        assert "ImportError" in run("-c", statement, check=False).stderr.replace("ModuleNotFound", "Import")


def test_the_two_names_share_one_global_broker(printed: Callable[[str], Any]) -> None:
    assert printed("""
        import dramatiq, dramatiq.broker
        from dramatiq.brokers.stub import StubBroker
        from unittest import mock
        broker = StubBroker()
        dramatiq.set_broker(broker)
        same = localq.get_broker() is broker
        with mock.patch("dramatiq.broker.global_broker", None):
            patched = localq.broker.global_broker is None
        print(json.dumps([same, patched]))
    """) == [True, True]


def test_installing_twice_does_no_harm(printed: Callable[[str], Any]) -> None:
    assert printed("""
        finders = len(sys.meta_path)
        localq.install_as_dramatiq()
        import dramatiq
        print(json.dumps([len(sys.meta_path) - finders, dramatiq is localq]))
    """) == [0, True]


def test_it_goes_before_an_installed_dramatiq(tmp_path: Path, printed: Callable[[str], Any]) -> None:
    write(tmp_path, "dramatiq/__init__.py", REAL_DRAMATIQ)
    assert printed("import dramatiq; print(json.dumps(dramatiq is localq))")


def test_it_refuses_when_the_real_dramatiq_was_imported(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "dramatiq/__init__.py", REAL_DRAMATIQ)
    ran = run("-c", "import dramatiq, localq; localq.install_as_dramatiq()", check=False)
    assert ran.returncode == 1
    message = ran.stderr.splitlines()[-1]
    assert message.startswith("RuntimeError: the real dramatiq was imported already, from ")
    assert str(tmp_path / "dramatiq" / "__init__.py") in message
    assert "before the first import of dramatiq" in message


def test_nothing_is_called_dramatiq_where_it_was_not_installed(run: Run) -> None:
    script = """
        import localq, sys, logging
        import localq.worker
        print([name for name in sys.modules if name.startswith("dramatiq")])
        print(localq.get_logger("localq.worker", "Worker").name)
    """
    assert run("-c", script).stdout.splitlines() == ["[]", "localq.worker.Worker"]


def test_packages_that_ask_for_the_version_of_dramatiq_get_the_one_that_is_matched(
    printed: Callable[[str], Any],
) -> None:
    assert printed("""
        from importlib.metadata import distribution, version
        print(json.dumps([version("dramatiq"), distribution("dramatiq").metadata["Name"], version("localq")]))
    """)[:2] == ["2.2.1", "dramatiq"]


def test_an_installed_dramatiq_tells_its_own_version(tmp_path: Path, printed: Callable[[str], Any]) -> None:
    write(tmp_path, "dramatiq-1.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: dramatiq\nVersion: 1.9\n")
    assert printed("""
        from importlib.metadata import version
        print(json.dumps(version("dramatiq")))
    """) == "1.9"


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_what_multiprocessing_starts_has_it_too(tmp_path: Path, run: Run, start_method: str) -> None:
    write(tmp_path, "tasks.py", """
        import dramatiq, multiprocessing

        def tell(queue):
            queue.put(dramatiq.__name__)

        def start(context, target, *arguments):
            process = context.Process(target=target, args=arguments)
            process.start()
            process.join(30)

        def start_another(method, queue):
            start(multiprocessing.get_context(method), tell, queue)
    """)  # fmt: skip
    # From outside, as a test runner does: the main module of a fresh process installs nothing.
    ran = run("-c", f"""
        import localq
        localq.install_as_dramatiq()
        import multiprocessing, tasks
        context = multiprocessing.get_context({start_method!r})
        queue = context.Queue()
        tasks.start(context, tasks.tell, queue)
        tasks.start(context, tasks.start_another, {start_method!r}, queue)
        print(queue.get(timeout=5), queue.get(timeout=5))
    """)  # fmt: skip
    assert ran.stdout == "localq localq\n"


# -- encoders


def test_messages_and_results_are_in_json_as_packages_expect(printed: Callable[[str], Any]) -> None:
    assert printed("""
        import dramatiq
        from dramatiq.brokers.stub import StubBroker
        from dramatiq.results import Results
        from dramatiq.results.backends import StubBackend
        broker = StubBroker()
        broker.add_middleware(Results(backend=StubBackend(), store_results=True))
        dramatiq.set_broker(broker)

        @dramatiq.actor
        def echo(x): return x

        sent = echo.send((1, 2))
        on_the_queue = json.loads(broker.queues["default"].queue[0])
        try:
            echo.send(object())
        except TypeError as error:
            refused = "args[0]" in str(error)
        worker = dramatiq.Worker(broker, worker_threads=1)
        worker.start()
        result = sent.get_result(block=True)
        worker.stop()
        dramatiq.set_encoder(localq.MsgpackEncoder())
        print(json.dumps([on_the_queue == json.loads(json.dumps(sent.asdict())), refused, result,
                          type(dramatiq.get_encoder()).__name__]))
    """) == [True, True, [1, 2], "MsgpackEncoder"]


def test_messages_of_programs_without_it_are_read_all_the_same(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "sends.py", """
        import localq
        localq.connect("sqlite:///jobs.db").enqueue(localq.Message("default", "show", (b"bytes",), {}, {}))
    """)
    write(tmp_path, "works.py", """
        import localq
        localq.install_as_dramatiq()
        import dramatiq
        broker = localq.connect("sqlite:///jobs.db")
        show = dramatiq.actor(lambda x: print(x), actor_name="show")
        show.send("text")
        worker = dramatiq.Worker(broker, worker_threads=1)
        worker.start()
        worker.join()
    """)
    run("sends.py")
    assert run("works.py").stdout == "b'bytes'\ntext\n"


# -- loggers and tracebacks


def test_loggers_bear_the_names_that_dramatiq_has(printed: Callable[[str], Any]) -> None:
    assert printed("""
        import logging
        heard = []
        class Ears(logging.Handler):
            def emit(self, record):
                heard.append([record.name, record.levelname])
        logging.getLogger("dramatiq").addHandler(Ears())

        import dramatiq
        from dramatiq.brokers.stub import StubBroker
        dramatiq.set_broker(StubBroker())

        @dramatiq.actor(max_retries=0)
        def fail():
            raise RuntimeError("on purpose")

        fail.send()
        worker = dramatiq.Worker(dramatiq.get_broker(), worker_threads=1)
        worker.start()
        dramatiq.get_broker().join("default", fail_fast=False)
        worker.stop()
        dramatiq.middleware.threading.raise_thread_exception(2 ** 40 + 7, dramatiq.middleware.Interrupt)
        print(json.dumps(heard))
    """) == [
        ["dramatiq.worker.WorkerThread", "ERROR"],
        ["dramatiq.middleware.retries.Retries", "WARNING"],
        ["dramatiq.threading", "CRITICAL"],
    ]


# -- pools and the command line


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_the_processes_of_a_pool_have_it_too(tmp_path: Path, run: Run, start_method: str) -> None:
    write(tmp_path, "tasks.py", TASKS)
    guard = "if __name__ == '__main__':"
    # A forked process has what its program has; a fresh one is told, and imports the main module again.
    top, inside = "pass", "localq.install_as_dramatiq()"
    if start_method == "spawn":
        top, inside = inside, top
    write(tmp_path, "main.py", f"""
        import localq
        {top}
        {guard}
            {inside}
            import tasks
            with localq.pool(processes=1, start_method={start_method!r}):
                print(tasks.add.send(1, 2).get_result(block=True))
                print(tasks.where.send().get_result(block=True))
    """)
    assert run("main.py").stdout.splitlines() == ["3", "['localq', 'localq.worker']"]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize(
    "order", ["--as-dramatiq tasks {}", "tasks {} --as-dramatiq", "--as-dramatiq worker tasks {}"]
)
def test_the_command_line_installs_it(tmp_path: Path, run: Run, order: str, start_method: str) -> None:
    write(tmp_path, "tasks.py", TASKS)
    arguments = order.format(f"-p 1 --start-method {start_method}").split()
    send = "import localq; localq.install_as_dramatiq(); import tasks; print(tasks.{}.get_result(block=True))"
    with subprocess.Popen(
        [sys.executable, "-m", "localq", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as workers:
        try:
            assert run("-c", send.format("add.send(2, 3)")).stdout == "5\n"
            failed = run("-c", send.format("fail.send()"), check=False)
            assert "ResultFailure: actor raised RuntimeError: on purpose" in failed.stderr
        finally:
            workers.terminate()
            _, log = workers.communicate(timeout=30)
    assert workers.returncode == 0
    assert "[dramatiq.worker.WorkerThread] [ERROR] Failed to process message fail() with unhandled" in log
    assert run("-m", "localq", "--as-dramatiq", "status", "--app", "tasks").returncode == 0


def test_without_the_flag_the_module_cannot_be_imported(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "tasks.py", TASKS)
    ran = run("-m", "localq", "tasks", "-p", "1", check=False)
    assert ran.returncode == 2
    assert "No module named 'dramatiq'" in ran.stderr


def test_all_that_a_pool_logs_bears_the_names_that_dramatiq_has(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "tasks.py", """
        import os, signal
        import dramatiq

        class StopThePool(dramatiq.Middleware):
            def after_worker_boot(self, broker, worker):
                os.kill(os.getppid(), signal.SIGTERM)

        dramatiq.get_broker().add_middleware(StopThePool())

        @dramatiq.actor
        def act(): ...
    """)
    log = run("-m", "localq", "--as-dramatiq", "tasks", "-p", "1").stderr
    assert "Worker process is ready for action." in log
    assert "[localq." not in log


def test_the_module_can_be_run_where_every_process_installs_it(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "sitecustomize.py", "import localq; localq.install_as_dramatiq()")
    assert run("-m", "dramatiq", "--version").stdout == run("-m", "localq", "--version").stdout


COMMAND = "import sys; from localq.cli import dramatiq; sys.argv[0] = 'dramatiq'; dramatiq()"


def test_the_command_named_dramatiq_is_localq_as_dramatiq(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "tasks.py", "import dramatiq, localq; assert dramatiq is localq; import no_such_module")
    ran = run("-c", COMMAND, "tasks", "--processes", "1", check=False)
    assert ran.returncode == 2
    assert "No module named 'no_such_module'" in ran.stderr


def test_the_command_named_dramatiq_takes_all_words_behind_an_option_that_takes_many(
    tmp_path: Path, run: Run
) -> None:
    write(tmp_path, "here/tasks.py", "import more")
    write(tmp_path, "there/more.py", "import no_such_module")
    ran = run("-c", COMMAND, "--path", "here", "there", "--processes", "1", "tasks", check=False)
    assert ran.returncode == 2
    assert "No module named 'no_such_module'" in ran.stderr


def test_the_command_named_dramatiq_is_left_to_an_installed_dramatiq(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "dramatiq/__init__.py", REAL_DRAMATIQ)
    write(tmp_path, "dramatiq/__main__.py", "def main(): print('the real one')")
    write(tmp_path, "dramatiq-2.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: dramatiq\nVersion: 2.2.1\n")
    write(tmp_path, "dramatiq-2.2.1.dist-info/entry_points.txt", """
        [console_scripts]
        dramatiq = dramatiq.__main__:main
    """)  # fmt: skip
    assert run("-c", COMMAND, "tasks").stdout == "the real one\n"


def test_the_words_of_the_command_line_can_be_parsed_and_run_by_a_program(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "tasks.py", TASKS)
    write(tmp_path, "main.py", """
        import os, signal, sys
        import localq
        localq.install_as_dramatiq()
        import dramatiq
        from dramatiq.cli import CPUS, HAS_WATCHDOG, LOGFORMAT, VERBOSITY, import_broker, main, make_argument_parser
        module, broker = import_broker("tasks")
        assert module is sys.modules["tasks"] and "add" in broker.actors
        words = ["--path", ".", "there", "--processes", "1", "--threads", "2", "tasks"]
        words += ["--queues", "mail", "default", "-v"]
        arguments = make_argument_parser().parse_args(words)
        print(arguments.processes, arguments.threads, arguments.broker, arguments.queues, arguments.verbose)
        print(arguments.path)

        @dramatiq.actor
        def end():
            os.kill(os.getppid(), signal.SIGTERM)

        end.send()
        main(arguments)
    """)
    assert run("main.py").stdout == "1 2 tasks ['mail', 'default'] 1\n['.', 'there']\n"


def test_a_program_may_change_what_was_parsed_and_add_words_of_its_own(tmp_path: Path, run: Run) -> None:
    write(tmp_path, "tasks.py", TASKS)
    write(tmp_path, "main.py", """
        import os, signal, sys
        import localq
        localq.install_as_dramatiq()
        import dramatiq
        from dramatiq.cli import CPUS, main, make_argument_parser
        parser = make_argument_parser()
        parser.add_argument("--greeting")
        arguments, rest = parser.parse_known_args(["worker", "--greeting", "hello", "--unknown"])
        assert (arguments.greeting, rest, arguments.processes) == ("hello", ["--unknown"], CPUS)
        arguments.broker, arguments.processes, arguments.path = "tasks", 1, [".", "elsewhere"]

        @dramatiq.actor
        def end():
            os.kill(os.getppid(), signal.SIGTERM)

        end.send()
        main(arguments)
    """)
    run("main.py")


def test_the_words_of_what_was_parsed_say_the_same(run: Run) -> None:
    words = "tasks more -p 2 -t 3 -Q a b -P x y --pid-file f --log-file l --skip-logging -vv --fork m:f --fork m:g"
    words += " --worker-fork-timeout 50 --worker-shutdown-timeout 7 --use-spawn --watch . -i *.html -x tmp"
    script = f"""
        from localq.cli import make_argument_parser as make
        from localq.cli.as_dramatiq import words_of
        from localq.cli.worker import worker
        arguments = make().parse_args({words!r}.split())
        again = worker.make_context("localq", words_of(arguments)).params
        first = worker.make_context("localq", {words!r}.split()).params
        assert first == again, (first, again)
        assert (arguments.forks, arguments.modules) == (["m:f", "m:g"], ["more"])
    """
    run("-c", script)


def test_words_that_are_wrong_end_the_program_that_parses_them(run: Run) -> None:
    script = "from localq.cli import make_argument_parser as make; make().parse_args(['tasks', '-p', 'many'])"
    ran = run("-c", script, check=False)
    assert ran.returncode == 2
    assert "argument -p/--processes: invalid int value: 'many'" in ran.stderr
