-- Times are microseconds since 1970-01-01 UTC by the database's clock.

-- Messages on their way. Rows are never updated; seq never repeats.
CREATE TABLE outbox (
  seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  shard SMALLINT NOT NULL,
  id VARCHAR(255) NOT NULL,
  topic VARCHAR(255) NOT NULL,
  aggregateid VARCHAR(255) NOT NULL,
  type VARCHAR(255) NOT NULL,
  headers MEDIUMTEXT NOT NULL,
  payload LONGBLOB NOT NULL,
  created_at BIGINT NOT NULL DEFAULT (TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Messages that wait for their time. They get their place in the order when they move to outbox.
CREATE TABLE outbox_scheduled (
  seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  due_at BIGINT NOT NULL,
  shard SMALLINT NOT NULL,
  id VARCHAR(255) NOT NULL,
  topic VARCHAR(255) NOT NULL,
  aggregateid VARCHAR(255) NOT NULL,
  type VARCHAR(255) NOT NULL,
  headers MEDIUMTEXT NOT NULL,
  payload LONGBLOB NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE INDEX outbox_scheduled_due ON outbox_scheduled (due_at, seq);

-- Messages that the publisher refused, and what waits behind them.
CREATE TABLE outbox_retry (
  seq BIGINT NOT NULL PRIMARY KEY,
  shard SMALLINT NOT NULL,
  id VARCHAR(255) NOT NULL,
  topic VARCHAR(255) NOT NULL,
  aggregateid VARCHAR(255) NOT NULL,
  type VARCHAR(255) NOT NULL,
  headers MEDIUMTEXT NOT NULL,
  payload LONGBLOB NOT NULL,
  created_at BIGINT NOT NULL,
  attempts INT NOT NULL,
  due_at BIGINT NOT NULL,
  error MEDIUMTEXT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE INDEX outbox_retry_key ON outbox_retry (topic, aggregateid, seq);
CREATE INDEX outbox_retry_due ON outbox_retry (due_at);

-- Messages that were given up, and what was done about them.
CREATE TABLE outbox_dead (
  seq BIGINT NOT NULL PRIMARY KEY,
  shard SMALLINT NOT NULL,
  id VARCHAR(255) NOT NULL,
  topic VARCHAR(255) NOT NULL,
  aggregateid VARCHAR(255) NOT NULL,
  type VARCHAR(255) NOT NULL,
  headers MEDIUMTEXT NOT NULL,
  payload LONGBLOB NOT NULL,
  created_at BIGINT NOT NULL,
  attempts INT NOT NULL,
  error MEDIUMTEXT NOT NULL,
  died_at BIGINT NOT NULL,
  state VARCHAR(255) NOT NULL,
  actor VARCHAR(255) NOT NULL,
  reason MEDIUMTEXT NOT NULL,
  acted_at BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE INDEX outbox_dead_state ON outbox_dead (state, seq);

-- Who may publish a shard. An expired lease may be taken with the next epoch.
CREATE TABLE outbox_lease (
  shard SMALLINT NOT NULL PRIMARY KEY,
  owner VARCHAR(255) NOT NULL,
  epoch BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
INSERT INTO outbox_lease (shard, owner, epoch, expires_at)
  WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < 63)
  SELECT n, '', 0, 0 FROM s;

-- The relays that are alive share the shards evenly.
CREATE TABLE outbox_member (
  owner VARCHAR(255) NOT NULL PRIMARY KEY,
  expires_at BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE outbox_meta (
  name VARCHAR(255) NOT NULL PRIMARY KEY,
  value VARCHAR(255) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
INSERT INTO outbox_meta (name, value) VALUES ('shards', '64');
