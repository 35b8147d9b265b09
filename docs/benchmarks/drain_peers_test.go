package benchmarks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
	otheroutbox "github.com/oagudo/outbox"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// watermillDefault is watermill-sql with Watermill's forwarder as their documentation shows them.
func watermillDefault(b *testing.B, n int) contender {
	b.Helper()
	db := openPostgres(b)
	db.connect(b, 8)
	w := &watermillOutbox{
		db: wmsql.BeginnerFromStdSQL(db.pool), schema: wmsql.DefaultPostgreSQLSchema{},
		offsets: wmsql.DefaultPostgreSQLOffsetsAdapter{}, group: "forwarder",
	}
	return contender{name: "watermill-sql-default", side: "watermill-sql", round: w.round(db, n)}
}

// watermillBest is the same with all that made it faster: pgx, the queue schema, which deletes what is acknowledged
// and runs no statement for each message, bytea, big batches, no timer for each message.
func watermillBest(b *testing.B, n, batch int) contender {
	b.Helper()
	db := openPostgres(b)
	none := time.Duration(0)
	w := &watermillOutbox{
		db: wmsql.BeginnerFromPgx(openPgx(b, db.url)), deadline: &none,
		schema: wmsql.PostgreSQLQueueSchema{
			SubscribeBatchSize: batch, GeneratePayloadType: func(string) string { return "bytea" },
		},
		offsets: wmsql.PostgreSQLQueueOffsetsAdapter{DeleteOnAck: true},
	}
	return contender{name: fmt.Sprint("watermill-sql-", batch), side: "watermill-sql", round: w.round(db, n)}
}

func openPgx(b *testing.B, url string) *pgxpool.Pool {
	b.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	must(b, err)
	b.Cleanup(pool.Close)
	return pool
}

type watermillOutbox struct {
	db       wmsql.Beginner
	schema   wmsql.SchemaAdapter
	offsets  wmsql.OffsetsAdapter
	group    string
	deadline *time.Duration
}

func (w *watermillOutbox) round(db *database, n int) func(b *testing.B) (int, time.Duration) {
	const through = "outbox"
	return func(b *testing.B) (int, time.Duration) {
		b.Helper()
		sub, err := wmsql.NewSubscriber(w.db, wmsql.SubscriberConfig{
			ConsumerGroup: w.group, SchemaAdapter: w.schema, OffsetsAdapter: w.offsets, AckDeadline: w.deadline,
			PollInterval: time.Millisecond,
		}, nil)
		must(b, err)
		must(b, sub.SubscribeInitialize(through))
		w.fill(b, through, n)
		db.exec(b, "VACUUM ANALYZE watermill_"+through)
		to := newSink(n)
		f, err := forwarder.NewForwarder(sub, to, nil, forwarder.Config{ForwarderTopic: through})
		must(b, err)
		ended := make(chan error, 1)
		then, began := db.cost(b), time.Now()
		go func() { ended <- f.Run(context.Background()) }()
		to.await(b)
		took := time.Since(began)
		db.since(b, then, n)
		must(b, f.Close())
		must(b, <-ended)
		to.check(b, n, map[int]int{})
		db.exec(b, "DROP TABLE watermill_"+through, "DROP TABLE IF EXISTS watermill_offsets_"+through)
		return n, took
	}
}

func (w *watermillOutbox) fill(b *testing.B, through string, n int) {
	b.Helper()
	to, err := wmsql.NewPublisher(w.db, wmsql.PublisherConfig{SchemaAdapter: w.schema}, nil)
	must(b, err)
	pub := forwarder.NewPublisher(to, forwarder.PublisherConfig{ForwarderTopic: through})
	const group = 1_000
	for i := 0; i < n; i += group {
		must(b, pub.Publish(topicName, messages(i, min(n, i+group))...))
	}
}

