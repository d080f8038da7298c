"""dramatiq-crontab sends messages when their time has come, from a Django command."""

from __future__ import annotations

import signal

from ..processes.support import Lab

SETTINGS = """
    import dramatiq
    from dramatiq.brokers.sqlite import SQLiteBroker

    dramatiq.set_broker(SQLiteBroker("jobs.db"))
    INSTALLED_APPS = ["dramatiq_crontab", "shop"]
    USE_TZ, TIME_ZONE = True, "Europe/Berlin"
"""
TASKS = """
    import dramatiq
    from dramatiq_crontab import cron, interval
    from notes import note

    @interval(seconds=1)
    @dramatiq.actor
    def tick():
        note("tick")

    @cron("30 4 * * Mon")
    @dramatiq.actor
    def report():
        note("report")
"""
WORKER = """
    import django
    django.setup()
    import shop.tasks
    from dramatiq_crontab import scheduler
    from notes import note
    for job in scheduler.get_jobs():
        note("job", job.name, job.trigger)
"""


def test_its_scheduler_sends_what_its_decorators_registered(lab: Lab) -> None:
    (lab.folder / "shop").mkdir()
    lab.write("shop/__init__.py", "")
    lab.write("settings.py", SETTINGS)
    lab.write("shop/tasks.py", TASKS)
    lab.write("worker.py", WORKER)
    lab.env["DJANGO_SETTINGS_MODULE"] = "settings"

    pool = lab.start_pool("worker", "-p", "1")
    scheduler = lab.start_python("-m", "django", "crontab", "--no-heartbeat")

    lab.wait_for_notes("tick", 2)
    assert lab.notes("report") == []
    assert lab.notes("job") == [
        "job tick interval[0:00:01]",
        "job report cron[month='*', day='*', day_of_week='mon', hour='4', minute='30']",
    ]
    scheduler.signal(signal.SIGTERM)
    assert scheduler.wait() == 0
    assert "Loaded tasks from shop" in scheduler.out()
    pool.stop()
