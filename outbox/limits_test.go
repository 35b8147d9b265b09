package outbox_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox"
)

// What a relay cannot count with is refused, by name and limit.
func TestBatchAndBufferHaveLimits(t *testing.T) {
	t.Parallel()
	err := outbox.RelayConfig{Batch: math.MaxInt, Buffer: 1_000_001}.Validate()
	for _, want := range []string{"RelayConfig.Batch is 9223372036854775807, at most 1000000", "RelayConfig.Buffer is 1000001"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say that %s", err, want)
		}
	}
}

// A statement of MySQL is bounded in all its texts: the server refuses one that is longer than it allows.
func TestStatementsAreBounded(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	msgs := make([]*message.Message, 9_000)
	longest := strings.Repeat("😀", 255)
	for i := range msgs {
		msgs[i] = message.NewMessage(longest, nil)
	}
	sizes, err := outbox.Statements(box, longest, msgs...)
	if err != nil || len(sizes) < 2 || slices.Max(sizes) > 4<<20 {
		t.Errorf("statements of %d bytes, %v", sizes, err)
	}
}

// Pauses double up to their bound, and stay there.
func TestPausesStayWithinTheirBound(t *testing.T) {
	t.Parallel()
	for _, cfg := range []outbox.RelayConfig{
		{}, {Backoff: 3 * time.Hour}, {Backoff: time.Hour, MaxBackoff: math.MaxInt64}, {Backoff: time.Nanosecond},
	} {
		last := time.Duration(0)
		for n, d := range outbox.Pauses(cfg, 100) {
			if d < last || d <= 0 {
				t.Fatalf("%+v: pause %d is %v, after %v", cfg, n, d, last)
			}
			last = d
		}
	}
}

// A row in a shard that there is not is no message of ours: the relay says so, and does not end its process.
func TestRule16_RowOfNoShardIsReported(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, outbox.RelayConfig{StuckAfter: 100 * time.Millisecond})
	f.exec(t, `INSERT INTO outbox (shard, id, topic, aggregateid, type, headers, payload) VALUES (64, 'i', 't', 'k', '', '{}', '')`)
	if _, err := f.box.Stats(t.Context()); !errors.Is(err, outbox.ErrShards) {
		t.Errorf("Stats: %v", err)
	}
	within(t, "the relay is not healthy", func() bool {
		err := f.relay.Healthy(t.Context())
		return err != nil && strings.Contains(err.Error(), "shard 64")
	})
}

// A relay that is started before its database waits for it.
func TestRunWaitsForItsDatabase(t *testing.T) {
	t.Parallel()
	db, err := gorm.Open(postgres.Open("postgres://nobody@127.0.0.1:1/none?sslmode=disable"), &gorm.Config{DisableAutomaticPing: true})
	if db == nil {
		t.Fatal(err)
	}
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := newRelay(t, box, &scripted{}, outbox.RelayConfig{}).Run(ctx); err != nil || ctx.Err() == nil {
		t.Errorf("it has not waited: %v", err)
	}
}
