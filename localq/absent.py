"""What dramatiq has for servers on the network, and localq has not.

Packages import these names, derive from them, and ask whether a broker is one of
them, also where they never make one. Where localq stands in for dramatiq, all
that works; only to make one is refused. Others ask which version is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from .broker import Broker
from .names import dq_name
from .rate_limits import RateLimiterBackend
from .results import ResultBackend

ABSENT: dict[str, dict[str, type]] = {
    "brokers.rabbitmq": {"RabbitmqBroker": Broker, "URLRabbitmqBroker": Broker},
    "brokers.redis": {"RedisBroker": Broker},
    "rate_limits.backends.memcached": {"MemcachedBackend": RateLimiterBackend},
    "rate_limits.backends.redis": {"RedisBackend": RateLimiterBackend},
    "results.backends.memcached": {"MemcachedBackend": ResultBackend},
    "results.backends.redis": {"RedisBackend": ResultBackend},
}
"""By module below dramatiq: its classes, and what they derive from."""

REMEDIES: dict[type, str] = {
    Broker: "call localq.connect(...) for a broker",
    RateLimiterBackend: "use localq.rate_limits.backends.SQLiteBackend",
    ResultBackend: "leave the backend of Results out, or use localq.results.backends.SQLiteBackend",
}


VERSION = "2.2.1"
"""The version of dramatiq that localq stands in for."""


def distributions(context: Any) -> list[Any]:
    """What ``importlib.metadata`` finds as dramatiq where dramatiq is not installed."""
    from importlib.metadata import Distribution, MetadataPathFinder  # dear; who calls this has it

    class StandIn(Distribution):
        def read_text(self, filename: str) -> str | None:
            if filename != "METADATA":
                return None
            return f"Metadata-Version: 2.1\nName: dramatiq\nVersion: {VERSION}\n"

        def locate_file(self, path: Any) -> Path:
            return Path(__file__).with_name(str(path))

    return [] if any(MetadataPathFinder.find_distributions(context)) else [StandIn()]


def names_in(module: str) -> dict[str, Any]:
    """What stands in for the names in that module of dramatiq, such as ``dramatiq.brokers.redis``."""
    names = {name: _stand_in(name, module, base) for name, base in ABSENT[module.partition(".")[2]].items()}
    # Packages take this one from there, too.
    return {**names, "dq_name": dq_name} if "brokers" in module else names


def _stand_in(name: str, module: str, base: type) -> type:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(
            f"{module}.{name} needs a server, and localq, which stands in for dramatiq here, has none: "
            f"{REMEDIES[base]}, or install dramatiq and leave localq.install_as_dramatiq() out"
        )

    methods = dict.fromkeys(("__init__", *getattr(base, "__abstractmethods__", ())), refuse)
    return type(name, (base,), {"__module__": module, "__doc__": "Not there; cannot be made.", **methods})
