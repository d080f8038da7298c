"""Every SQL statement of the SQLite store, one a name; ``schema.sql`` has the tables."""

from __future__ import annotations

from functools import lru_cache

# In the order of the fields of a Record.
COLUMNS = (
    "message_id, queue, actor, body, encoder, wire, priority, eta, lane, root, unique_key, created_at, "
    "sequence, state, position, owner, claim, claimed_at, attempts, crashes, verdict, reason, died_at, "
    "traceback"
)

# -- messages

INSERT = """
INSERT INTO message (message_id, queue, actor, body, encoder, wire, priority, eta, lane, root,
                     unique_key, created_at, state, position)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

INSERT_PAYLOAD = "INSERT OR REPLACE INTO payload (sequence, body) VALUES (?, ?)"
SELECT_PAYLOAD = "SELECT body FROM payload WHERE sequence = ?"
DELETE_PAYLOAD = "DELETE FROM payload WHERE sequence = ?"

CLAIM_SUSPECT = f"""
UPDATE message SET state = 'running', owner = ?, claim = ?, claimed_at = ?, attempts = attempts + 1
WHERE sequence = (
  SELECT sequence FROM message INDEXED BY waiting
  WHERE state = 'waiting' AND lane = 'alone' AND queue IN (SELECT value FROM json_each(?))
    AND actor NOT IN (SELECT value FROM json_each(?))
  ORDER BY priority, position LIMIT 1)
RETURNING {COLUMNS}"""

BURY = """
UPDATE message SET state = 'dead', reason = ?, died_at = ?, traceback = ?, verdict = NULL, owner = NULL,
                   claimed_at = NULL
WHERE sequence = ? AND owner = ? AND claim = ? AND state = 'running'"""

RETRY = """
UPDATE message SET state = ?, position = ?, eta = ?, queue = ?, actor = ?, body = ?, encoder = ?,
                   wire = ?, priority = ?, lane = ?, root = ?, unique_key = ?, verdict = NULL,
                   owner = NULL, claimed_at = NULL
WHERE sequence = ? AND owner = ? AND claim = ? AND state = 'running'"""

CANCEL = """
UPDATE message SET state = 'cancelled', reason = ?, died_at = ?, verdict = NULL, owner = NULL,
                   claimed_at = NULL
WHERE sequence = ? AND CASE WHEN ? IS NULL THEN state IN ('waiting', 'delayed', 'held')
                            ELSE owner = ? AND claim = ? AND state = 'running' END"""

RELEASE = """
UPDATE message SET state = 'waiting', owner = NULL, claimed_at = NULL, attempts = attempts - 1
WHERE sequence = ? AND owner = ? AND claim = ? AND state = 'running'"""

# The condition of the index of that name, without which SQLite does not take it.
_ASIDE = "state <> 'waiting' AND state <> 'delayed' AND state <> 'running' AND state <> 'dead'"

# Each state in the order of its index, which spares the sorting; so a queue may come several times.
COUNTS = f"""
SELECT queue, 'waiting', count(*) FROM message INDEXED BY waiting
WHERE state = 'waiting' GROUP BY lane, queue UNION ALL
SELECT queue, 'delayed', count(*) FROM message INDEXED BY delayed
WHERE state = 'delayed' GROUP BY queue UNION ALL
SELECT queue, 'running', count(*) FROM message INDEXED BY running
WHERE state = 'running' GROUP BY owner, queue UNION ALL
SELECT queue, 'dead', count(*) FROM message INDEXED BY dead
WHERE state = 'dead' GROUP BY queue UNION ALL
SELECT queue, state, count(*) FROM message INDEXED BY aside
WHERE {_ASIDE} AND state IN ('held', 'cancelled') GROUP BY state, queue"""


@lru_cache(maxsize=64)
def promote(queues: int) -> str:
    """Make delayed messages of some queues ready whose eta has come."""
    return f"""
UPDATE message SET state = 'waiting'
WHERE state = 'delayed' AND queue IN ({_marks(queues)}) AND position <= ?"""


@lru_cache(maxsize=64)
def next_delayed(queues: int) -> str:
    """When the next delayed message of some queues is due."""
    one = "SELECT min(position) AS position FROM message WHERE state = 'delayed' AND queue = ?"
    return f"SELECT min(position) FROM ({' UNION ALL '.join([one] * queues)})"


@lru_cache(maxsize=64)
def claim(queues: int, skip: int) -> str:
    """Take the first messages of some queues, but none of some actors.

    Each queue gives its own first ones from the index; only those few are then sorted.
    """
    skipped = f"AND actor NOT IN ({_marks(skip)})" if skip else ""
    one = f"""SELECT * FROM (
      SELECT sequence, priority, position FROM message INDEXED BY waiting
      WHERE state = 'waiting' AND lane = 'thread' AND queue = ? {skipped}
      ORDER BY priority, position LIMIT ?)"""
    return f"""
