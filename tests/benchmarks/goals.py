"""Every figure of the table, and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass

from .columns import CELERY, DRAMATIQ, FOUR, HUEY, IDEAL, ONE_THREAD, PEERS, PLAIN, POOL, RAW, RQ, THOUSAND
from .groups.crowds import BASE
from .groups.lengths import LENGTHS, LONGEST_OF_A_MIX, THREADS
from .run import Size
from .verbs import VERBS


@dataclass(slots=True, frozen=True)
class Goal:
    """What localq's own figure is divided by, and between what the ratio is to lie.

    Without a divisor the figure itself is to lie there. Without limits it is shown, and nothing is wanted.
    """

    divisor: str | None
    at_least: float | None = None
    at_most: float | None = None
    strictly: bool = False
    """Whether the limit itself is not enough."""

    def is_reached(self, value: float) -> bool | None:
        """Whether the ratio, or the figure, is as wanted; None where nothing is wanted."""
        if self.at_least is not None:
            return value > self.at_least if self.strictly else value >= self.at_least
        if self.at_most is not None:
            return value < self.at_most if self.strictly else value <= self.at_most
        return None

    def __str__(self) -> str:
        if self.at_least is not None:
            return f"{'>' if self.strictly else '>='} {self.at_least:g}"
        if self.at_most is not None:
            return f"{'<' if self.strictly else '<='} {self.at_most:g}"
        return ""


@dataclass(slots=True, frozen=True)
class Figure:
    """One thing that is measured; `digits` are those after the point."""

    name: str
    label: str
    unit: str
    digits: int
    goals: tuple[Goal, ...]


def least(divisor: str, ratio: float) -> Goal:
    """At least so many times the divisor."""
    return Goal(divisor, at_least=ratio)


def most(divisor: str, ratio: float) -> Goal:
    """At most so many times the divisor."""
    return Goal(divisor, at_most=ratio)


def under(bound: float) -> Goal:
    """Less than that, whatever others do."""
    return Goal(None, at_most=bound, strictly=True)


def shown(*divisors: str) -> tuple[Goal, ...]:
    """Beside these, with nothing wanted."""
    return tuple(map(Goal, divisors))


def _throughput() -> list[Figure]:
    each = (least(RAW, 0.7), least(DRAMATIQ, 4), *shown(HUEY, RQ, CELERY))
    drain = (least(RAW, 0.6), *(least(peer, 8) for peer in PEERS))
    together = (Goal(POOL, at_least=1, strictly=True), *shown(RAW, *PEERS))
    rate = "messages/s"
    return [
        Figure("enqueue_each", "enqueue one by one", rate, 0, each),
        Figure("enqueue_bulk", "enqueue in bulk, one call", rate, 0, (least(RAW, 0.7), *shown(RQ))),
        Figure("drain", "drain of no-ops, 2 processes", rate, 0, drain),
        Figure("together", "1 sender and 2 workers at once", rate, 0, together),
    ]


def _latency() -> list[Figure]:
    beside = shown(RAW, *PEERS)
    return [
        Figure("pick_up_p50", "pick-up by an idle worker: p50", "ms", 3, (under(0.5), *beside)),
        Figure("pick_up_p99", "pick-up by an idle worker: p99", "ms", 3, (under(3), *beside)),
        Figure("round_trip_p50", "send, then the result: p50", "ms", 3, (under(1), *beside)),
        Figure("round_trip_p99", "send, then the result: p99", "ms", 3, beside),
        Figure("idle_cpu", "idle pool: of one core", "%", 2, (under(0.3), *shown(*PEERS))),
        Figure("idle_wake_ups", "idle pool: wake-ups", "1/s", 1, (under(2), *shown(*PEERS))),
    ]


def _lengths() -> list[Figure]:
    goals = (least(IDEAL, 0.95), *shown(*PEERS))
    words = {"rest": "sleep", "compute": "CPU"}
    figures = [
        Figure(f"{task}_{length}", f"{length} ms of {word}, 2 processes", "tasks/s", 1, goals)
        for task, word in words.items()
        for length in LENGTHS
    ]
    figures.append(Figure("mix", f"0 to {LONGEST_OF_A_MIX} ms of sleep, 2 processes", "tasks/s", 1, goals))
    return figures + [
        Figure(f"threads_{length}", f"{length} ms of sleep, {THREADS} threads", "tasks/s", 1, goals[:1])
        for length in LENGTHS
    ]


def _scale(size: Size) -> list[Figure]:
    return [
        Figure(f"verb_{verb}", f"{verb.replace('_', ' ')}, {size.many:,} of each", "us", 1, (most(THOUSAND, 1.2),))
        for verb in VERBS
    ]


def _crowds(size: Size) -> list[Figure]:
    figures = []
    for processes in sorted({*size.processes, *size.peer_processes, BASE}):
        goals = (least(FOUR, 0.7),) if processes in size.processes and processes != BASE else ()
        beside = shown(RAW, *PEERS)
        label = f"drain of no-ops, {_number(processes, 'process')}"
        figures.append(Figure(f"drain_at_{processes}", label, "messages/s", 0, goals + beside))
    others = [processes for processes in size.processes if processes != BASE]
    for senders in size.senders:
        for processes in others:
            label = f"{_number(senders, 'sender')}, {_number(processes, 'process')}"
            figures.append(
                Figure(f"together_{senders}_{processes}", label, "messages/s", 0, (least(FOUR, 0.7),))
            )
    for senders in size.senders:
        for processes in sorted({*size.processes, BASE}):
            label = f"p99 of send: {_number(senders, 'sender')}, {_number(processes, 'process')}"
            figures.append(Figure(f"send_p99_{senders}_{processes}", label, "ms", 2, (under(50),)))
    return figures


def _number(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _payloads(size: Size) -> list[Figure]:
    return [
        Figure(f"payload_{length}", f"a message of {_bytes(length)}, sent and run", "ms", 3, (most(RAW, 1.5),))
        for length, _ in size.payloads
    ]


def _bytes(length: int) -> str:
    return f"{length // 1_000_000} MB" if length >= 1_000_000 else f"{length // 1_000} kB"


def _starting() -> list[Figure]:
    return [
        Figure("import", "import localq", "ms", 1, (under(60),)),
        Figure("first_send", "first message from a cold start: sent", "ms", 1, (under(300),)),
        Figure("first_result", "first message from a cold start: result", "ms", 1, (under(300),)),
        Figure("memory", "memory of 2 idle processes and what started them", "MB", 1, (
            Goal(DRAMATIQ, at_most=1, strictly=True), *shown(HUEY, RQ, CELERY),
        )),
    ]  # fmt: skip


def _durability() -> list[Figure]:
    shared = (least(RAW, 0.7), Goal(ONE_THREAD, at_least=1, strictly=True))
    return [
        Figure("full", "durability=full: 1 sender", "messages/s", 0, (least(RAW, 0.7),)),
        Figure("full_threads", "durability=full: 8 threads", "messages/s", 0, shared),
    ]


def _extras() -> list[Figure]:
    return [
        Figure("middleware", "a middleware with two hooks adds", "us", 2, shown(PLAIN)),
        Figure("logged_line", "a line logged at INFO by the actor adds", "us", 2, shown(PLAIN)),
        Figure("logging_off", "no logging at all (--skip-logging) adds", "us", 2, shown(PLAIN)),
    ]


def figures(size: Size) -> list[Figure]:
    """All of them, in the order of the table."""
    return [
        *_throughput(), *_latency(), *_lengths(), *_scale(size), *_crowds(size), *_payloads(size), *_starting(),
        *_durability(), *_extras(),
    ]  # fmt: skip

