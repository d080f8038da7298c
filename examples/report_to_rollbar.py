"""Errors of actors, reported to Rollbar by a middleware.

With ROLLBAR_ACCESS_TOKEN set, the report goes to that project of yours. Without it, it goes to a
stand-in for Rollbar that this script starts, which prints what it got.

    pip install rollbar
    python examples/report_to_rollbar.py
"""

import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import rollbar

import localq

# What fails below is meant to; without this, its traceback is logged.
logging.getLogger("localq").setLevel(logging.CRITICAL)


class ReportToRollbar(localq.Middleware):
    def after_process_boot(self, broker):
        """In each worker process. A report is on its way before its message ends: "blocking" instead of a thread."""
        options = {"endpoint": os.environ["ROLLBAR_ENDPOINT"]} if "ROLLBAR_ENDPOINT" in os.environ else {}
        rollbar.init(os.environ["ROLLBAR_ACCESS_TOKEN"], "example", handler="blocking", **options)

    def after_process_message(self, broker, message, *, result=None, exception=None):
        if exception is not None and not isinstance(exception, localq.Retry):
            rollbar.report_exc_info(extra_data={"actor": message.actor_name, "message_id": message.message_id})


localq.get_broker().add_middleware(ReportToRollbar())


@localq.actor(max_retries=1, min_backoff=50)
def pay(invoice):
    raise LookupError(f"there is no invoice {invoice}")


class StandIn(BaseHTTPRequestHandler):
    """Takes reports in the place of Rollbar."""

    def do_POST(self):  # noqa: N802
        report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
        error = report["body"]["trace"]["exception"]
        print(f"Rollbar got {error['class']}: {error['message']}")
        print(f"from {report['custom']['actor']}, {report['body']['trace']['frames'][-1]['code']}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"err": 0, "result": {}}')

    def log_message(self, format, *args):
        pass


def use_the_stand_in():
    server = HTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["ROLLBAR_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}/"
    os.environ["ROLLBAR_ACCESS_TOKEN"] = "none"


if __name__ == "__main__":
    if "ROLLBAR_ACCESS_TOKEN" not in os.environ:
        use_the_stand_in()
    with localq.pool(processes=1):
        pay.send(42)
        localq.get_broker().join(pay.queue_name)
