"""Errors of actors, reported to Rollbar by a middleware.

With ROLLBAR_ACCESS_TOKEN set, reports go to that project of yours. Without it, they go to a stand-in
for Rollbar that this script starts, which prints what it got. (The log has each error too.)

    pip install rollbar
    python examples/report_to_rollbar.py
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import rollbar

import localq


class ReportToRollbar(localq.Middleware):
    def after_process_boot(self, broker):
        """In each worker process. The handler "blocking" has sent a report before its message ends."""
        endpoint = os.environ.get("ROLLBAR_ENDPOINT", rollbar.DEFAULT_ENDPOINT)
        rollbar.init(os.environ["ROLLBAR_ACCESS_TOKEN"], "example", endpoint=endpoint, handler="blocking")

    def after_process_message(self, broker, message, *, result=None, exception=None):
        if exception is not None and not isinstance(exception, localq.Retry):
            attempt = 1 + message.options.get("retries", 0)
            where = {"actor": message.actor_name, "message_id": message.message_id, "attempt": attempt}
            rollbar.report_exc_info(extra_data=where)


localq.get_broker().add_middleware(ReportToRollbar())


@localq.actor(max_retries=1, min_backoff=50)
def pay(invoice):
    raise LookupError(f"there is no invoice {invoice}")


class StandIn(BaseHTTPRequestHandler):
    """Takes reports in the place of Rollbar."""

    def do_POST(self):
        report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
        error, frames = report["body"]["trace"]["exception"], report["body"]["trace"]["frames"]
        print(f"Rollbar got {error['class']}: {error['message']}")
        print(f"  raised in {frames[-1]['method']}, {frames[-1]['code']}")
        print(f"  by attempt {report['custom']['attempt']} of {report['custom']['actor']}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"err": 0, "result": {}}')

    def log_message(self, *args):
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
