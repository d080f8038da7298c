"""A schedule that outlives the program: APScheduler (3.x) with its jobs in a database.

What is kept of a job is the name of its actor and the arguments. So the actor must be found under
that name when the schedule is loaded: keep it in a module of yours. (In this example, that is the
script itself.) With ``id`` and ``replace_existing``, a program that starts again changes its job
instead of adding another.

    pip install 'apscheduler<4' sqlalchemy
    python examples/scheduled_messages_in_database.py
"""

import tempfile
from pathlib import Path
from queue import Queue

from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

import localq

WHEN = IntervalTrigger(seconds=0.3)


@localq.actor
def water(plant, litres):
    return f"{plant} got {litres} l"


def make_scheduler(file):
    return BackgroundScheduler(jobstores={"default": SQLAlchemyJobStore(f"sqlite:///{file}")})


def start_for_the_first_time(file):
    scheduler = make_scheduler(file)
    scheduler.start(paused=True)
    for litres in (1, 2):
        scheduler.add_job(water.send, WHEN, args=["fern", litres], id="water the fern", replace_existing=True)
    scheduler.shutdown()


def start_again(file):
    scheduler = make_scheduler(file)
    sent = Queue()
    scheduler.add_listener(lambda event: sent.put(event.retval), EVENT_JOB_EXECUTED)  # what `send` returned
    scheduler.start()
    print("in the database:", *(job.id for job in scheduler.get_jobs()))
    for number in range(1, 4):
        print(f"{number}:", sent.get(timeout=10).get_result(block=True))
    scheduler.shutdown()


if __name__ == "__main__":
    with localq.pool(processes=1), tempfile.TemporaryDirectory() as folder:
        start_for_the_first_time(Path(folder, "schedule.db"))
        start_again(Path(folder, "schedule.db"))
