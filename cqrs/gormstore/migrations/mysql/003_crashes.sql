CREATE TABLE cqrs_runs (
	grp        VARCHAR(120) NOT NULL,
	run        VARCHAR(40)  NOT NULL,
	beats      BIGINT       NOT NULL,
	expires_at BIGINT       NOT NULL,
	PRIMARY KEY (grp, run)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE cqrs_begun (
	grp VARCHAR(120)   NOT NULL,
	id  VARBINARY(200) NOT NULL,
	n   INTEGER        NOT NULL,
	at  BIGINT         NOT NULL,
	PRIMARY KEY (grp, id),
	KEY cqrs_begun_age (at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
