-- What was published, if a relay is told to keep it. A relay creates a partition for each day (days since 1970-01-01
-- UTC by the database's clock) ahead of time, and drops it when it has been kept long enough.
CREATE TABLE outbox_archive (
  day integer NOT NULL,
  seq bigint NOT NULL,
  shard smallint NOT NULL,
  id text NOT NULL,
  topic text NOT NULL,
  aggregateid text NOT NULL,
  type text NOT NULL,
  headers text NOT NULL,
  payload bytea NOT NULL,
  created_at bigint NOT NULL,
  published_at bigint NOT NULL,
  PRIMARY KEY (seq, day)
) PARTITION BY RANGE (day);

-- Days that no partition was created for.
CREATE TABLE outbox_archive_rest PARTITION OF outbox_archive DEFAULT;
