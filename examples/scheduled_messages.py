"""Messages that are sent by the clock, by APScheduler (3.x): its jobs are actors' ``send``.

The scheduler sends, the workers work: a job that takes long never delays the next one. This example
ends by itself, after three reports; a program of yours would rather use the `BlockingScheduler`,
whose ``start()`` does not return, and triggers such as ``CronTrigger.from_crontab("30 6 * * mon-fri")``.

    pip install 'apscheduler<4'
    python examples/scheduled_messages.py
"""

from queue import Queue

from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

import localq

WHEN = IntervalTrigger(seconds=0.3)


@localq.actor
def write_report(about):
    return f"the report about {about} is written"


if __name__ == "__main__":
    sent = Queue()
    scheduler = BackgroundScheduler()
    scheduler.add_job(write_report.send, WHEN, args=["sales"])
    scheduler.add_listener(lambda event: sent.put(event.retval), EVENT_JOB_EXECUTED)  # what `send` returned
    with localq.pool(processes=1):
        scheduler.start()
        for number in range(1, 4):
            message = sent.get(timeout=10)
            print(f"{number}:", message.get_result(block=True))
        scheduler.shutdown()
