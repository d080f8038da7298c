"""One run of the benchmarks: how much is measured, of whom, and what was found."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from . import actors
from .contender import Contender
from .peers.peer import Peer, Place
from .peers.redis_server import redis_server
from .samples import Samples


@dataclass(slots=True)
class Size:
    """How much is measured, each round."""

    rounds: int = 5
    messages: int = 20_000
    """For each throughput."""
    peer_messages: int = 3_000
    """The same, of those who need longer for them."""
    tries: int = 300
    """Of each latency."""
    peer_tries: int = 100
    idle: float = 10.0
    """Seconds of idleness."""
    work: float = 2.0
    """Seconds of work for tasks of one length."""
    many: int = 1_000_000
    calls: int = 200
    """Of each verb of the store."""
    processes: Sequence[int] = (2, 4, 8, 32)
    peer_processes: Sequence[int] = (1, 2, 4, 8)
    senders: Sequence[int] = (1, 4, 16)
    payloads: Sequence[tuple[int, int]] = ((10_000, 2_000), (1_000_000, 50), (10_000_000, 8))
    """Bytes, and how many messages of that."""
    full: int = 500
    """Commits that wait for the disk."""


QUICK = Size(
    rounds=1,
    messages=300,
    peer_messages=100,
    tries=20,
    peer_tries=10,
    idle=1.0,
    work=0.1,
    many=5_000,
    calls=20,
    processes=(2, 4),
    peer_processes=(1, 2),
    senders=(1, 4),
    payloads=((10_000, 20), (1_000_000, 3), (10_000_000, 1)),
    full=20,
)
"""Few of everything: does it still run?"""


@dataclass(slots=True)
class Run:
    """What the groups measure with, and into."""

    size: Size
    samples: Samples
    peers: list[Peer]
    redis: Place | None
    _stack: ExitStack
    _kept: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Of peers, in words."""

    @contextmanager
    def ours(self, query: str = "", **environment: str) -> Iterator[Contender]:
        """localq on a file of its own; with that query in its URL, and those variables for its workers."""
        with (
            tempfile.TemporaryDirectory(prefix="localq-road-") as folder,
            closing(actors.connect(folder, query)) as contender,
        ):
            contender.environment.update(environment)
            yield contender

    @contextmanager
    def theirs(self, peer: Peer) -> Iterator[Contender]:
        """That peer, on a file of its own or on the emptied Redis."""
        with tempfile.TemporaryDirectory(prefix="localq-peer-") as folder:
            place = replace(self.redis, folder=folder) if self.redis else Place(folder)
            with closing(peer.connect(place)) as contender:
                yield contender

    def in_turns(self, measure: Callable[[Contender], None]) -> None:
        """Call it with localq and with all peers, each in its turn.

        A peer that fails is noted: an hour of measuring does not end by it.
        """
        with self.ours() as contender:
            measure(contender)
        for peer in self.peers:
            try:
                with self.theirs(peer) as contender:
                    measure(contender)
            except Exception as error:
                self.failures.append(f"{peer.name} failed once: {type(error).__name__}: {error}")
                print(self.failures[-1], file=sys.stderr, flush=True)

    def messages(self, contender: Contender) -> int:
        """How many it is given for a throughput."""
        return self.size.messages if contender.name == actors.NAME else self.size.peer_messages

    def tries(self, contender: Contender) -> int:
        """How many it is given for a latency."""
        return self.size.tries if contender.name == actors.NAME else self.size.peer_tries

    def kept(self, name: str, make: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What is made at the first call, and kept until the run is over."""
        if name not in self._kept:
            self._kept[name] = self._stack.enter_context(make())
        return self._kept[name]


@contextmanager
def run_of(size: Size, wanted: Sequence[Peer]) -> Iterator[Run]:
    """A run with those peers, where they are installed, and their server, for as long as the block lasts."""
    peers = [peer for peer in wanted if not peer.missing()]
    with ExitStack() as stack:
        redis = None
        if any(peer.redis for peer in peers):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="localq-redis-"))
            redis = stack.enter_context(redis_server(folder))
        yield Run(size, Samples(), peers, redis, stack)
