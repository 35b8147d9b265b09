package idempotency_test

import (
	"context"
	"testing"

	"github.com/surge-go/surge/idempotency"
)

// A claim that waited in vain for another one leaves the connection as it was: who uses it next must not have to be
// content with a lock wait of one second.
func TestRule08_LockWaitOfAClaimIsNotTheConnections(t *testing.T) {
	t.Parallel()
	b := newBench(t, "mysql", 1)
	other := replica(t, b, 1)
	pool, err := other.db.DB()
	must(t, err)
	pool.SetMaxOpenConns(1)
	wait := func() (n int) {
		must(t, other.db.Raw("SELECT @@SESSION.innodb_lock_wait_timeout").Scan(&n).Error)
		return n
	}
	must(t, other.db.Exec("SET SESSION innodb_lock_wait_timeout = 7").Error)
	before := wait()
	key := idempotency.Key{Scope: "s", Operation: "o", ID: "k"}
	do := func(b *bench, f func(context.Context) (int, error)) error {
		_, _, err := idempotency.DoTx(t.Context(), b.store, key, 1, f)
		return err
	}
	held, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- do(b, func(context.Context) (int, error) {
			close(held)
			<-release
			return 1, nil
		})
	}()
	<-held
	if err := do(other, func(context.Context) (int, error) { return 2, nil }); err == nil {
		t.Error("the key is held, and no error")
	} else {
		t.Log(err)
	}
	if got := wait(); got != before {
		t.Errorf("lock wait of the connection is %d s, was %d s", got, before)
	}
	close(release)
	must(t, <-done)
}
