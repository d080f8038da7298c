-- The tables of a queue file. Times are milliseconds since the epoch, but for
-- message.position, which counts microseconds.

CREATE TABLE message (
  sequence   INTEGER PRIMARY KEY,
  message_id TEXT NOT NULL,
  queue      TEXT NOT NULL,
  actor      TEXT NOT NULL,
  lane       TEXT NOT NULL,
  priority   INTEGER NOT NULL,
  position   INTEGER NOT NULL,
  eta        INTEGER,
  state      TEXT NOT NULL,
  owner      INTEGER,
  claim      INTEGER NOT NULL DEFAULT 0,
  claimed_at INTEGER,
  attempts   INTEGER NOT NULL DEFAULT 0,
  crashes    INTEGER NOT NULL DEFAULT 0,
  verdict    TEXT,
  reason     TEXT,
  died_at    INTEGER,
  traceback  TEXT,
  encoder    TEXT NOT NULL,
  wire       INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  root       TEXT,
  unique_key TEXT,
  body       BLOB              -- NULL: it is large and lies in `payload`
);

-- A claim rewrites its row. Bodies that would spill over the row's page are kept
-- apart, so that claiming ten megabytes costs as little as claiming ten bytes.
CREATE TABLE payload (
  sequence INTEGER PRIMARY KEY,
  body     BLOB NOT NULL
);

-- One partial index a state: a message pays only for the one it is in.
CREATE INDEX message_by_id ON message (message_id);
CREATE INDEX waiting ON message (lane, queue, priority, position) WHERE state = 'waiting';
CREATE INDEX delayed ON message (queue, position) WHERE state = 'delayed';
CREATE INDEX running ON message (owner, queue)    WHERE state = 'running';
CREATE INDEX dead    ON message (died_at, queue)  WHERE state = 'dead';
CREATE INDEX aside   ON message (state, queue)    -- and whatever no store has written there
  WHERE state <> 'waiting' AND state <> 'delayed' AND state <> 'running' AND state <> 'dead';
CREATE INDEX cancelled ON message (died_at)       WHERE state = 'cancelled';

CREATE TABLE worker (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,   -- never given twice: messages name their owner by it
  name      TEXT NOT NULL,
  pid       INTEGER NOT NULL,
  pool      TEXT NOT NULL,
  queues    TEXT NOT NULL,                       -- JSON lists
  actors    TEXT NOT NULL,
  threads   INTEGER NOT NULL,
  joined_at INTEGER NOT NULL
);

CREATE TABLE value (
  key        TEXT PRIMARY KEY,
  data       BLOB NOT NULL,
  expires_at INTEGER NOT NULL,
  until_revived TEXT           -- the id of a dead letter: forgotten when that lives again
) WITHOUT ROWID;
CREATE INDEX value_by_expiry ON value (expires_at);
CREATE INDEX value_of_the_dead ON value (until_revived) WHERE until_revived IS NOT NULL;

CREATE TABLE counter (
  key        TEXT PRIMARY KEY,
  value      INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX counter_by_expiry ON counter (expires_at);

-- Who is inside of a limit on how many at a time. `holder` is the file whose lock
-- says that the process lives (see holders.py).
CREATE TABLE hold (
  key    TEXT NOT NULL,
  holder TEXT NOT NULL,
  amount INTEGER NOT NULL,
  PRIMARY KEY (key, holder)
) WITHOUT ROWID;
CREATE INDEX hold_by_holder ON hold (holder);

CREATE TABLE event (
  sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
  topic      TEXT NOT NULL,
  data       BLOB NOT NULL,
  expires_at INTEGER NOT NULL
);
CREATE INDEX event_by_topic ON event (topic, sequence);
CREATE INDEX event_by_expiry ON event (expires_at);

CREATE TABLE schedule (
  name   TEXT PRIMARY KEY,
  due_at INTEGER NOT NULL,
  body   BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX schedule_by_due ON schedule (due_at);
