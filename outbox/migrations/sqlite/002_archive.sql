-- What was published, if a relay is told to keep it. Days are days since 1970-01-01 UTC by the database's clock.
CREATE TABLE outbox_archive (
  seq INTEGER PRIMARY KEY,
  day INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  id TEXT NOT NULL,
  topic TEXT NOT NULL,
  aggregateid TEXT NOT NULL,
  type TEXT NOT NULL,
  headers TEXT NOT NULL,
  payload BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  published_at INTEGER NOT NULL
);
CREATE INDEX outbox_archive_day ON outbox_archive (day);
