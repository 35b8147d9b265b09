package pglisten_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/pglisten"
)

func TestCommitOfAnotherProcessWakes(t *testing.T) {
	t.Parallel()
	url := schema(t)
	l, _ := listener(t, url)
	to := newProcess(t, url, outbox.Config{}).relay(t, l.Listen)
	within(t, "it is woken as it connects", func() bool { return to.count() == 1 })
	writer := newProcess(t, url, outbox.Config{})
	must(t, writer.publish("1"))
	within(t, "the notification wakes it", func() bool { return to.count() == 2 })
	within(t, "the message leaves", func() bool { return to.has("1") })
}

// What another schema's outbox does is none of the relay's business.
func TestOtherSchemaDoesNotWake(t *testing.T) {
	t.Parallel()
	url := schema(t)
	l, _ := listener(t, url)
	to := newProcess(t, url, outbox.Config{}).relay(t, l.Listen)
	within(t, "it is woken as it connects", func() bool { return to.count() == 1 })
	other := newProcess(t, schema(t), outbox.Config{})
	must(t, other.publish("foreign"))
	must(t, other.box.Close()) // its notification is sent
	// Notifications arrive in the order of their commits, so this one's arrival shows that the other's had none.
	must(t, newProcess(t, url, outbox.Config{}).publish("ours"))
	within(t, "ours leaves", func() bool { return to.has("ours") && to.count() > 1 })
	if n := to.count(); n != 2 {
		t.Errorf("woken %d times", n)
	}
}

func TestBrokenConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	url := schema(t)
	l, name := listener(t, url)
	reconnect := make(chan struct{}, 1)
	reconnect <- struct{}{}
	to := newProcess(t, url, outbox.Config{}).relay(t, func(ctx context.Context, wake func()) error {
		select {
		case <-reconnect:
			return l.Listen(ctx, wake)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	writer := newProcess(t, url, outbox.Config{})
	within(t, "it listens", func() bool { return to.count() == 1 })
	pids := backends(t, writer.db, name)
	if len(pids) != 1 {
		t.Fatalf("connections of the listener: %v", pids)
	}
	must(t, writer.db.Exec("SELECT pg_terminate_backend(?)", pids[0]).Error)
	within(t, "the connection is gone", func() bool { return len(backends(t, writer.db, name)) == 0 })
	must(t, writer.publish("meanwhile"))
	within(t, "nobody hears the notification", func() bool { _, ended := writer.sql.notifications(); return ended == 1 })
	reconnect <- struct{}{}
	within(t, "it is woken as it connects again", func() bool { return to.count() == 2 })
	within(t, "what it missed leaves", func() bool { return to.has("meanwhile") })
	must(t, writer.publish("after"))
	within(t, "a notification wakes it again", func() bool { return to.count() == 3 })
}

// Notifications are statements of their own, after commits, and their number is bounded by time.
func TestNotificationsAreCoalesced(t *testing.T) {
	t.Parallel()
	const commits, writers, window = 1000, 8, 10 * time.Millisecond
	url := schema(t)
	p := newProcess(t, url, outbox.Config{})
	began := time.Now()
	var next atomic.Int32
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for n := next.Add(1); n <= commits; n = next.Add(1) {
				if err := p.publish(fmt.Sprint(n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	must(t, p.box.Close())
	most := int(time.Since(began)/window) + 2
	state, ended := p.sql.notifications()
	if len(state) == 0 || len(state) > most || ended != len(state) {
		t.Errorf("%d commits made %d notifications, %d ended, at most %d", commits, len(state), ended, most)
	}
	if strings.Trim(state, "I") != "" {
		t.Errorf("sent inside a transaction: states %q", state)
	}
	t.Logf("%d commits, %d notifications", commits, len(state))
}

func TestNothingIsSentForNobody(t *testing.T) {
	t.Parallel()
	url := schema(t)
	shy := newProcess(t, url, outbox.Config{PollOnly: true})
	must(t, shy.publish("1"))
	undone := newProcess(t, url, outbox.Config{})
	soldOut := errors.New("sold out")
	err := undone.unit.Do(t.Context(), func(ctx context.Context) error {
		m := message.NewMessage("undone", nil)
		m.SetContext(ctx)
		return errors.Join(undone.box.Publish("topic", m), soldOut)
	})
	if !errors.Is(err, soldOut) {
		t.Fatal(err)
	}
	own := newProcess(t, url, outbox.Config{})
	l, _ := listener(t, url)
	to := own.relay(t, l.Listen)
	within(t, "the relay of the process has all shards", func() bool { return to.has("1") })
	must(t, own.publish("2"))
	within(t, "it publishes", func() bool { return to.has("2") })
	for name, p := range map[string]*process{"PollOnly": shy, "undone": undone, "served by its own relay": own} {
		must(t, p.box.Close())
		if state, _ := p.sql.notifications(); state != "" {
			t.Errorf("%s: sent in state %q", name, state)
		}
	}
}

// A scheduled message that one relay moves may be another's to publish.
func TestMoveOfScheduledMessagesWakes(t *testing.T) {
	t.Parallel()
	url := schema(t)
	l, _ := listener(t, url)
	p := newProcess(t, url, outbox.Config{})
	to := p.relay(t, l.Listen)
	must(t, p.publish("1"))
	within(t, "it has its shards", func() bool { return to.has("1") })
	must(t, p.db.Exec("UPDATE outbox_lease SET owner = 'other#1', epoch = epoch + 1, expires_at = 9000000000000000").Error)
	within(t, "it has lost them", func() bool { return to.relay.Progress().Shards == 0 })
	must(t, newProcess(t, url, outbox.Config{}).publishIn("2", 100*time.Millisecond))
	within(t, "it moves the message, and tells the others", func() bool {
		_, ended := p.sql.notifications()
		return ended > 0
	})
}

func TestSilentConnectionIsChecked(t *testing.T) {
	t.Parallel()
	url := schema(t)
	const name = "checked listener"
	l, err := pglisten.New(url+"&application_name=checked%20listener", pglisten.Config{Check: 5 * time.Millisecond})
	must(t, err)
	p := newProcess(t, url, outbox.Config{})
	to := p.relay(t, l.Listen)
	within(t, "it is asked for a sign of life", func() bool {
		var n int
		must(t, p.db.Raw("SELECT count(*) FROM pg_stat_activity WHERE application_name = ? AND query ILIKE '%ping%'",
			name).Row().Scan(&n))
		return n == 1
	})
	must(t, newProcess(t, url, outbox.Config{}).publish("1"))
	within(t, "it hears as before", func() bool { return to.count() == 2 && to.has("1") })
}

func TestListenFails(t *testing.T) {
	t.Parallel()
	if _, err := pglisten.New("postgres://host:port", pglisten.Config{}); err == nil {
		t.Error("a bad URL was taken")
	}
	_, err := pglisten.New("", pglisten.Config{Check: -1, Timeout: -1})
	if err == nil || !strings.Contains(err.Error(), "Config.Check") || !strings.Contains(err.Error(), "Config.Timeout") {
		t.Errorf("bad configuration: %v", err)
	}
	l, err := pglisten.New("postgres://nobody@127.0.0.1:1/none?sslmode=disable", pglisten.Config{})
	must(t, err)
	if err := l.Listen(t.Context(), func() { t.Error("woken") }); err == nil {
		t.Error("nobody is there to connect to")
	}
}

func ExampleNew() {
	listener, err := pglisten.New("postgres://orders@db/orders", pglisten.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg := outbox.RelayConfig{Listen: listener.Listen}
	fmt.Println(cfg.Validate())
	// Output: <nil>
}

// A Listener that has nobody to wake says so.
func TestListenNeedsWake(t *testing.T) {
	t.Parallel()
	listener, err := pglisten.New("postgres://nobody@127.0.0.1:1/none", pglisten.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Listen(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "wake") {
		t.Errorf("Listen without wake: %v", err)
	}
}
