-- Times are milliseconds since 1970 by the database's clock.
-- state: 0 claimed, 1 done, 2 claimed and begun to act, 3 outcome unknown, 4 done but the answer is not kept.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    id          VARCHAR(2400) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    fingerprint BINARY(32) NOT NULL,
    state       SMALLINT   NOT NULL,
    token       BIGINT     NOT NULL,
    lease_until BIGINT     NOT NULL,
    expires_at  BIGINT     NOT NULL,
    status      INTEGER    NOT NULL DEFAULT 0,
    header      MEDIUMBLOB,
    body        LONGBLOB,
    points      MEDIUMBLOB,
    KEY idempotency_keys_expires_at (expires_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS idempotency_inbox (
    consumer   VARBINARY(255) NOT NULL,
    message    VARBINARY(255) NOT NULL,
    token      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (consumer, message),
    KEY idempotency_inbox_expires_at (expires_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
