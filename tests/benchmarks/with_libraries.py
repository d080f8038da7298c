"""The other libraries are measured, and the pictures drawn. By command, since dramatiq must not be installed where
the other tests run: ``pytest tests/benchmarks/with_libraries.py``, with ``localq[benchmarks]`` and a redis-server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .peers import PEERS
from .peers.peer import Peer
from .samples import Samples
from .test_benchmarks import QUICK, samples_of


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.packages[0])
def test_other_libraries_are_measured(
    start: Callable[..., Any], tmp_path: Path, peer: Peer
) -> None:
    file = tmp_path / "samples.json"
    arguments = ("--only", "throughput", "--peer", peer.name, "--json", str(file))
    _, samples = samples_of(start(*QUICK, *arguments), file)

    for name in ("enqueue_each", "drain", "together"):
        assert samples[name][peer.name][0] > 0


def test_pictures_are_drawn_from_what_a_run_wrote(start: Callable[..., Any], tmp_path: Path) -> None:
    samples = Samples()
    for name in ("drain_at_1", "drain_at_2", "rest_1", "compute_1"):
        samples.add(name, "localq", 100.0)
    samples.add_times("pick_up", "localq", [400_000, 500_000])
    (tmp_path / "samples.json").write_text(json.dumps({"about": ["here"], **samples.as_dict()}))
    plot = start("tests.benchmarks.plot", str(tmp_path / "samples.json"), str(tmp_path / "pictures"))
    out, err = plot.communicate(timeout=100)

    assert plot.returncode == 0, err
    assert len(out.split()) == 3
    for file in out.split():
        assert Path(file).read_bytes().startswith(b"\x89PNG")
