-- What was published, if a relay is told to keep it. A relay creates a partition for each day (days since 1970-01-01
-- UTC by the database's clock) ahead of time, and drops it when it has been kept long enough.
CREATE TABLE outbox_archive (
  day INT NOT NULL,
  seq BIGINT NOT NULL,
  shard SMALLINT NOT NULL,
  id VARCHAR(255) NOT NULL,
  topic VARCHAR(255) NOT NULL,
  aggregateid VARCHAR(255) NOT NULL,
  type VARCHAR(255) NOT NULL,
  headers MEDIUMTEXT NOT NULL,
  payload LONGBLOB NOT NULL,
  created_at BIGINT NOT NULL,
  published_at BIGINT NOT NULL,
  PRIMARY KEY (seq, day)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
PARTITION BY RANGE (day) (PARTITION rest VALUES LESS THAN MAXVALUE);
