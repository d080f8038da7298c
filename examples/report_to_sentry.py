"""Errors of actors, reported to Sentry by the integration for dramatiq that its SDK brings.

With SENTRY_DSN set, events go to that project of yours. Without it, they are printed here.
(The log has each error too.)

    pip install sentry-sdk
    python examples/report_to_sentry.py
"""

import os

import localq

localq.install_as_dramatiq()  # the integration imports dramatiq

import sentry_sdk
from sentry_sdk.integrations.dramatiq import DramatiqIntegration
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.transport import Transport


class Printer(Transport):
    """Prints the events that would be sent."""

    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is None:  # a measurement, for example
            return
        error = event["exception"]["values"][-1]
        frame = error["stacktrace"]["frames"][-1]
        message = event["contexts"]["dramatiq"]["data"]
        print(f"Sentry gets {error['type']}: {error['value']}")
        print(f"  raised in {frame['function']}, {frame['context_line'].strip()}")
        print(f"  by {message['actor_name']} with {message['args']}")


# Before the first actor, since the integration becomes part of the brokers that are made after it.
sentry_sdk.init(integrations=[DramatiqIntegration()], transport=None if "SENTRY_DSN" in os.environ else Printer())
ignore_logger("dramatiq.worker.WorkerThread")  # it logs the same error, and Sentry takes only the first


class SendTheRest(localq.Middleware):
    """Sentry sends from a thread of its own: a worker process waits for it before it ends."""

    def after_worker_shutdown(self, broker, worker):
        sentry_sdk.flush(timeout=5)


localq.get_broker().add_middleware(SendTheRest())


@localq.actor(max_retries=0)
def ship(order):
    raise LookupError(f"there is no order {order}")


if __name__ == "__main__":
    with localq.pool(processes=1):
        ship.send(42)
        localq.get_broker().join(ship.queue_name)
