CREATE TABLE cqrs_parked (
	seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	grp         VARCHAR(120) NOT NULL,
	id          VARCHAR(200) NOT NULL,
	queue       VARCHAR(200) NOT NULL,
	head        BOOLEAN      NOT NULL,
	blocked     BOOLEAN      NOT NULL,
	dead        BOOLEAN      NOT NULL,
	due_at      BIGINT       NOT NULL,
	lease       VARCHAR(40)  NOT NULL DEFAULT '',
	lease_until BIGINT       NOT NULL DEFAULT 0,
	topic       TEXT         NOT NULL,
	type        TEXT         NOT NULL,
	msg_key     TEXT         NOT NULL,
	payload     BYTEA        NOT NULL,
	metadata    TEXT         NOT NULL,
	attempt     INTEGER      NOT NULL,
	failures    TEXT         NOT NULL,
	UNIQUE (grp, id)
);

CREATE INDEX cqrs_parked_queue ON cqrs_parked (grp, queue, seq);

CREATE INDEX cqrs_parked_due ON cqrs_parked (grp, due_at) WHERE head AND NOT blocked;

CREATE TABLE cqrs_dead (
	grp      VARCHAR(120) NOT NULL,
	id       VARCHAR(200) NOT NULL,
	queue    VARCHAR(200) NOT NULL,
	state    VARCHAR(12)  NOT NULL,
	blocking BOOLEAN      NOT NULL,
	reason   TEXT         NOT NULL,
	died_at  BIGINT       NOT NULL,
	topic    TEXT         NOT NULL,
	type     VARCHAR(200) NOT NULL,
	msg_key  TEXT         NOT NULL,
	payload  BYTEA        NOT NULL,
	metadata TEXT         NOT NULL,
	attempt  INTEGER      NOT NULL,
	failures TEXT         NOT NULL,
	PRIMARY KEY (grp, id)
);

CREATE INDEX cqrs_dead_age ON cqrs_dead (died_at);

CREATE TABLE cqrs_operator_log (
	seq    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	kind   VARCHAR(10)  NOT NULL,
	grp    VARCHAR(200) NOT NULL,
	id     VARCHAR(200) NOT NULL,
	action VARCHAR(20)  NOT NULL,
	actor  VARCHAR(200) NOT NULL,
	reason TEXT         NOT NULL,
	at     BIGINT       NOT NULL
);

CREATE INDEX cqrs_operator_log_id ON cqrs_operator_log (kind, grp, id, seq);

CREATE INDEX cqrs_operator_log_age ON cqrs_operator_log (at);

CREATE TABLE cqrs_effects (
	id         VARCHAR(40)  PRIMARY KEY,
	name       VARCHAR(200) NOT NULL,
	effect_key VARCHAR(255) NOT NULL,
	owner      VARCHAR(100) NOT NULL,
	parked     BOOLEAN      NOT NULL DEFAULT FALSE,
	doubt      BOOLEAN      NOT NULL,
	attempts   INTEGER      NOT NULL DEFAULT 0,
	created_at BIGINT       NOT NULL,
	due_at     BIGINT       NOT NULL,
	keep_until BIGINT       NOT NULL,
	envelope   TEXT         NOT NULL,
	command    BYTEA        NOT NULL,
	intent     BYTEA        NOT NULL,
	error      TEXT         NOT NULL DEFAULT ''
);

CREATE INDEX cqrs_effects_due ON cqrs_effects (due_at) WHERE NOT parked;

CREATE INDEX cqrs_effects_parked ON cqrs_effects (id) WHERE parked;

CREATE TABLE cqrs_effect_owners (
	owner      VARCHAR(100)PRIMARY KEY,
	expires_at BIGINT      NOT NULL
);
