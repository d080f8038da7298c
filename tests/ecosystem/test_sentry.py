"""The Sentry SDK reports what an actor raised, once, with the actor's frame last."""

from __future__ import annotations

import json

from ..processes.support import Lab

TASKS = """
    import dramatiq, sentry_sdk
    from dramatiq.brokers.sqlite import SQLiteBroker
    from notes import note
    from sentry_sdk.integrations.dramatiq import DramatiqIntegration
    from sentry_sdk.integrations.logging import ignore_logger
    from sentry_sdk.transport import Transport
    import json

    class Notes(Transport):
        def capture_envelope(self, envelope):
            for item in envelope.items:
                if item.type == "event":
                    note("event", json.dumps(item.payload.json))

    # The worker logs the failure too, and its logger bears the name that it has in dramatiq.
    ignore_logger("dramatiq.worker.WorkerThread")
    sentry_sdk.init("http://key@localhost/1", transport=Notes, integrations=[DramatiqIntegration()])
    dramatiq.set_broker(SQLiteBroker("jobs.db"))

    @dramatiq.actor(max_retries=0)
    def divide(x, y):
        return x / y

    @dramatiq.actor(max_retries=0)
    def expect():
        raise dramatiq.Retry("later")
"""


def test_an_error_is_one_event_with_its_message_and_the_frame_of_the_actor(lab: Lab) -> None:
    lab.write("tasks.py", TASKS)
    pool = lab.start_pool("tasks", "-p", "1")

    message = lab.send("divide", 1, 0)
    lab.wait_until_dead(message)
    lab.wait_until_dead(lab.send("expect"))
    pool.stop()

    (event,) = [json.loads(note.partition(" ")[2]) for note in lab.notes("event")]
    (error,) = event["exception"]["values"]
    assert (error["type"], error["mechanism"]["type"]) == ("ZeroDivisionError", "dramatiq")
    assert error["stacktrace"]["frames"][-1]["function"] == "divide"
    assert error["stacktrace"]["frames"][-1]["vars"] == {"x": "1", "y": "0"}
    assert event["transaction"] == "divide"
    assert event["extra"]["dramatiq_message_id"] == message.message_id
    assert event["contexts"]["dramatiq"]["data"]["args"] == [1, 0]
    assert "Failed to process message divide(1, 0) with unhandled exception" in pool.log()