UPDATE message SET state = 'running', owner = ?, claim = ?, claimed_at = ?, attempts = attempts + 1
WHERE sequence IN (SELECT sequence FROM (
    {" UNION ALL ".join([one] * queues)})
  ORDER BY priority, position LIMIT ?)
RETURNING {COLUMNS}"""


@lru_cache(maxsize=64)
def claimable(queues: int, skip: int) -> str:
    """Whether there is anything that `claim` would take."""
    skipped = f"AND actor NOT IN ({_marks(skip)})" if skip else ""
    return f"""
SELECT EXISTS (SELECT 1 FROM message INDEXED BY waiting WHERE state = 'waiting' AND lane IN ('thread', 'alone')
                                       AND queue IN ({_marks(queues)}) {skipped})"""


@lru_cache(maxsize=128)
def remove(count: int) -> str:
    """Remove done messages, and say which of them were still this claim's."""
    return f"""
DELETE FROM message WHERE sequence IN ({_marks(count)}) AND +owner = ? AND claim = ?
                      AND +state = 'running' RETURNING sequence"""


def _marks(count: int) -> str:
    return ", ".join("?" * count)


MOVE = """
UPDATE message SET state = ?, position = ?, eta = ?, attempts = ?, crashes = ?, verdict = ?,
                   reason = ?, died_at = ?, traceback = ?
WHERE sequence = ?"""

# -- workers

JOIN = """
INSERT INTO worker (name, pid, pool, queues, actors, threads, joined_at)
VALUES (?, ?, ?, ?, ?, ?, ?)"""
LEAVE = "DELETE FROM worker WHERE id = ? RETURNING id"
WORKERS = "SELECT name, pid, queues, actors, threads, pool, joined_at, id FROM worker ORDER BY id"

DECLARED = """
SELECT EXISTS (SELECT 1 FROM worker, json_each(worker.actors) AS declared WHERE declared.value = ?)"""

LOST = f"""
SELECT {COLUMNS} FROM message INDEXED BY dead
WHERE state = 'dead' AND reason GLOB 'ActorNotFound:*'
  AND actor IN (SELECT value FROM json_each(?))
  AND (? = '[]' OR queue IN (SELECT value FROM json_each(?)))"""

CHARGE = """
UPDATE message SET crashes = crashes + 1, verdict = CASE WHEN crashes + 1 >= ? THEN ? END, traceback = ?
WHERE sequence = ? AND owner = ? AND claim = ? AND state = 'running' RETURNING sequence"""

CONDEMN = """
UPDATE message SET verdict = ?, traceback = ?
WHERE sequence = ? AND owner = ? AND claim = ? AND state = 'running' RETURNING sequence"""

SUSPECT = """
UPDATE message SET lane = 'alone'
WHERE sequence = ? AND owner = ? AND claim = ? AND state = 'running'"""

GIVE_BACK = """
UPDATE message SET state = 'waiting', owner = NULL, claimed_at = NULL,
                   attempts = attempts - (sequence NOT IN (SELECT value FROM json_each(?)))
WHERE owner = ? AND state = 'running' RETURNING queue"""

# -- values, counters, events, schedules

SET_VALUE = "INSERT OR REPLACE INTO value (key, data, expires_at, until_revived) VALUES (?, ?, ?, ?)"
FORGET_VALUES = "DELETE FROM value WHERE until_revived = ?"
GET_VALUE = "SELECT data FROM value WHERE key = ? AND expires_at > ?"


@lru_cache(maxsize=64)
def get_values(count: int) -> str:
    """What is kept under any of so many keys."""
    return f"SELECT key, data FROM value WHERE key IN ({_marks(count)}) AND expires_at > ?"


DELETE_VALUE = "DELETE FROM value WHERE key = ?"

GET_COUNTER = "SELECT value FROM counter WHERE key = ? AND expires_at > ?"
SET_COUNTER = "INSERT OR REPLACE INTO counter (key, value, expires_at) VALUES (?, ?, ?)"
DELETE_COUNTER = "DELETE FROM counter WHERE key = ?"
STEP_COUNTER = """
INSERT INTO counter (key, value, expires_at) VALUES (:key, :amount, :until)
ON CONFLICT (key) DO UPDATE SET
  value = CASE WHEN expires_at > :now THEN value ELSE 0 END + :amount,
  expires_at = CASE WHEN expires_at > :now THEN expires_at ELSE :until END
RETURNING value"""


