-- Names are bytes: most collations take "a" and "a " for the same.
CREATE TABLE cqrs_parked (
	seq         BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
	grp         VARCHAR(120) NOT NULL,
	id          VARBINARY(200) NOT NULL,
	queue       VARBINARY(200) NOT NULL,
	head        BOOLEAN      NOT NULL,
	blocked     BOOLEAN      NOT NULL,
	dead        BOOLEAN      NOT NULL,
	due_at      BIGINT       NOT NULL,
	lease       VARCHAR(40)  NOT NULL DEFAULT '',
	lease_until BIGINT       NOT NULL DEFAULT 0,
	topic       TEXT         NOT NULL,
	type        TEXT         NOT NULL,
	msg_key     TEXT         NOT NULL,
	payload     LONGBLOB     NOT NULL,
	metadata    LONGTEXT     NOT NULL,
	attempt     INTEGER      NOT NULL,
	failures    LONGTEXT     NOT NULL,
	UNIQUE KEY cqrs_parked_id (grp, id),
	KEY cqrs_parked_queue (grp, queue, seq),
	KEY cqrs_parked_due (grp, head, blocked, due_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE cqrs_dead (
	grp      VARCHAR(120) NOT NULL,
	id       VARBINARY(200) NOT NULL,
	queue    VARBINARY(200) NOT NULL,
	state    VARCHAR(12)  NOT NULL,
	blocking BOOLEAN      NOT NULL,
	reason   LONGTEXT     NOT NULL,
	died_at  BIGINT       NOT NULL,
	topic    TEXT         NOT NULL,
	type     VARCHAR(200) NOT NULL,
	msg_key  TEXT         NOT NULL,
	payload  LONGBLOB     NOT NULL,
	metadata LONGTEXT     NOT NULL,
	attempt  INTEGER      NOT NULL,
	failures LONGTEXT     NOT NULL,
	PRIMARY KEY (grp, id),
	KEY cqrs_dead_age (died_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE cqrs_operator_log (
	seq    BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
	kind   VARCHAR(10)  NOT NULL,
	grp    VARCHAR(200) NOT NULL,
	id     VARCHAR(200) NOT NULL,
	action VARCHAR(20)  NOT NULL,
	actor  VARCHAR(200) NOT NULL,
	reason TEXT         NOT NULL,
	at     BIGINT       NOT NULL,
	KEY cqrs_operator_log_id (kind, grp, id, seq),
	KEY cqrs_operator_log_age (at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE cqrs_effects (
	id         VARCHAR(40)  NOT NULL PRIMARY KEY,
	name       VARCHAR(200) NOT NULL,
	effect_key VARCHAR(255) NOT NULL,
	owner      VARCHAR(100) NOT NULL,
	parked     BOOLEAN      NOT NULL DEFAULT FALSE,
	doubt      BOOLEAN      NOT NULL,
	attempts   INTEGER      NOT NULL DEFAULT 0,
	created_at BIGINT       NOT NULL,
	due_at     BIGINT       NOT NULL,
	keep_until BIGINT       NOT NULL,
	envelope   LONGTEXT     NOT NULL,
	command    LONGBLOB     NOT NULL,
	intent     LONGBLOB     NOT NULL,
	error      VARCHAR(2000) NOT NULL DEFAULT '',
	KEY cqrs_effects_due (parked, due_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE cqrs_effect_owners (
	owner      VARCHAR(100)NOT NULL PRIMARY KEY,
	expires_at BIGINT      NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
