"""The actors of this example; `main.py` says what they do together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import localq
from localq.results import ResultFailure, ResultMissing


@localq.actor(max_retries=3, min_backoff=100)
def count_file(path: str) -> tuple[int, int]:
    """How many lines and words a file has, counted as ``wc`` does."""
    data = Path(path).read_bytes()
    return data.count(b"\n"), len(data.split())


@localq.actor
def count_each_file(folder: str) -> list[dict[str, Any]]:
    """Send one `count_file` for each .py file in a folder, all in one transaction; return the messages."""
    paths = sorted(path for path in Path(folder).glob("*.py") if path.is_file())
    counts = localq.group(count_file.message(str(path)) for path in paths).run()
    return [message.asdict() for message in counts.children]


@localq.actor(max_retries=None, throws=ResultFailure)
def add_up(sent: list[dict[str, Any]]) -> tuple[int, int, int]:
    """How many files, lines and words those messages have counted.

    It does not wait for them, since that would keep a worker from counting: it asks to be run again.
    """
    try:
        counts = list(localq.group(localq.Message(**fields) for fields in sent).get_results())
    except ResultMissing as missing:
        raise localq.Retry(str(missing), delay=50) from missing
    return len(counts), sum(lines for lines, _ in counts), sum(words for _, words in counts)
