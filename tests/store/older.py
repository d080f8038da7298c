"""Files as earlier versions of localq made them."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from localq.store.database import SCHEMA_VERSION

UNDO = {
    3: """
DROP INDEX aside;
CREATE INDEX aside ON message (state, queue) WHERE state IN ('held', 'cancelled')""",
    2: "DROP TABLE hold; DROP INDEX cancelled; ALTER TABLE message DROP COLUMN traceback",
    1: "DROP INDEX value_of_the_dead; ALTER TABLE value DROP COLUMN until_revived",
}
"""By version: what makes a file of it of one of the next."""


def make_older(path: str, version: int) -> None:
    """Make a closed queue one of that earlier schema."""
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        for undone in range(SCHEMA_VERSION - 1, version - 1, -1):
            older.executescript(UNDO[undone])
        older.execute(f"PRAGMA user_version = {version}")
