"""Sends messages of every kind until it is killed: python -m tests.torture.sender SEED SENDERS

This process forks the senders, and another for each that has died. A sender notes what it is about to
send, and again when `send` has returned: so it is known of each message whether it was accepted.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import uuid4

import localq
from localq.processes.launch import die_with_parent
from localq.results import ResultError

from . import actors
from .noting import note

ENOUGH = 120
"""Messages that are left to do, at which senders rest."""


@dataclass
class Plan:
    """One thing to send, and all that must come of it."""

    send: Callable[[], Any]
    firsts: list[str]
    """What `send` stores, all or none."""
    values: dict[str, Any] = field(default_factory=dict)
    """The result of each message that succeeds."""
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of messages of a pipeline: the second is stored with the end of the first."""
    members: list[list[str]] = field(default_factory=list)
    """The members of a group: of each the messages, one after the other."""
    success: str | None = None
    """What is sent when all of them have succeeded."""
    end: str | None = None
    """What is sent when all have ended, however they did."""
    told: list[str] = field(default_factory=list)
    """Messages whose success another actor is told."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Of those with a large result: so many x."""
    asked: str | None = None
    """The message whose result the sender waits for."""


class Sender:
    """One thread that sends."""

    def __init__(self, seed: str) -> None:
        self.rnd = random.Random(seed)
        self.recent: list[str] = []
        self.broker = localq.get_broker()

    def run(self) -> None:
        while True:
            self._rest_if_there_is_enough()
            for _ in range(self.rnd.randrange(1, 6)):
                if self.rnd.random() < 0.08 and self.recent:
                    self._abort()
                else:
                    self._send(self._plan())
            time.sleep(self.rnd.random() * 0.02)

    def _rest_if_there_is_enough(self) -> None:
        def left() -> int:
            counts = self.broker.store.counts().values()
            return sum(of.get(state, 0) for of in counts for state in ("waiting", "delayed"))

        while left() > ENOUGH:
            time.sleep(0.05)

    def _send(self, plan: Plan) -> None:
        number, pid = uuid4().hex, os.getpid()
        told = {each.name: getattr(plan, each.name) for each in fields(plan) if each.name != "send"}
        note("try", number, pid, json.dumps(told, separators=(",", ":")))
        plan.send()
        note("sent", number, pid)
        self.recent = [*self.recent[-10:], *plan.firsts]
        if plan.asked:
            self._ask(plan.asked)

    def _ask(self, message_id: str) -> None:
        message = localq.Message("default", "plain", (), {}, {}, message_id)
        try:
            value = message.get_result(block=True, timeout=30_000)
        except ResultError as error:
            note("refused", message_id, os.getpid(), type(error).__name__)
        else:
            note("got", message_id, os.getpid(), json.dumps(value))

    def _abort(self) -> None:
        message_id = self.rnd.choice(self.recent)
        mode = self.rnd.choices([localq.AbortMode.ABORT, localq.AbortMode.CANCEL], [3, 1])[0]
        self._abort_now(message_id, mode)

    def _abort_now(self, message_id: str, mode: localq.AbortMode) -> None:
        note("aborting", message_id, os.getpid(), mode.name)
        localq.abort(message_id, mode=mode)
        note("aborted", message_id, os.getpid(), mode.name, time.monotonic())

    # -- what to send

    def _plan(self) -> Plan:
        kinds: dict[Callable[[], Plan], int] = {
            self._plain: 30, self._many: 5, self._later: 10, self._large: 4, self._telling: 5,
            self._flaky: 12, self._hopeless: 2, self._waiting: 10, self._limited: 7, self._often: 4,
            self._pipeline: 8, self._group: 9, self._asked: 6, self._aborted: 3, self._deaf: 1,
        }  # fmt: skip
        return self.rnd.choices(list(kinds), list(kinds.values()))[0]()

    def _millis(self) -> float:
        return self.rnd.choice([0, 0, 0, 1, 3, 10, 30])

    def _value(self) -> int:
        return self.rnd.randrange(1_000_000)

    def _one(self, message: localq.Message[Any], *, delay: int | None = None, **more: Any) -> Plan:
        values = {message.message_id: message.args[0]} if message.args else {}
        return Plan(lambda: self.broker.enqueue(message, delay=delay), [message.message_id], values, **more)

    def _plain(self) -> Plan:
        return self._one(actors.plain.message(self._value(), self._millis()))

    def _many(self) -> Plan:
        many = [actors.plain.message(self._value(), 0) for _ in range(self.rnd.randrange(2, 40))]
        ids = [message.message_id for message in many]
        values = {message.message_id: message.args[0] for message in many}
        return Plan(lambda: self.broker.enqueue_many(many), ids, values)

    def _later(self) -> Plan:
        message = actors.plain.message(self._value(), self._millis())
        return self._one(message, delay=self.rnd.randrange(1, 1500))

    def _large(self) -> Plan:
        length = self.rnd.randrange(3_000, 40_000)
        message = actors.plain.message("x" * length, 0)
        ids = [message.message_id]
        return Plan(lambda: self.broker.enqueue(message), ids, lengths={message.message_id: length})

    def _telling(self) -> Plan:
        message = actors.telling.message(self._value(), self._millis())
        return self._one(message, told=[message.message_id])

    def _flaky_message(self) -> localq.Message[Any]:
        return actors.flaky.message(self._value(), self._millis(), self.rnd.randrange(4))

    def _flaky(self) -> Plan:
        return self._one(self._flaky_message())

    def _hopeless(self) -> Plan:
        return self._one(actors.hopeless.message())

    def _waiting(self) -> Plan:
        return self._one(actors.waiting.message(self._value(), self._millis()))

    def _limited(self) -> Plan:
        return self._one(actors.limited.message(self._value(), self._millis()))

    def _often(self) -> Plan:
        return self._one(actors.often.message(self._value()))

    def _asked(self) -> Plan:
        # Of this actor, since a result belongs to an actor's name too.
        message = actors.plain.message(self._value(), self._millis())
        return self._one(message, asked=message.message_id)

    def _steps(self, count: int) -> list[localq.Message[Any]]:
        def step() -> localq.Message[Any]:
            kind = self.rnd.randrange(6)
            if kind == 0:
                return self._flaky_message()
            if kind == 1:
                return actors.waiting.message(self._value(), self._millis())
            if kind == 2:
                options = {"delay": self.rnd.randrange(1, 300)}
                return actors.plain.message_with_options(args=(self._value(), 0), **options)
            return actors.plain.message(self._value(), self._millis())

        steps = [step() for _ in range(count)]
        if self.rnd.random() < 0.08:
            steps[self.rnd.randrange(count)] = actors.hopeless.message()
        return steps

    def _pipeline(self) -> Plan:
        steps = self._steps(self.rnd.randrange(2, 5))
        return Plan(localq.pipeline(steps).run, [steps[0].message_id], _values(steps), _pairs(steps))

    def _group(self) -> Plan:
        chains = [self._steps(self.rnd.choice([1, 1, 1, 2, 3])) for _ in range(self.rnd.randrange(1, 6))]
        success, end = actors.plain.message(1, 0), actors.plain.message(2, 0)
        members = [localq.pipeline(chain) if len(chain) > 1 else chain[0] for chain in chains]
        group = localq.group(members)
        group.add_completion_callback(success)
        group.add_completion_callback(end.copy(options={"fire_on_failure": True}))
        everything = [message for chain in chains for message in chain]
        return Plan(
            group.run,
            [chain[0].message_id for chain in chains],
            _values([*everything, success, end]),
            [pair for chain in chains for pair in _pairs(chain)],
            [[message.message_id for message in chain] for chain in chains],
            success.message_id,
            end.message_id,
        )

    def _aborted(self) -> Plan:
        message = actors.long.message(self._value(), 0.5 + self.rnd.random())
        plan = self._one(message)
        self._send(plan)
        time.sleep(self.rnd.random() * 0.1)
        self._abort_now(message.message_id, localq.AbortMode.ABORT)
        return self._plain()

    def _deaf(self) -> Plan:
        message = actors.deaf.message(self._value(), 4)
        plan = self._one(message)
        self._send(plan)
        time.sleep(self.rnd.random() * 0.1)
        self._abort_now(message.message_id, localq.AbortMode.KILL)
        return self._plain()


def _values(messages: list[localq.Message[Any]]) -> dict[str, Any]:
    return {message.message_id: message.args[0] for message in messages if message.args}


def _pairs(messages: list[localq.Message[Any]]) -> list[tuple[str, str]]:
    ids = [message.message_id for message in messages]
    return list(itertools.pairwise(ids))


def send(seed: str, parent: int) -> None:
    """Send on one thread, or on three, until this process is killed."""
    die_with_parent(parent)
    for number in range(random.Random(seed).choice([0, 0, 2])):
        threading.Thread(target=run, args=(f"{seed}/{number}",), daemon=True).start()
    run(seed)


def run(seed: str) -> None:
    try:
        Sender(seed).run()
    except BaseException as error:  # a sender must not end in any other way than by being killed
        note("broken", seed, os.getpid(), repr(error))
        traceback.print_exc()
    os._exit(1)


def main(seed: str, count: int) -> None:
    senders: set[int] = set()
    parent = os.getpid()
    for number in range(1_000_000):
        while len(senders) >= count:
            senders.discard(os.wait()[0])
        pid = os.fork()
        if not pid:
            send(f"{seed}/{number}", parent)
        senders.add(pid)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
