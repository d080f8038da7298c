"""Numbers about the messages of a pool, for Prometheus to fetch.

Each worker process counts in files of its own (`prometheus_client` calls that its multiprocess
mode), and a fork function of the pool serves the sum of them all. Three environment variables
say how, read when they are needed:

``dramatiq_prom_db``
    the folder of the files; by default ``PROMETHEUS_MULTIPROC_DIR`` if that is set, else one of
    the user's in the folder for temporary files. Two pools need two.
``dramatiq_prom_host``, ``dramatiq_prom_port``
    where the numbers are served; by default 0.0.0.0 (all interfaces) and 9191.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..clock import clock
from ..logging import get_logger
from ..process_table import is_alive
from .middleware import Middleware

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy
    from ..message import Message
    from ..worker import Worker

FOLDER, HOST, PORT = "dramatiq_prom_db", "dramatiq_prom_host", "dramatiq_prom_port"
CLIENTS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
LABELS = ("queue_name", "actor_name")
BUCKETS = (
    *(5, 10, 25, 50, 75, 100, 250, 500, 750),
    *(1_000, 2_500, 5_000, 7_500, 10_000, 30_000, 60_000, 600_000, 900_000),
    float("inf"),
)
"""Milliseconds."""


class Prometheus(Middleware):
    """Counts and times messages in each worker process, and serves the numbers of all by HTTP.

    Needs the package ``prometheus_client``, which a program that runs workers must not import
    before they boot: it decides once and for all, when it is imported, whether it counts in files.

    Raises:
      ImportError: the package is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise ImportError(
                "the Prometheus middleware needs the package prometheus_client: pip install 'localq[prometheus]'"
            )
        self.logger = get_logger(__name__, type(self))
        self._metrics: _Metrics | None = None

    @property
    def forks(self) -> list[Any]:
        return [serve_metrics]

    def after_process_boot(self, broker: Broker) -> None:
        folder = _folder()
        if CLIENTS_FOLDER not in os.environ and "prometheus_client" in sys.modules:
            self.logger.warning(
                "prometheus_client was imported before this worker booted: what it counts here is not served. "
                "Import it later, or set %s=%s for the whole program.",
                CLIENTS_FOLDER,
                folder,
            )
        os.environ[CLIENTS_FOLDER] = folder
        self._metrics = _Metrics()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self._metrics is not None:
            _multiprocess().mark_process_dead(os.getpid(), _folder())

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        if self._metrics is not None:
            self._metrics.rejects.labels(*_labels(message)).inc()

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        if self._metrics is not None and "retries" in message.options:
            self._metrics.retries.labels(*_labels(message)).inc()

    def before_delay_message(self, broker: Broker, message: MessageProxy) -> None:
        if self._metrics is not None:
            self._metrics.delayed.labels(*_labels(message)).inc()
            message.__dict__["prometheus_delayed"] = True

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if self._metrics is not None:
            if message.__dict__.pop("prometheus_delayed", False):
                self._metrics.delayed.labels(*_labels(message)).dec()
            self._metrics.inprogress.labels(*_labels(message)).inc()
            message.__dict__["prometheus_start"] = clock.monotonic()

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        metrics, labels = self._metrics, _labels(message)
        if metrics is None:
            return
        start = message.__dict__.pop("prometheus_start", None)
        if start is not None:  # else another middleware skipped it before our turn came
            metrics.inprogress.labels(*labels).dec()
            metrics.durations.labels(*labels).observe(clock.monotonic() - start)
        metrics.total.labels(*labels).inc()
        if exception is not None:
            metrics.errors.labels(*labels).inc()

    after_skip_message = after_process_message


class _Metrics:
    """What is counted, under the names that dramatiq's dashboards know."""

    def __init__(self) -> None:
        self._client: Any = importlib.import_module("prometheus_client")
        self._registry = self._client.CollectorRegistry()
        self.total = self._make("Counter", "messages_total", "Messages processed.")
        self.errors = self._make("Counter", "message_errors_total", "Messages whose actor raised.")
        self.retries = self._make("Counter", "message_retries_total", "Messages sent again after a failure.")
        self.rejects = self._make("Counter", "message_rejects_total", "Messages that became dead letters.")
        self.inprogress = self._make("Gauge", "messages_inprogress", "Messages running now.")
        self.delayed = self._make("Gauge", "delayed_messages_inprogress", "Delayed messages held in memory.")
        self.durations = self._make(
            "Histogram", "message_duration_milliseconds", "How long messages ran.", buckets=BUCKETS
        )

    def _make(self, kind: str, name: str, text: str, **options: Any) -> Any:
        if kind == "Gauge":
            options["multiprocess_mode"] = "livesum"
        make = getattr(self._client, kind)
        return make(f"dramatiq_{name}", text, LABELS, registry=self._registry, **options)


def serve_metrics() -> int:
    """Serve the numbers of all worker processes, until this process is told to leave."""
    logger = get_logger(__name__, Prometheus)
    host, port = os.environ.get(HOST, "0.0.0.0"), os.environ.get(PORT, "9191")
    folder = _folder()
    # A pool counts from zero: what those of earlier ones left goes. The workers of this one live.
    _remove_files_of_the_dead(folder, "*.db")
    client: Any = importlib.import_module("prometheus_client")
    registry = client.CollectorRegistry()
    registry.register(_Numbers(folder))
    try:
        _, thread = client.start_http_server(int(port), host, registry=registry)
    except (OSError, OverflowError, ValueError) as error:
        logger.error("Cannot serve metrics at %s:%s (%s): set %s or %s to another.", host, port, error, HOST, PORT)
        return 1
    logger.debug("Serving metrics at %s:%s, from the files in %s.", host, port, folder)
    thread.join()
    return 0


class _Numbers:
    """The sums over all processes; what counts things that are there now leaves out the dead."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._all = _multiprocess().MultiProcessCollector(None, folder)

    def collect(self) -> Iterable[Any]:
        _remove_files_of_the_dead(self._folder, "gauge_live*.db")
        metrics: Iterable[Any] = self._all.collect()
        return metrics


def _multiprocess() -> Any:
    return importlib.import_module("prometheus_client.multiprocess")


def _labels(message: Any) -> tuple[str, str]:
    return message.queue_name, message.actor_name


def _folder() -> str:
    """The folder of the files, which is there afterwards."""
    folder = os.environ.get(FOLDER) or os.environ.get(CLIENTS_FOLDER)
    if not folder:
        user = os.getuid() if hasattr(os, "getuid") else ""
        folder = os.path.join(tempfile.gettempdir(), f"localq-prometheus-{user}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def _remove_files_of_the_dead(folder: str, pattern: str) -> None:
    for path in Path(folder).glob(pattern):
        process = path.stem.rpartition("_")[2]
        if process.isdecimal() and not is_alive(int(process), 0):
            path.unlink(missing_ok=True)
