CREATE TABLE cqrs_runs (
	grp        TEXT    NOT NULL,
	run        TEXT    NOT NULL,
	beats      INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	PRIMARY KEY (grp, run)
);

CREATE TABLE cqrs_begun (
	grp TEXT    NOT NULL,
	id  TEXT    NOT NULL,
	n   INTEGER NOT NULL,
	at  INTEGER NOT NULL,
	PRIMARY KEY (grp, id)
);

CREATE INDEX cqrs_begun_age ON cqrs_begun (at);
