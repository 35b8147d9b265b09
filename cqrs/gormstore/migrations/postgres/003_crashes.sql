CREATE TABLE cqrs_runs (
	grp        VARCHAR(120) NOT NULL,
	run        VARCHAR(40)  NOT NULL,
	beats      BIGINT       NOT NULL,
	expires_at BIGINT       NOT NULL,
	PRIMARY KEY (grp, run)
);

CREATE TABLE cqrs_begun (
	grp VARCHAR(120) NOT NULL,
	id  VARCHAR(200) NOT NULL,
	n   INTEGER      NOT NULL,
	at  BIGINT       NOT NULL,
	PRIMARY KEY (grp, id)
);

CREATE INDEX cqrs_begun_age ON cqrs_begun (at);