// oagudo is github.com/oagudo/outbox with big batches and a reader that hardly pauses. Its order is that of created_at.
// Its publisher gets the headers as they are in the table; "-decoded" makes the map of them that the others get too.
func oagudo(b *testing.B, n, batch int, decode bool) contender {
	b.Helper()
	db := openPostgres(b)
	db.exec(b, `CREATE TABLE outbox (id uuid PRIMARY KEY, created_at timestamptz NOT NULL,
		scheduled_at timestamptz NOT NULL, metadata bytea, payload bytea NOT NULL, times_attempted integer NOT NULL)`,
		"CREATE INDEX ON outbox (created_at)", "CREATE INDEX ON outbox (scheduled_at)")
	db.connect(b, 4)
	side := "oagudo"
	if decode {
		side = "oagudo-decoded"
	}
	return contender{name: fmt.Sprintf("%s-%d", side, batch), side: side, round: func(b *testing.B) (int, time.Duration) {
		b.Helper()
		md, err := json.Marshal(headers(0))
		must(b, err)
		db.empty(b, "outbox")
		must(b, db.Exec(`INSERT INTO outbox SELECT ('0198c0de-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid,
			now() - interval '1 day' + i * interval '1 microsecond', now() - interval '1 day', ?, ?, 0
			FROM generate_series(0, ? - 1) AS i`, md, payload, n).Error)
		db.exec(b, "VACUUM ANALYZE outbox")
		to := newSink(n)
		reader := otheroutbox.NewReader(otheroutbox.NewDBContext(db.pool, otheroutbox.SQLDialectPostgres), single{to, decode},
			otheroutbox.WithInterval(time.Millisecond), otheroutbox.WithReadBatchSize(batch),
			otheroutbox.WithDeleteBatchSize(batch))
		then, began := db.cost(b), time.Now()
		reader.Start()
		to.await(b)
		took := time.Since(began)
		db.since(b, then, n)
		must(b, reader.Stop(context.Background()))
		to.check(b, n, map[int]int{})
		db.wants(b, 0, "SELECT count(*) FROM outbox")
		return n, took
	}}
}

// single publishes one message at a time, as oagudo/outbox does.
type single struct {
	to     *sink
	decode bool
}

// Publish makes single a publisher of oagudo/outbox.
func (s single) Publish(_ context.Context, m *otheroutbox.Message) error {
	if !s.decode {
		s.to.take(m.ID.String())
		return nil
	}
	msg := message.NewMessage(m.ID.String(), m.Payload)
	if err := json.Unmarshal(m.Metadata, &msg.Metadata); err != nil {
		return err
	}
	return s.to.Publish(topicName, msg)
}

// riverDefault is River with the 100 workers of its documentation.
func riverDefault(b *testing.B, n int) contender {
	return riverWork(b, "river-default", n, river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}},
	})
}

// riverBest fetches as often as River allows and as many jobs as it has workers. Jobs have no order.
func riverBest(b *testing.B, n, workers int) contender {
	return riverWork(b, fmt.Sprint("river-", workers), n, river.Config{
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		FetchCooldown: river.FetchCooldownMin, FetchPollInterval: river.FetchPollIntervalMin,
	})
}

// A job is a message as River's argument.
type job struct {
	ID       string           `json:"id"`
	Topic    string           `json:"topic"`
	Metadata message.Metadata `json:"metadata"`
	Payload  []byte           `json:"payload"`
}

// Kind names the job for River.
func (job) Kind() string { return "publish" }

type riverWorker struct {
	river.WorkerDefaults[job]
	to *sink
}

// Work publishes.
func (w *riverWorker) Work(_ context.Context, j *river.Job[job]) error {
	m := message.NewMessage(j.Args.ID, j.Args.Payload)
	m.Metadata = j.Args.Metadata
	return w.to.Publish(j.Args.Topic, m)
}

func riverWork(b *testing.B, name string, n int, cfg river.Config) contender {
	b.Helper()
	db := openPostgres(b)
	pool := openPgx(b, db.url)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	must(b, err)
	_, err = migrator.Migrate(context.Background(), rivermigrate.DirectionUp, nil)
	must(b, err)
	cfg.Logger = slog.New(slog.DiscardHandler)
	return contender{name: name, side: "river", round: func(b *testing.B) (int, time.Duration) {
		b.Helper()
		ctx := context.Background()
		to := newSink(n)
		cfg := cfg
		cfg.Workers = river.NewWorkers()
		river.AddWorker(cfg.Workers, &riverWorker{to: to})
		client, err := river.NewClient(riverpgxv5.New(pool), &cfg)
		must(b, err)
		db.exec(b, "TRUNCATE river_job")
		const group = 5_000
		for i := 0; i < n; i += group {
			jobs := make([]river.InsertManyParams, 0, group)
			for _, m := range messages(i, min(n, i+group)) {
				jobs = append(jobs, river.InsertManyParams{Args: job{m.UUID, topicName, m.Metadata, m.Payload}})
			}
			_, err := client.InsertManyFast(ctx, jobs)
			must(b, err)
		}
		db.exec(b, "VACUUM ANALYZE river_job")
		then, began := db.cost(b), time.Now()
		must(b, client.Start(ctx))
		to.await(b)
		took := time.Since(began)
		db.since(b, then, n)
		must(b, client.Stop(ctx))
		to.check(b, n, nil)
		db.wants(b, n, "SELECT count(*) FROM river_job WHERE state = 'completed'")
		return n, took
	}}
}