# Marks, not a list in JSON as elsewhere: users choose the keys, and SQLite's JSON ends a text at a NUL.
@lru_cache(maxsize=64)
def sum_counters(count: int) -> str:
    """What so many counters come to."""
    return f"SELECT coalesce(sum(value), 0) FROM counter WHERE key IN ({_marks(count)}) AND expires_at > ?"


HOLD = """
INSERT INTO hold (key, holder, amount)
SELECT :key, :holder, 1 WHERE (SELECT coalesce(sum(amount), 0) FROM hold WHERE key = :key) < :maximum
ON CONFLICT (key, holder) DO UPDATE SET amount = amount + 1"""
LET_GO_OF_ONE = "UPDATE hold SET amount = amount - 1 WHERE key = ? AND holder = ? AND amount > 1"
LET_GO = "DELETE FROM hold WHERE key = ? AND holder = ?"
HOLDERS = "SELECT holder FROM hold WHERE key = ?"
HOLDS_ANY = "SELECT EXISTS (SELECT 1 FROM hold WHERE holder = ?)"
FORGET_HOLDER = "DELETE FROM hold WHERE holder = ?"

PUT_EVENT = "INSERT INTO event (topic, data, expires_at) VALUES (?, ?, ?)"
EVENTS = "SELECT sequence, topic, data FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?"


@lru_cache(maxsize=64)
def events_of(topics: int) -> str:
    """What happened of so many topics."""
    return f"""
SELECT sequence, topic, data FROM event
WHERE topic IN ({_marks(topics)}) AND sequence > ? ORDER BY sequence LIMIT ?"""


PUT_SCHEDULE = "INSERT OR REPLACE INTO schedule (name, due_at, body) VALUES (?, ?, ?)"
DUE_SCHEDULES = "SELECT name, due_at, body FROM schedule WHERE due_at <= ? ORDER BY due_at, name"
ADVANCE_SCHEDULE = "UPDATE schedule SET due_at = ? WHERE name = ? AND due_at = ?"
DELETE_SCHEDULE = "DELETE FROM schedule WHERE name = ?"

# What no store has written, and nobody would ever claim or finish: SQLite puts blobs behind all texts,
# and texts behind all numbers.
_NOBODYS = f"""
SELECT sequence FROM message INDEXED BY waiting WHERE state = 'waiting' AND lane < 'alone' UNION ALL
SELECT sequence FROM message INDEXED BY waiting
WHERE state = 'waiting' AND lane > 'alone' AND lane < 'thread' UNION ALL
SELECT sequence FROM message INDEXED BY waiting WHERE state = 'waiting' AND lane > 'thread' UNION ALL
SELECT sequence FROM message INDEXED BY waiting
WHERE state = 'waiting' AND lane IN ('alone', 'thread') AND queue >= x'' UNION ALL
SELECT sequence FROM message INDEXED BY delayed WHERE state = 'delayed' AND queue >= x'' UNION ALL
SELECT sequence FROM message INDEXED BY running WHERE state = 'running' AND owner IS NULL UNION ALL
SELECT sequence FROM message INDEXED BY running WHERE state = 'running' AND owner >= '' UNION ALL
SELECT sequence FROM message INDEXED BY aside WHERE {_ASIDE} AND state < 'cancelled' UNION ALL
SELECT sequence FROM message INDEXED BY aside WHERE {_ASIDE} AND state > 'cancelled' AND state < 'held' UNION ALL
SELECT sequence FROM message INDEXED BY aside WHERE {_ASIDE} AND state > 'held'
LIMIT :batch"""

BURY_NOBODYS = f"""
UPDATE message SET state = 'dead', reason = 'DecodeError: its row is damaged: nobody can claim it',
                   died_at = :now, owner = NULL WHERE sequence IN ({_NOBODYS})"""

# -- what has expired: how to find it (at what size, since what is large lies on many pages), and where

SWEEP: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("SELECT key, length(data) FROM value WHERE expires_at <= :now LIMIT :batch", (("value", "key"),)),
    ("SELECT key, 0 FROM counter WHERE expires_at <= :now LIMIT :batch", (("counter", "key"),)),
    ("SELECT sequence, length(data) FROM event WHERE expires_at <= :now LIMIT :batch", (("event", "sequence"),)),
    *(
        (
            f"""
SELECT sequence, coalesce(length(payload.body), 0)
FROM message INDEXED BY {state} LEFT JOIN payload USING (sequence)
WHERE state = '{state}' AND died_at <= :dead LIMIT :batch""",
            (("payload", "sequence"), ("message", "sequence")),
        )
        for state in ("dead", "cancelled")
    ),
)


@lru_cache(maxsize=64)
def delete(table: str, column: str, count: int) -> str:
    """Delete so many rows by their keys."""
    return f"DELETE FROM {table} WHERE {column} IN ({_marks(count)})"
