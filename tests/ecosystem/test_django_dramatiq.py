"""django-dramatiq configures the broker from Django's settings, runs workers, and keeps a record of tasks."""

from __future__ import annotations

import json

from ..processes.support import Lab

SETTINGS = """
    INSTALLED_APPS = ["django.contrib.contenttypes", "django_dramatiq", "shop"]
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "site.db",
            # Several threads record: SQLite refuses to let two transactions that have read both go on to write.
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    }
    USE_TZ = True
    DRAMATIQ_BROKER = {
        "BROKER": "dramatiq.brokers.sqlite.SQLiteBroker",
        "OPTIONS": {"url": "sqlite:///jobs.db"},
        "MIDDLEWARE": [
            "dramatiq.middleware.AgeLimit",
            "dramatiq.middleware.TimeLimit",
            "dramatiq.middleware.Callbacks",
            "dramatiq.middleware.Retries",
            "django_dramatiq.middleware.DbConnectionsMiddleware",
            "django_dramatiq.middleware.AdminMiddleware",
        ],
    }
    DRAMATIQ_RESULT_BACKEND = {
        "BACKEND": "dramatiq.results.backends.sqlite.SQLiteBackend",
        "BACKEND_OPTIONS": {"path": "jobs.db"},
        "MIDDLEWARE_OPTIONS": {"result_ttl": 60_000},
    }
"""
TASKS = """
    import dramatiq

    @dramatiq.actor(store_results=True)
    def add(x, y):
        return x + y

    @dramatiq.actor(max_retries=0, store_results=True)
    def fail():
        raise RuntimeError("on purpose")
"""
SEND = """
    import django
    django.setup()
    from shop.tasks import add, fail
    print(add.send(1, 2).message_id, fail.send().message_id)
"""
LOOK = """
    import json, sys
    import django
    django.setup()
    import dramatiq
    from django_dramatiq.models import Task
    from shop.tasks import add

    tasks = [Task.tasks.get(id=sent) for sent in sys.argv[1:]]
    results = dramatiq.get_broker().get_results_backend()
    print(json.dumps({
        "tasks": [[task.actor_name, task.status] for task in tasks],
        "result": results.get_result(tasks[0].message),
        "traceback": tasks[1].message.options["traceback"].splitlines()[-1],
    }))
"""


def test_rundramatiq_runs_tasks_and_the_admin_middleware_records_them(lab: Lab) -> None:
    (lab.folder / "shop").mkdir()
    lab.write("shop/__init__.py", "")
    lab.write("settings.py", SETTINGS)
    lab.write("shop/tasks.py", TASKS)
    lab.env["DJANGO_SETTINGS_MODULE"] = "settings"
    assert lab.start_python("-m", "django", "migrate").wait() == 0

    # Sent before there is a worker: who sends records that when it has sent, which may be when the task has ended.
    sender = lab.start_script(SEND)
    assert sender.wait() == 0
    pool = lab.start_python("-m", "django", "rundramatiq", "-p", "1", "-t", "2").wait_until_up()
    lab.wait_until_done()
    pool.stop()

    looker = lab.start_script(LOOK, *sender.out().split())
    assert looker.wait() == 0
    assert json.loads(looker.out()) == {
        "tasks": [["add", "done"], ["fail", "failed"]],
        "result": 3,
        "traceback": "RuntimeError: on purpose",
    }
    assert "Discovered tasks module: 'shop.tasks'" in pool.out()
