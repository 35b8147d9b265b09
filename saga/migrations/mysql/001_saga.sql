-- Times are unix milliseconds by the database's clock. due_at, ended_at: NULL means never, not yet.
CREATE TABLE saga_instances (
	id          VARCHAR(64)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
	type        VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
	saga_key    VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
	def_version BIGINT       NOT NULL,
	status      VARCHAR(16)  NOT NULL,
	step        VARCHAR(128) NOT NULL,
	reason      TEXT         CHARACTER SET utf8mb4 NOT NULL,
	version     BIGINT       NOT NULL,
	state       LONGTEXT     CHARACTER SET utf8mb4 NOT NULL,
	place       LONGTEXT     CHARACTER SET utf8mb4 NOT NULL,
	tags        TEXT         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
	due_at      BIGINT,
	created_at  BIGINT       NOT NULL,
	updated_at  BIGINT       NOT NULL,
	ended_at    BIGINT,
	UNIQUE KEY saga_instances_key (type, saga_key),
	KEY saga_instances_due (due_at),
	KEY saga_instances_ended (ended_at),
	KEY saga_instances_status (status)
) ENGINE = InnoDB;
CREATE TABLE saga_journal (
	saga_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
	version BIGINT      NOT NULL,
	at      BIGINT      NOT NULL,
	entries LONGTEXT    CHARACTER SET utf8mb4 NOT NULL,
	PRIMARY KEY (saga_id, version)
) ENGINE = InnoDB;
CREATE TABLE saga_definitions (
	type    VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
	version BIGINT       NOT NULL,
	hash    VARCHAR(64)  NOT NULL,
	graph   LONGTEXT     CHARACTER SET utf8mb4 NOT NULL,
	PRIMARY KEY (type, version)
) ENGINE = InnoDB;
CREATE TABLE saga_participants (
	token      VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
	state      VARCHAR(16)  NOT NULL,
	outcome    VARCHAR(16)  NOT NULL,
	code       VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
	reply      LONGBLOB     NOT NULL,
	created_at BIGINT       NOT NULL,
	KEY saga_participants_created (created_at)
) ENGINE = InnoDB;
