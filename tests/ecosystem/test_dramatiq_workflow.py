"""dramatiq-workflow runs chains of groups of chains; its barriers count in localq's rate limits."""

from __future__ import annotations

from ..processes.support import Lab

TASKS = """
    import dramatiq
    from dramatiq.brokers.sqlite import SQLiteBroker
    from dramatiq.rate_limits.backends.sqlite import SQLiteBackend
    from dramatiq_workflow import WorkflowMiddleware
    from notes import note

    broker = SQLiteBroker("jobs.db")
    broker.add_middleware(WorkflowMiddleware(SQLiteBackend("jobs.db")))
    dramatiq.set_broker(broker)

    @dramatiq.actor
    def step(name):
        note(name)
"""
SEND = """
    from dramatiq_workflow import Chain, Group, WithDelay, Workflow
    from tasks import step

    Workflow(
        Chain(
            step.message("first"),
            Group(
                Chain(step.message("left 1"), WithDelay(step.message("left 2"), delay=100)),
                step.message("middle"),
                Chain(step.message("right 1"), Group(step.message("right 2"), step.message("right 3"))),
            ),
            Group(),
            step.message("last"),
        )
    ).run()
"""


def test_a_chain_with_groups_runs_in_its_order_over_several_processes(lab: Lab) -> None:
    lab.write("tasks.py", TASKS)
    pool = lab.start_pool("tasks", "-p", "2")

    assert lab.start_script(SEND).wait() == 0

    lab.wait_for_notes("last")
    lab.wait_until_done()
    ran = lab.notes()
    assert sorted(ran[1:-1]) == ["left 1", "left 2", "middle", "right 1", "right 2", "right 3"]
    assert (ran[0], ran[-1]) == ("first", "last")
    assert ran.index("left 1") < ran.index("left 2")
    assert ran.index("right 1") < min(ran.index("right 2"), ran.index("right 3"))
    assert lab.states() == {}
    pool.stop()
