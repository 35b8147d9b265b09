-- Times are unix milliseconds. due_at, ended_at: NULL means never, not yet.
CREATE TABLE saga_instances (
	id          TEXT    NOT NULL PRIMARY KEY,
	type        TEXT    NOT NULL,
	saga_key    TEXT    NOT NULL,
	def_version INTEGER NOT NULL,
	status      TEXT    NOT NULL,
	step        TEXT    NOT NULL,
	reason      TEXT    NOT NULL,
	version     INTEGER NOT NULL,
	state       TEXT    NOT NULL,
	place       TEXT    NOT NULL,
	tags        TEXT    NOT NULL,
	due_at      INTEGER,
	created_at  INTEGER NOT NULL,
	updated_at  INTEGER NOT NULL,
	ended_at    INTEGER,
	UNIQUE (type, saga_key)
);
CREATE INDEX saga_instances_due ON saga_instances (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX saga_instances_ended ON saga_instances (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX saga_instances_trouble ON saga_instances (status) WHERE status IN ('parked', 'suspended');
CREATE TABLE saga_journal (
	saga_id TEXT    NOT NULL,
	version INTEGER NOT NULL,
	at      INTEGER NOT NULL,
	entries TEXT    NOT NULL,
	PRIMARY KEY (saga_id, version)
);
CREATE TABLE saga_definitions (
	type    TEXT    NOT NULL,
	version INTEGER NOT NULL,
	hash    TEXT    NOT NULL,
	graph   TEXT    NOT NULL,
	PRIMARY KEY (type, version)
);
CREATE TABLE saga_participants (
	token      TEXT    NOT NULL PRIMARY KEY,
	state      TEXT    NOT NULL,
	outcome    TEXT    NOT NULL,
	code       TEXT    NOT NULL,
	reply      BLOB    NOT NULL,
	created_at INTEGER NOT NULL
);
CREATE INDEX saga_participants_created ON saga_participants (created_at);
