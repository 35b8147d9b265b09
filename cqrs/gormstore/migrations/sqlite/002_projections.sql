CREATE TABLE cqrs_projections (
	name        VARCHAR(100) NOT NULL PRIMARY KEY,
	live        BIGINT       NOT NULL DEFAULT 0,
	last        BIGINT       NOT NULL DEFAULT 0,
	hold_until  BIGINT       NOT NULL DEFAULT 0,
	generations TEXT         NOT NULL
);

CREATE TABLE cqrs_projection_checkpoints (
	name       VARCHAR(100) NOT NULL,
	generation BIGINT       NOT NULL,
	topic      VARCHAR(249) NOT NULL,
	part       INTEGER      NOT NULL,
	position   BIGINT       NOT NULL,
	applied    BIGINT       NOT NULL,
	event_at   BIGINT       NOT NULL,
	updated_at BIGINT       NOT NULL,
	PRIMARY KEY (name, generation, topic, part)
);
