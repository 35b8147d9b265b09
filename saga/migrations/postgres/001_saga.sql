-- Times are unix milliseconds by the database's clock. due_at, ended_at: NULL means never, not yet.
-- Columns that change with every step are in no index, so that those updates stay within their page.
CREATE TABLE saga_instances (
	id          text   NOT NULL PRIMARY KEY,
	type        text   NOT NULL,
	saga_key    text   NOT NULL,
	def_version bigint NOT NULL,
	status      text   NOT NULL,
	step        text   NOT NULL,
	reason      text   NOT NULL,
	version     bigint NOT NULL,
	state       text   NOT NULL,
	place       text   NOT NULL,
	tags        text   NOT NULL,
	due_at      bigint,
	created_at  bigint NOT NULL,
	updated_at  bigint NOT NULL,
	ended_at    bigint,
	UNIQUE (type, saga_key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX saga_instances_due ON saga_instances (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX saga_instances_ended ON saga_instances (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX saga_instances_trouble ON saga_instances (status) WHERE status IN ('parked', 'suspended');
CREATE TABLE saga_journal (
	saga_id text   NOT NULL,
	version bigint NOT NULL,
	at      bigint NOT NULL,
	entries text   NOT NULL,
	PRIMARY KEY (saga_id, version)
);
CREATE TABLE saga_definitions (
	type    text   NOT NULL,
	version bigint NOT NULL,
	hash    text   NOT NULL,
	graph   text   NOT NULL,
	PRIMARY KEY (type, version)
);
CREATE TABLE saga_participants (
	token      text   NOT NULL PRIMARY KEY,
	state      text   NOT NULL,
	outcome    text   NOT NULL,
	code       text   NOT NULL,
	reply      bytea  NOT NULL,
	created_at bigint NOT NULL
);
CREATE INDEX saga_participants_created ON saga_participants (created_at);
