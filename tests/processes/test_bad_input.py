"""Messages that cannot be run become dead letters with a reason, and the pool goes on."""

from __future__ import annotations

import os
import pickle
import time

import localq
from localq.encoder import JSONEncoder, MsgpackEncoder
from localq.store.base import DEAD, WAITING, Claim, Outcome, WorkerRecord

from .support import Lab, both_start_methods, wait_until


def fields_of(actor: str, *args: object, message_id: str = "m") -> dict[str, object]:
    message = localq.Message("default", actor, args, {}, {}, message_id=message_id, message_timestamp=1)
    return message.asdict()


def wait_for_reason(lab: Lab, message_id: str) -> str:
    """Wait until the message of that id is a dead letter, while the pool goes on; its reason."""
    (record,) = wait_until(lambda: lab.records(message_ids=[message_id], states=[DEAD]))
    assert lab.result(lab.send("add", 1, 2)) == 3
    assert record.reason is not None
    return record.reason


# -- bytes that are no message


@both_start_methods
def test_bytes_that_cannot_be_decoded(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    (worker,) = lab.workers()
    bodies = [b"\xff\x00", b"", b"\xc1", b"{}", b"\x00" * 3000]
    for number, body in enumerate(bodies):
        lab.insert(f"bad{number}", body=body)
    for number in range(len(bodies)):
        assert wait_for_reason(lab, f"bad{number}").startswith("DecodeError: ")
    assert lab.workers() == {worker}
    assert [record.body for record in lab.records(states=[DEAD])] == bodies  # nothing is thrown away
    pool.stop()


def test_a_message_of_a_newer_layout(lab: Lab) -> None:
    lab.insert("newer", body=MsgpackEncoder().encode(fields_of("add", 1, 2)), wire=99)
    pool = lab.start_pool("tasks", "-p", "1")
    reason = wait_for_reason(lab, "newer")
    assert "newer localq" in reason
    assert "99" in reason
    pool.stop()


def test_a_pickled_message_where_nobody_chose_pickle(lab: Lab) -> None:
    lab.insert("pickled", body=pickle.dumps(fields_of("add", 1, 2)), encoder="pickle")
    pool = lab.start_pool("tasks", "-p", "1")
    reason = wait_for_reason(lab, "pickled")
    assert "PickleEncoder" in reason
    pool.stop()


def test_a_pickled_message_where_pickle_was_chosen_runs_after_all(lab: Lab) -> None:
    lab.insert("pickled", body=pickle.dumps(fields_of("tell", "hello", message_id="pickled")), encoder="pickle")
    pool = lab.start_pool("tasks", "-p", "1")
    wait_for_reason(lab, "pickled")
    pool.stop()
    lab.write("pickles.py", "import localq\nlocalq.set_encoder(localq.PickleEncoder())\nimport tasks\n")
    pool = lab.start_pool("pickles", "-p", "1")
    assert lab.localq("dead", "retry", "pickled").returncode == 0
    lab.wait_for_notes("told")
    pool.stop()


def test_a_message_of_an_encoder_that_nobody_knows(lab: Lab) -> None:
    lab.insert("cbor", body=b"\xa0", encoder="cbor")
    pool = lab.start_pool("tasks", "-p", "1")
    assert "'cbor'" in wait_for_reason(lab, "cbor")
    pool.stop()


def test_messages_of_the_other_built_in_encoder_are_read(lab: Lab) -> None:
    lab.insert("json", body=JSONEncoder().encode(fields_of("tell", "hello", message_id="json")), encoder="json")
    pool = lab.start_pool("tasks", "-p", "1")
    lab.wait_for_notes("told")
    lab.wait_until_done()
    assert lab.states() == {}
    pool.stop()


def test_bad_messages_among_good_ones_of_one_burst(lab: Lab) -> None:
    for number in range(50):
        lab.send("mail", number)
        if number % 10 == 5:
            lab.insert(f"bad{number}", body=b"\xff\x00", actor="mail", position=number)
    pool = lab.start_pool("tasks", "-p", "2")
    lab.wait_until_done()
    assert sorted(int(note.split()[1]) for note in lab.notes("mail")) == list(range(50))
    assert lab.states() == {DEAD: 5}
    pool.stop()


def test_a_result_that_cannot_be_encoded_is_told_to_who_waits(lab: Lab) -> None:
    lab.write("odd.py", "import localq, tasks\n\n@localq.actor\ndef odd():\n    return object()\n")
    pool = lab.start_pool("odd", "-p", "1")
    assert lab.failure(lab.send("odd")).orig_exc_type == "EncodeError"
    assert lab.result(lab.send("add", 1, 2)) == 3
    pool.stop()


# -- actors that nobody declares


@both_start_methods
def test_a_message_for_an_unknown_actor_is_revived_when_a_worker_declares_it(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    message = lab.send("later", "x")
    record = lab.wait_until_dead(message)
    assert record.reason is not None
    assert record.reason.startswith("ActorNotFound: later")
    pool.wait_for_log("No actor named 'later' is declared here; the message is dead until a worker has one.")
    assert lab.result(lab.send("add", 1, 2)) == 3

    lab.write("later.py", "import localq\n\n@localq.actor\ndef later(what):\n    return what\n")
    second = lab.start_pool("later", "-p", "1")

    wait_until(lambda: not lab.records(message_ids=[message.message_id]))
    # Whoever waited has been told of the failure before; the result of now replaces that.
    assert lab.result(message) == "x"
    pool.stop(), second.stop()


@both_start_methods
def test_messages_of_an_actor_that_another_worker_declares_are_left_to_that(lab: Lab) -> None:
    lab.write(
        "later.py", "import localq, notes\n\n@localq.actor\ndef later(what):\n    notes.note('later', what)\n"
    )
    second = lab.start_pool("later", "-p", "1")
    pool = lab.start_pool("tasks", "-p", "1")
    for number in range(100):
        lab.send("later", number)
        lab.send("mail", number)
    lab.wait_until_done()
    assert sorted(lab.notes("later")) == sorted(f"later {number}" for number in range(100))
    assert sorted(lab.notes("mail")) == sorted(f"mail {number}" for number in range(100))
    assert lab.states() == {}
    pool.stop(), second.stop()


def test_the_last_worker_that_declared_an_actor_leaves_and_its_messages_become_visible(lab: Lab) -> None:
    lab.write("later.py", "import localq\n\n@localq.actor\ndef later(what):\n    return what\n")
    second = lab.start_pool("later", "-p", "1")
    pool = lab.start_pool("tasks", "-p", "1")
    assert lab.result(lab.send("later", 1)) == 1
    second.stop()
    message = lab.send("later", 2)
    # Either is right: a dead letter that says why, or waiting for one to come back. Not nowhere.
    wait_until(lambda: lab.record(message).state in (DEAD, WAITING))
    assert lab.result(lab.send("add", 1, 2)) == 3
    second = lab.start_pool("later", "-p", "1")
    wait_until(lambda: not lab.records(message_ids=[message.message_id]))
    assert lab.result(message) == 2
    pool.stop(), second.stop()


TWO_SCRIPTS = """
import os, sys, time
import localq
import notes

@localq.actor
def of_NAME(number):
    notes.note("NAME", number)
    return number

if __name__ == "__main__":
    early = [of_NAME.send(number) for number in range(30)]
    with localq.pool(processes=1, start_method=os.environ["LAB_START_METHOD"]):
        messages = early + [of_NAME.send(number) for number in range(30, 60)]
        results = [message.get_result(block=True, timeout=30_000) for message in messages]
        assert results == list(range(60)), results
        notes.note("finished", "NAME")
        while not all((notes.FOLDER / f"release-{name}").exists() for name in ("a", "b")):
            time.sleep(0.01)
"""


@both_start_methods
def test_two_scripts_on_one_file_do_not_bury_each_others_messages(lab: Lab) -> None:
    scripts = [lab.start_script(TWO_SCRIPTS.replace("NAME", name)) for name in ("a", "b")]
    lab.wait_for_notes("finished", 2)
    lab.release("a", "b")
    for script in scripts:
        assert script.wait() == 0, script.log()
    assert lab.states() == {}
    for name in ("a", "b"):
        assert sorted(int(note.split()[1]) for note in lab.notes(name)) == list(range(60))
    assert lab.is_intact()


@both_start_methods
def test_two_pools_of_different_actors_whose_senders_came_first(lab: Lab) -> None:
    for name in ("a", "b"):
        lab.write(f"of_{name}.py", TWO_SCRIPTS.replace("NAME", name))
    messages = [lab.send(f"of_{name}", number) for number in range(50) for name in ("a", "b")]
    first = lab.start_pool("of_a", "-p", "1")
    second = lab.start_pool("of_b", "-p", "1")
    wait_until(lambda: len(lab.notes("a")) >= 50 and len(lab.notes("b")) >= 50)
    lab.wait_until_done()
    assert lab.states() == {}
    assert [lab.result(message) for message in messages] == [number for number in range(50) for _ in "ab"]
    first.stop(), second.stop()


def test_a_burial_that_is_written_after_the_worker_that_knows_the_actor_has_joined_is_none(lab: Lab) -> None:
    # The other order than above: the message is claimed, then such a worker joins, then it is buried.
    store, now = lab.broker.store, time.time_ns() // 1_000_000
    message = lab.send("later", 1)
    ignorant = store.join(WorkerRecord("ignorant", os.getpid(), ["default"], ["add"]), now=now)
    (claimed,) = store.claim(Claim(ignorant, ["default"]), now=now)
    knowing = store.join(WorkerRecord("knowing", os.getpid(), ["default"], ["later"]), now=now)
    store.finish([Outcome(claimed, DEAD, "ActorNotFound: later")], now=now)
    assert lab.record(message).state == WAITING
    store.leave(ignorant, now=now), store.leave(knowing, now=now)
