-- Times are milliseconds since 1970 by the database's clock.
-- state: 0 claimed, 1 done, 2 claimed and begun to act, 3 outcome unknown, 4 done but the answer is not kept.
CREATE TABLE idempotency_keys (
    id          TEXT    NOT NULL PRIMARY KEY,
    fingerprint BLOB    NOT NULL,
    state       INTEGER NOT NULL,
    token       INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    status      INTEGER NOT NULL DEFAULT 0,
    header      BLOB,
    body        BLOB,
    points      BLOB
);
CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);

CREATE TABLE idempotency_inbox (
    consumer   TEXT    NOT NULL,
    message    TEXT    NOT NULL,
    token      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (consumer, message)
);
CREATE INDEX idempotency_inbox_expires_at ON idempotency_inbox (expires_at);
