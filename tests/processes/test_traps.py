"""Python's own traps: programs that fork, are interrupted, run out of stack or memory, or come to their end,
and send meanwhile. What was acknowledged is there once, nothing hangs, and what cannot be is a named error.

Each program writes a line for each `send` that returned, in one write; `lab.notes` has them.
"""

from __future__ import annotations

import sys

import pytest

from localq import Message

from .support import Lab, Program, wait_until

PATIENCE = 60
"""Seconds after which a program counts as hanging."""

BEGINNING = """
import atexit, gc, multiprocessing, os, random, signal, subprocess, sys, threading, time, weakref
import localq, notes
from localq.errors import StoreError
from tasks import add, mail

broker = localq.get_broker()

def send(number):
    mail.send(number)
    notes.note("sent", number)
"""


def run(lab: Lab, text: str, *, code: int | None = 0) -> Program:
    """Run a program to its end, which must come; all that it acknowledged must be there, and once."""
    script = lab.start_script(BEGINNING + text)
    status = script.wait(PATIENCE)
    if code is not None:
        assert status == code, script.log()
    lab.wait_until_empty()
    assert "Fatal" not in script.log(), script.log()
    # A gate that was left held would show here.
    lab.broker.store.put([], now=1)
    assert lab.is_intact()
    numbers = [number_in(record.body) for record in lab.records()]
    sent = [int(note.split()[1]) for note in lab.notes("sent")]
    assert set(sent) <= set(numbers), "what was acknowledged is there"
    assert len(numbers) == len(set(numbers)), "and once"
    return script


def number_in(body: bytes) -> int:
    (number,) = Message.decode(body).args
    return int(number)


# -- signal handlers


@pytest.mark.parametrize("also", ["", "broker.store.counts()", "mail.message(1).encode()"])
def test_a_signal_handler_that_sends_at_random_moments(lab: Lab, also: str) -> None:
    script = run(
        lab,
        f"""
refused = handled = 0
numbers = iter(range(1_000_000, 2_000_000))
def handle(signum, frame):
    global refused, handled
    handled += 1
    try:
        send(next(numbers))
    except StoreError as error:
        assert "signal handler" in str(error), error
        refused += 1

signal.signal(signal.SIGALRM, handle)
for number in range(3000):
    # Once a round: a busy machine would let handlers be interrupted by handlers without end.
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0006))
    send(number)
    {also or "pass"}
signal.setitimer(signal.ITIMER_REAL, 0)
print(handled, refused)
""",
    )
    handled, refused = map(int, script.out().split())
    assert handled > 50
    assert len(lab.notes("sent")) == 3000 + handled - refused


