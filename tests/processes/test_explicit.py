"""The explicit style: a broker and backends built by hand on three files, in a script and in a pool."""

from __future__ import annotations

from .support import Lab, both_start_methods

pytestmark = both_start_methods

SCRIPT = """
    import explicit
    from explicit import add, add_async, alone, broker, fail, tell_failure, write
    from localq import group

    if __name__ == "__main__":
        steps = (add.message(1, 2) | add.message(3) | add_async.message(4)).run()
        print("pipeline", steps.get_result(block=True, timeout=30_000))
        members = group([add_async.message(n, n) for n in range(10)])
        members.add_completion_callback(write.message("group", "done"))
        members.run()
        print("group", list(members.get_results(block=True, timeout=30_000)))
        fail.send_with_options(on_failure=tell_failure)
        add.send_with_options(args=(20, 22), on_success="tell_success")
        for number in range(8):
            alone.send(number)
        broker.join("default", timeout=60_000)
        print("counts", broker.get_queue_message_counts("default"))
        broker.close()
"""


def test_what_was_built_by_hand_works_over_processes(lab: Lab) -> None:
    pool = lab.start_pool("explicit", "-p", "3", "-t", "2")
    script = lab.start_script(SCRIPT)
    assert script.wait(90) == 0, script.log()
    assert script.out().splitlines() == [
        "pipeline 10",
        f"group {[2 * n for n in range(10)]}",
        "counts (0, 0, 1)",
    ]
    assert lab.notes("group") == ["group done"]
    assert sorted(lab.notes("failure") + lab.notes("success")) == [
        "failure ValueError 1",
        "failure ValueError 2",
        "success 42",
    ]
    inside = [note.split()[1:] for note in lab.notes("inside")]
    assert [what for what, _ in inside] == ["in", "out"] * 8
    assert all(first[1] == second[1] for first, second in zip(inside[::2], inside[1::2], strict=True))
    pool.stop()
