"""Messages that are aborted by their id: one that waits, and several that run.

A message that waits never runs. In one that runs, `localq.Abort` is raised (with one thread a process
also in a call that blocks), so its ``finally`` blocks clean up; given an ``abort_timeout``, it can see
the request first and end in its own way. Who waits for the result hears of it at once.

    python examples/abort_messages.py
"""

import tempfile
import time
from pathlib import Path

import localq
from localq.results import ResultFailure


@localq.actor
def export(file):
    """Writes a file for a long time, and leaves no half of it behind."""
    try:
        Path(file).touch()
        time.sleep(600)
    finally:
        Path(file).unlink(missing_ok=True)


@localq.actor
def poll(file):
    Path(file).touch()
    while localq.abort_requested() is None:
        time.sleep(0.01)
    return "ended in its own way"


@localq.actor
def wait_for(file, other):
    Path(file).touch()
    while not Path(other).exists():
        time.sleep(0.01)
    return "ran to its end"


@localq.actor
def go_on(file):
    """Does not heed `Abort`; nor would a long call into C, which Python cannot interrupt."""
    while True:
        try:
            Path(file).touch()
            time.sleep(600)
        except BaseException:
            continue


def start(actor, file, *args):
    """Send a message, and return when it runs."""
    message = actor.send(str(file), *args)
    while not file.exists():
        time.sleep(0.01)
    return message


def outcome_of(message):
    try:
        return message.get_result(block=True, timeout=60_000)
    except ResultFailure as error:
        return error


def main(folder):
    waiting = export.send("report.csv")  # no worker is there yet
    localq.abort(waiting.message_id)
    print("waiting:", outcome_of(waiting))

    with localq.pool(processes=1):
        running = start(export, folder / "report.csv")
        localq.abort(running.message_id)
        print("running:", outcome_of(running))
        print("its file is there:", (folder / "report.csv").exists())

        polite = start(poll, folder / "poll")
        localq.abort(polite.message_id, abort_timeout=30_000)  # milliseconds
        print("asked first:", outcome_of(polite))

        running = start(wait_for, folder / "wait", str(folder / "go"))
        waiting = export.send("report.csv")
        localq.abort(running.message_id, mode=localq.AbortMode.CANCEL)  # only if it has not begun
        localq.abort(waiting.message_id, mode=localq.AbortMode.CANCEL)
        (folder / "go").touch()
        print("cancelled while it ran:", outcome_of(running))
        print("cancelled while it waited:", outcome_of(waiting))

        deaf = start(go_on, folder / "on")
        localq.abort(deaf.message_id, mode=localq.AbortMode.KILL)  # its process; the pool replaces it
        print("killed:", outcome_of(deaf))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
