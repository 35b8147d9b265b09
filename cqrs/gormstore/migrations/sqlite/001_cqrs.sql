CREATE TABLE cqrs_parked (
	seq         INTEGER PRIMARY KEY AUTOINCREMENT,
	grp         TEXT NOT NULL,
	id          TEXT NOT NULL,
	queue       TEXT NOT NULL,
	head        BOOLEAN      NOT NULL,
	blocked     BOOLEAN      NOT NULL,
	dead        BOOLEAN      NOT NULL,
	due_at      INTEGER       NOT NULL,
	lease       TEXT  NOT NULL DEFAULT '',
	lease_until INTEGER       NOT NULL DEFAULT 0,
	topic       TEXT         NOT NULL,
	type        TEXT         NOT NULL,
	msg_key     TEXT         NOT NULL,
	payload     BLOB        NOT NULL,
	metadata    TEXT         NOT NULL,
	attempt     INTEGER      NOT NULL,
	failures    TEXT         NOT NULL,
	UNIQUE (grp, id)
);

CREATE INDEX cqrs_parked_queue ON cqrs_parked (grp, queue, seq);

CREATE INDEX cqrs_parked_due ON cqrs_parked (grp, due_at) WHERE head AND NOT blocked;

CREATE TABLE cqrs_dead (
	grp      TEXT NOT NULL,
	id       TEXT NOT NULL,
	queue    TEXT NOT NULL,
	state    TEXT  NOT NULL,
	blocking BOOLEAN      NOT NULL,
	reason   TEXT         NOT NULL,
	died_at  INTEGER       NOT NULL,
	topic    TEXT         NOT NULL,
	type     TEXT NOT NULL,
	msg_key  TEXT         NOT NULL,
	payload  BLOB        NOT NULL,
	metadata TEXT         NOT NULL,
	attempt  INTEGER      NOT NULL,
	failures TEXT         NOT NULL,
	PRIMARY KEY (grp, id)
);

CREATE INDEX cqrs_dead_age ON cqrs_dead (died_at);

CREATE TABLE cqrs_operator_log (
	seq    INTEGER PRIMARY KEY AUTOINCREMENT,
	kind   TEXT NOT NULL,
	grp    TEXT NOT NULL,
	id     TEXT NOT NULL,
	action TEXT  NOT NULL,
	actor  TEXT NOT NULL,
	reason TEXT         NOT NULL,
	at     INTEGER       NOT NULL
);

CREATE INDEX cqrs_operator_log_id ON cqrs_operator_log (kind, grp, id, seq);

CREATE INDEX cqrs_operator_log_age ON cqrs_operator_log (at);

CREATE TABLE cqrs_effects (
	id         TEXT  PRIMARY KEY,
	name       TEXT NOT NULL,
	effect_key TEXT NOT NULL,
	owner      TEXT  NOT NULL,
	parked     BOOLEAN      NOT NULL DEFAULT FALSE,
	doubt      BOOLEAN      NOT NULL,
	attempts   INTEGER      NOT NULL DEFAULT 0,
	created_at INTEGER       NOT NULL,
	due_at     INTEGER       NOT NULL,
	keep_until INTEGER       NOT NULL,
	envelope   TEXT         NOT NULL,
	command    BLOB        NOT NULL,
	intent     BLOB        NOT NULL,
	error      TEXT         NOT NULL DEFAULT ''
);

CREATE INDEX cqrs_effects_due ON cqrs_effects (due_at) WHERE NOT parked;

CREATE INDEX cqrs_effects_parked ON cqrs_effects (id) WHERE parked;

CREATE TABLE cqrs_effect_owners (
	owner      TEXT PRIMARY KEY,
	expires_at INTEGER      NOT NULL
);
