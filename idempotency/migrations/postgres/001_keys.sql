-- Times are milliseconds since 1970 by the database's clock.
-- state: 0 claimed, 1 done, 2 claimed and begun to act, 3 outcome unknown, 4 done but the answer is not kept.
CREATE TABLE idempotency_keys (
    id          VARCHAR(2400) COLLATE "C" PRIMARY KEY,
    fingerprint BYTEA    NOT NULL,
    state       SMALLINT NOT NULL,
    token       BIGINT   NOT NULL,
    lease_until BIGINT   NOT NULL,
    expires_at  BIGINT   NOT NULL,
    status      INTEGER  NOT NULL DEFAULT 0,
    header      BYTEA,
    body        BYTEA,
    points      BYTEA
) WITH (fillfactor = 70);
CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);

CREATE TABLE idempotency_inbox (
    consumer   VARCHAR(255) COLLATE "C" NOT NULL,
    message    VARCHAR(255) COLLATE "C" NOT NULL,
    token      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (consumer, message)
);
CREATE INDEX idempotency_inbox_expires_at ON idempotency_inbox (expires_at);
