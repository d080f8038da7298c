"""dramatiq-abort interrupts and cancels messages. Its RedisBackend needs a Redis server; localq's SQLiteBackend
for its own `Abortable` has the methods of an event backend, so that it serves this one too."""

from __future__ import annotations

import pytest

from ..processes.support import Lab

TASKS = """
    import time
    import dramatiq
    from dramatiq.brokers.sqlite import SQLiteBroker
    from dramatiq_abort import Abort, Abortable
    from localq.aborting.backends import SQLiteBackend
    from notes import note

    broker = SQLiteBroker("jobs.db")
    broker.add_middleware(Abortable(backend=SQLiteBackend("jobs.db")))
    dramatiq.set_broker(broker)

    @dramatiq.actor(max_retries=0)
    def work():
        note("works")
        try:
            while True:
                time.sleep(0.01)
        except Abort:
            note("hears")
            raise
"""
ABORT = "import sys, tasks, dramatiq_abort; dramatiq_abort.abort(sys.argv[1])"


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_running_message_is_interrupted_from_another_process(lab: Lab, threads: str) -> None:
    lab.write("tasks.py", TASKS)
    pool = lab.start_pool("tasks", "-p", "1", "-t", threads)
    message = lab.send("work")
    lab.wait_for_notes("works")

    assert lab.start_python("-c", ABORT, message.message_id).wait() == 0

    assert str(lab.wait_until_dead(message).reason).startswith("Abort")
    assert lab.notes() == ["works", "hears"]
    pool.stop()


def test_a_waiting_message_never_runs(lab: Lab) -> None:
    lab.write("tasks.py", TASKS)
    message = lab.send("work")

    assert lab.start_python("-c", ABORT, message.message_id).wait() == 0

    pool = lab.start_pool("tasks", "-p", "1")
    lab.wait_until_done()
    assert lab.notes() == []
    pool.stop()


def test_its_stub_backend_aborts_within_one_process(lab: Lab) -> None:
    program = lab.start_script("""
        import dramatiq, threading, time
        from dramatiq.brokers.stub import StubBroker
        from dramatiq_abort import Abort, Abortable, abort, abort_requested
        from dramatiq_abort.backends import StubBackend

        broker = StubBroker(middleware=[Abortable(backend=StubBackend())])
        dramatiq.set_broker(broker)
        started = threading.Event()

        @dramatiq.actor
        def work():
            started.set()
            while not (left := abort_requested()):
                time.sleep(0.01)
            print("has", left < 60_000)

        worker = dramatiq.Worker(broker, worker_threads=1)
        worker.start()
        message = work.send()
        started.wait(20)
        abort(message.message_id, abort_timeout=60_000)
        broker.join("default", timeout=20_000)
        worker.stop()
        print("ended")
    """)
    assert program.wait() == 0
    assert program.out() == "has True\nended\n"
