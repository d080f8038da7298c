"""flask-dramatiq makes the broker with the Flask application, and runs actors in the application's context."""

from __future__ import annotations

from ..processes.support import Lab

SHOP = """
    from flask import Flask, current_app
    from flask_dramatiq import Dramatiq
    from notes import note

    dramatiq = Dramatiq()

    @dramatiq.actor
    def greet(name):
        note(current_app.config["GREETING"], name)

    def create_app():
        app = Flask(__name__)
        app.config["GREETING"] = {greeting!r}
        app.config["DRAMATIQ_BROKER"] = "dramatiq.brokers.sqlite:SQLiteBroker"
        app.config["DRAMATIQ_BROKER_URL"] = "sqlite:///jobs.db"
        dramatiq.init_app(app)
        return app
"""
SEND = "import shop; shop.create_app(); shop.greet.send('Ann')"


def test_flask_worker_runs_an_actor_in_the_context_of_the_app(lab: Lab) -> None:
    lab.write("shop.py", SHOP.format(greeting="hello"))
    worker = lab.start_python("-m", "flask", "--app", "shop", "worker", "-p", "1", "-t", "2").wait_until_up()

    assert lab.start_python("-c", SEND).wait() == 0

    lab.wait_for_notes("hello")
    assert lab.notes() == ["hello Ann"]
    worker.stop()


def test_flask_worker_in_debug_mode_runs_what_has_been_edited(lab: Lab) -> None:
    lab.write("shop.py", SHOP.format(greeting="hello"))
    worker = lab.start_python("-m", "flask", "--app", "shop", "--debug", "worker", "-p", "1").wait_until_up()

    lab.write("shop.py", SHOP.format(greeting="welcome"))
    worker.wait_for_log("worker processes is up", times=2)

    assert lab.start_python("-c", SEND).wait() == 0
    lab.wait_for_notes("welcome")
    worker.stop()
