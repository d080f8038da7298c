"""How soon an idle worker starts, how soon a result is there, and what a pool takes that only waits."""

from __future__ import annotations

from .. import measures, raw_latency
from ..columns import RAW
from ..contender import Contender
from ..crew import crew
from ..run import Run


def measure(run: Run) -> None:
    """The bare loop, and two processes of one thread each of all contenders."""
    size, samples = run.size, run.samples
    samples.add_times("pick_up", RAW, raw_latency.pick_up(size.tries))
    samples.add_times("round_trip", RAW, raw_latency.round_trip(size.tries))

    def wait(contender: Contender) -> None:
        with crew(contender) as workers:
            workers.release()
            samples.add_times("pick_up", contender.name, measures.pick_up(contender, run.tries(contender)))
            samples.add_times("round_trip", contender.name, measures.round_trip(contender, run.tries(contender)))
            idleness = measures.idle(contender, workers, size.idle)
            samples.add("idle_cpu", contender.name, idleness.cpu)
            samples.add("idle_wake_ups", contender.name, idleness.wake_ups)
            samples.add("memory", contender.name, idleness.memory)

    run.in_turns(wait)
