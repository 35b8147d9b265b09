-- Times are microseconds since 1970-01-01 UTC by the database's clock.

-- Messages on their way. Rows are never updated; seq never repeats.
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  shard INTEGER NOT NULL,
  id TEXT NOT NULL,
  topic TEXT NOT NULL,
  aggregateid TEXT NOT NULL,
  type TEXT NOT NULL,
  headers TEXT NOT NULL,
  payload BLOB NOT NULL,
  created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
);

-- Messages that wait for their time. They get their place in the order when they move to outbox.
CREATE TABLE outbox_scheduled (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  due_at INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  id TEXT NOT NULL,
  topic TEXT NOT NULL,
  aggregateid TEXT NOT NULL,
  type TEXT NOT NULL,
  headers TEXT NOT NULL,
  payload BLOB NOT NULL
);
CREATE INDEX outbox_scheduled_due ON outbox_scheduled (due_at, seq);

-- Messages that the publisher refused, and what waits behind them.
CREATE TABLE outbox_retry (
  seq INTEGER NOT NULL PRIMARY KEY,
  shard INTEGER NOT NULL,
  id TEXT NOT NULL,
  topic TEXT NOT NULL,
  aggregateid TEXT NOT NULL,
  type TEXT NOT NULL,
  headers TEXT NOT NULL,
  payload BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  error TEXT NOT NULL
);
CREATE INDEX outbox_retry_key ON outbox_retry (topic, aggregateid, seq);
CREATE INDEX outbox_retry_due ON outbox_retry (due_at);

-- Messages that were given up, and what was done about them.
CREATE TABLE outbox_dead (
  seq INTEGER NOT NULL PRIMARY KEY,
  shard INTEGER NOT NULL,
  id TEXT NOT NULL,
  topic TEXT NOT NULL,
  aggregateid TEXT NOT NULL,
  type TEXT NOT NULL,
  headers TEXT NOT NULL,
  payload BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  error TEXT NOT NULL,
  died_at INTEGER NOT NULL,
  state TEXT NOT NULL,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  acted_at INTEGER NOT NULL
);
CREATE INDEX outbox_dead_state ON outbox_dead (state, seq);

-- Who may publish a shard. An expired lease may be taken with the next epoch.
CREATE TABLE outbox_lease (
  shard INTEGER NOT NULL PRIMARY KEY,
  owner TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
);
INSERT INTO outbox_lease (shard, owner, epoch, expires_at)
  WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < 63)
  SELECT n, '', 0, 0 FROM s;

-- The relays that are alive share the shards evenly.
CREATE TABLE outbox_member (
  owner TEXT NOT NULL PRIMARY KEY,
  expires_at INTEGER NOT NULL
);

CREATE TABLE outbox_meta (
  name TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
);
INSERT INTO outbox_meta (name, value) VALUES ('shards', '64');
