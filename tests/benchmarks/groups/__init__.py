"""What belongs together, one module each: `measure(run)` measures it once, all contenders in turns."""

from __future__ import annotations

from . import crowds, durability, extras, latency, lengths, payloads, scale, starting, throughput

GROUPS = {
    "throughput": throughput,
    "latency": latency,
    "lengths": lengths,
    "scale": scale,
    "crowds": crowds,
    "payloads": payloads,
    "starting": starting,
    "durability": durability,
    "extras": extras,
}
"""In the order of the table."""