def test_a_signal_handler_that_sends_while_the_program_waits_for_a_result(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    script = lab.start_script(
        BEGINNING
        + """
numbers = iter(range(1_000_000, 2_000_000))
refused = handled = 0
def handle(signum, frame):
    global handled, refused
    handled += 1
    try:
        if handled % 3:
            send(next(numbers))
        else:
            add.send(1, 1).get_result(block=True, timeout=20_000)
    except StoreError as error:
        assert "signal handler" in str(error), error
        refused += 1

signal.signal(signal.SIGALRM, handle)
for number in range(200):
    message = add.send(number, 1)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.003))
    assert message.get_result(block=True, timeout=30_000) == number + 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(handled, refused)
"""
    )
    assert script.wait(PATIENCE) == 0, script.log()
    lab.wait_until_done()
    sent = sorted(note.split()[1] for note in lab.notes("sent"))
    assert sorted(note.split()[1] for note in lab.notes("mail")) == sent
    assert sent
    pool.stop()


def test_ctrl_c_is_still_heard_in_a_program_whose_signal_handlers_send(lab: Lab) -> None:
    run(
        lab,
        """
numbers = iter(range(1_000_000, 2_000_000))
def handle(signum, frame):
    try:
        send(next(numbers))
    except StoreError:
        pass
signal.signal(signal.SIGALRM, handle)
for number in range(3000):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0006))
    send(number)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, number
signal.setitimer(signal.ITIMER_REAL, 0)
signal.raise_signal(signal.SIGINT)
""",
        code=-2,
    )


def test_handlers_of_an_event_loop_hear_a_signal_once_and_may_send(lab: Lab) -> None:
    script = run(
        lab,
        """
import asyncio

async def main():
    loop, heard = asyncio.get_running_loop(), []
    numbers = iter(range(1_000_000, 2_000_000))
    for number in (signal.SIGINT, signal.SIGUSR1):
        loop.add_signal_handler(number, lambda n=number: (heard.append(n), send(next(numbers))))
    told = 0
    stop = threading.Event()
    for number in range(300):
        if number % 3 == 0:
            # In the middle of a send.
            killer = threading.Thread(target=os.kill, args=(os.getpid(), (signal.SIGINT, signal.SIGUSR1)[told % 2]))
            killer.start()
            told += 1
            send(number)
            killer.join()
        else:
            await mail.asend(number)
        for _ in range(1000):
            if len(heard) >= told:
                break
            await asyncio.sleep(0.001)
        assert len(heard) == told, (len(heard), told)
    print(told, len(heard))

asyncio.run(main())
""",
    )
    assert script.out().split() == ["100", "100"]


def test_a_handler_that_sends_in_the_middle_of_the_first_send(lab: Lab) -> None:
    script = run(
        lab,
        """
refused = []
def interrupt(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "<module>" and "urllib" in frame.f_code.co_filename:
        try:
            send(1)
        except StoreError as error:
            refused.append(str(error))

sys.modules.pop("urllib.parse", None)
sys.setprofile(interrupt)
send(2)
sys.setprofile(None)
print(refused)
""",
    )
    assert "a signal handler must not do so" in script.out()
    assert lab.notes("sent") == ["sent 2"]


# -- forks, of all kinds


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_send_and_wait_for_results(lab: Lab, method: str) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    script = lab.start_script(
        BEGINNING
        + f"""
from concurrent.futures import ProcessPoolExecutor

def work(first):
    for number in range(first, first + 20):
        send(number)
    return add.send(first, 1).get_result(block=True, timeout=30_000)

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    assert add.send(1, 2).get_result(block=True, timeout=30_000) == 3
    with ProcessPoolExecutor(3, mp_context=context) as executor:
        assert list(executor.map(work, range(0, 200, 20))) == list(range(1, 201, 20))
    child = context.Process(target=work, args=(200,))
    child.start()
    send(1000)
    child.join()
    assert child.exitcode == 0
"""
    )
    assert script.wait(PATIENCE) == 0, script.log()
    lab.wait_until_done()
    assert sorted(int(note.split()[1]) for note in lab.notes("mail")) == [*range(220), 1000]
    pool.stop()


def test_threads_that_fork_while_others_are_in_the_middle_of_sending(lab: Lab) -> None:
    run(
        lab,
        """
def send_many(first):
    for number in range(first, first + 200):
        send(number)

def fork_many(first):
    for number in range(first, first + 10):
        child = os.fork()
        if not child:
            send(number)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

threads = [threading.Thread(target=send_many, args=(first,)) for first in (0, 1000)]
threads += [threading.Thread(target=fork_many, args=(first,)) for first in (2000, 3000)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    )
    assert len(lab.notes("sent")) == 420


def test_a_daemon_that_forks_twice(lab: Lab) -> None:
    run(
        lab,
        """
send(0)
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in range(1, 100):
        send(number)
    sys.exit(0)
send(100)
""",
    )
    wait_until(lambda: len(lab.notes("sent")) == 101)


def test_programs_that_are_started_while_a_thread_sends(lab: Lab) -> None:
    run(
        lab,
        """
def send_many():
    for number in range(300):
        send(number)
sender = threading.Thread(target=send_many)
sender.start()
for number in range(1000, 1005):
    code = f"import localq, notes; from tasks import mail; mail.send({number}); notes.note('sent', {number})"
    if number >= 500:
        subprocess.run([sys.executable, "-c", code], check=True)
    else:
        child = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
        assert os.waitpid(child, 0)[1] == 0
sender.join()
""",
    )
    assert len(lab.notes("sent")) == 305


# -- the end of a program


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("pool", ["", "with localq.pool(processes=1):\n    "])
def test_to_send_at_exit(lab: Lab, pool: str, threads: bool) -> None:
    run(
        lab,
        f"""
def at_exit():
    if {threads}:
        others = [threading.Thread(target=send, args=(n,)) for n in range(10, 13)]
        try:
            for other in others: other.start()
        except RuntimeError:  # newer Pythons start none any more
            pass
        else:
            for other in others: other.join()
    for number in range(10):
        send(number)
atexit.register(at_exit)
if __name__ == "__main__":
  {pool}assert broker
""",
    )
    assert len(lab.notes("sent")) in (10, 13)


@pytest.mark.parametrize("daemon", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_threads_that_send_while_the_interpreter_shuts_down(lab: Lab, daemon: bool, at_once: bool) -> None:
    for _ in range(3):
        run(
            lab,
            f"""
base = random.randrange(2**40) * 1000_000
stop = time.monotonic() + 0.3
def send_for_ever(first):
    number = first
    while {daemon} or time.monotonic() < stop:
        number += 1
        send(number)
for thread in range(4):
    threading.Thread(target=send_for_ever, args=(base + thread * 100_000,), daemon={daemon}).start()
if not {at_once}:
    time.sleep(random.uniform(0.05, 0.2))
""",
        )


def test_to_send_from_finalizers_at_any_time(lab: Lab) -> None:
    script = run(
        lab,
        """
refused = []
numbers = iter(range(1_000_000, 2_000_000))
def try_to_send(*_):
    try:
        send(next(numbers))
    except StoreError as error:
        refused.append(error)

class Sends:
    def __init__(self):
        self.me = self  # only the garbage collector ends it
    def __del__(self):
        try_to_send()

class Watched:
    pass

gc.set_threshold(50, 2, 2)
references = []
for number in range(1000):
    Sends()
    watched = Watched()
    watched.me = watched
    references.append(weakref.ref(watched, try_to_send))
    if number >= 500:
        del watched
        gc.collect()  # in between; else mostly in the middle of a send, which allocates most
    send(number)
gc.collect()
last, kept = Sends(), weakref.finalize(broker, try_to_send)
print(len(refused))
""",
    )
    sent, refused = len(lab.notes("sent")), int(script.out())
    assert 3000 <= sent + refused <= 3002  # the last two come after the count
    assert sent > 1800
    assert refused > 0


def test_a_thread_that_exits_in_the_middle_of_a_send(lab: Lab) -> None:
    run(
        lab,
        """
class Leaves(localq.Middleware):
    def after_enqueue(self, broker, message, delay):
        if message.args[0] % 2:
            sys.exit(1)
    def before_enqueue(self, broker, message, delay):
        if message.args[0] % 3 == 0:
            sys.exit(1)
broker.add_middleware(Leaves())
for number in range(100):
    thread = threading.Thread(target=send, args=(number,))
    thread.start()
    thread.join()
broker.store.counts()
""",
    )
    assert len(lab.notes("sent")) > 20


def test_a_process_that_exits_in_the_middle_of_a_send(lab: Lab) -> None:
    run(
        lab,
        """
for first in range(0, 3000, 100):
    child = os.fork()
    if not child:
        threading.Timer(random.uniform(0, 0.01), os._exit, (0,)).start()
        for number in range(first, first + 100):
            send(number)
        os._exit(0)
    os.waitpid(child, 0)
""",
    )


# -- too little of something


def test_the_end_of_the_stack_in_the_middle_of_a_send_leaves_nothing_held(lab: Lab) -> None:
    script = run(
        lab,
        """
numbers = iter(range(10_000))
failed = 0
def deep(levels):
    global failed
    if levels:
        return deep(levels - 1)
    try:
        send(next(numbers))
    except RecursionError:
        failed += 1

sys.setrecursionlimit(300)
for round_ in range(3):
    for levels in range(200, 299):
        try:
            deep(levels)
            broker.store.counts() if levels < 270 else None
        except RecursionError:
            failed += 1
        assert not broker.store.database.gate.is_inside, levels
        assert not broker.store.database.lock.is_owned(), levels
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, levels
sys.setrecursionlimit(1000)
print(failed)
send(20_000)
""",
    )
    assert int(script.out()) > 10


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to its limit")
def test_the_end_of_the_memory_in_the_middle_of_a_send_leaves_nothing_held(lab: Lab) -> None:
    script = lab.start_script(
        BEGINNING
        + """
import resource
send(0)
def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
failed = 0
large = "x" * 1_000_000
for number in range(1, 100):
    resource.setrlimit(resource.RLIMIT_AS, (used() + random.randrange(8_000_000), hard))
    try:
        mail.send(number, large)
    except (MemoryError, StoreError):
        failed += 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert not broker.store.database.gate.is_inside
    assert not broker.store.database.lock.is_owned()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(failed)
send(1000)
""",
        MALLOC_MMAP_THRESHOLD_="65536",  # so that what is freed counts as free
    )
    assert script.wait(PATIENCE) == 0, script.log()
    assert int(script.out()) > 5
    assert lab.is_intact()


# -- other hosts


def test_a_test_suite_of_a_user_under_xdist(lab: Lab) -> None:
    lab.write(
        "test_shop.py",
        """
import pytest, localq

@pytest.fixture
def broker(tmp_path):
    broker = localq.connect(f"sqlite:///{tmp_path}/jobs.db")
    yield broker
    broker.close()

@pytest.mark.parametrize("number", range(12))
def test_a_message(broker, number):
    double = localq.actor(lambda x: 2 * x, actor_name="double", broker=broker)
    worker = localq.Worker(broker, worker_threads=1)
    worker.start()
    assert double.send(number).get_result(block=True, timeout=30_000) == 2 * number
    worker.stop()

@pytest.mark.parametrize("number", range(4))
def test_a_shared_queue(number):
    broker = localq.connect()
    broker.enqueue(localq.Message("default", "mail", (number,), {}, {}))
""",
    )
    suite = lab.start_python("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_shop.py")
    assert suite.wait(2 * PATIENCE) == 0, suite.out()
    assert "16 passed" in suite.out()
    lab.wait_until_empty()
    assert lab.states() == {"waiting": 4}


SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        print("none here"); sys.exit(0)
send(0)
code = '''
import sys
try:
    import localq
except ImportError as error:
    print("named:", error, flush=True)
else:
    try:
        localq.get_broker().enqueue(localq.Message("default", "mail", (1,), {}, {}))
    except (ImportError, localq.errors.StoreError) as error:
        print("named:", error, flush=True)
    else:
        print("sent", flush=True)
'''
try:
    interpreter = interpreters.create()
    failed = interpreters.run_string(interpreter, code)
except ImportError as error:
    failed = None
    print("named:", error, flush=True)
assert failed is None, failed
send(2)
"""


def test_a_subinterpreter_sends_or_says_what_is_missing(lab: Lab) -> None:
    script = lab.start_script(BEGINNING + SUBINTERPRETER)
    assert script.wait(PATIENCE) == 0, script.log() + script.out()
    assert script.out().startswith(("none here", "sent", "named:"))
    assert lab.is_intact()
