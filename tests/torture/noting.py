"""How actors and senders tell what they do: lines in a file, of which a kill may leave a piece."""

from __future__ import annotations

import os
from pathlib import Path

END = " ."


def note(*words: object) -> None:
    """Append a line. Who is killed in the middle of a write has written some of it: so each begins anew, and
    only one that ends in `END` is whole."""
    line = "\n" + " ".join(map(str, words)) + END + "\n"
    descriptor = os.open(Path(os.environ["LAB_FOLDER"], "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def whole(lines: list[str]) -> list[str]:
    """Those of the lines that are whole, without their end."""
    return [line.removesuffix(END) for line in lines if line.endswith(END)]
