package gormstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
)

func letter(id string) *cqrs.DeadLetter {
	return &cqrs.DeadLetter{
		Record: parked("k1", id).Record, Reason: "no luck: 100%", DiedAt: time.Now().UTC().Truncate(time.Microsecond),
	}
}

func deadLetters(t *testing.T, f *fixture, cfg gormstore.DeadLettersConfig) *gormstore.DeadLetters {
	t.Helper()
	d, err := gormstore.NewDeadLetters(f.work, cfg)
	must(t, err)
	return d
}

func put(t *testing.T, f *fixture, d *gormstore.DeadLetters, letters ...*cqrs.DeadLetter) {
	t.Helper()
	f.do(t, func(ctx context.Context) error { return d.Put(ctx, letters) })
}

func replay(t *testing.T, f *fixture, d *gormstore.DeadLetters, ids ...string) (turned []*cqrs.DeadLetter) {
	t.Helper()
	f.do(t, func(ctx context.Context) (err error) { turned, err = d.Replay(ctx, grp, ids); return err })
	return turned
}

func TestRule05_AFailedReplayIsShown(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		put(t, f, d, letter("m1"))
		replay(t, f, d, "m1")
		again := letter("m1")
		again.Reason, again.Attempt = "worse luck", 7
		put(t, f, d, again)
		shown, err := d.Show(t.Context(), grp, "m1")
		if err != nil || shown.State != gormstore.StateDead || shown.Reason != "worse luck" || shown.Attempt != 7 {
			t.Fatalf("after a failed replay %+v, %v", shown, err)
		}
	})
}

func TestDeadLettersList(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		other := letter("m3")
		other.Group, other.Type, other.Reason = "elsewhere", "stock.reserve", "1000 reasons"
		put(t, f, d, letter("m1"), letter("m2"))
		put(t, f, d, other)
		replay(t, f, d, "m2")
		for want, filter := range map[string]gormstore.DeadFilter{
			"m1 m2 m3": {},
			"m1 m2":    {Group: grp},
			"m3":       {Type: "stock.reserve"},
			"m2":       {State: gormstore.StateReplaying},
			"m1 m2 ":   {Reason: "100%"}, // not a pattern
			"m2 m3":    {After: "m1"},
			"m1":       {Limit: 1},
			"":         {Before: time.Now().Add(-time.Hour)},
		} {
			letters, err := d.List(t.Context(), filter)
			var got bytes.Buffer
			for i, l := range letters {
				if i > 0 {
					got.WriteByte(' ')
				}
				got.WriteString(l.ID)
			}
			if err != nil || got.String() != string(bytes.TrimSpace([]byte(want))) {
				t.Errorf("%+v: got %q, want %q, %v", filter, got.String(), want, err)
			}
		}
	})
}

// Paging shows every letter once, also where several groups have one of the same message.
func TestListPagesThroughAllGroups(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		for _, group := range []string{"shipping", "billing", grp} {
			for _, id := range []string{"m1", "m2"} {
				l := letter(id)
				l.Group = group
				put(t, f, d, l)
			}
		}
		var got []string
		for next := (gormstore.DeadFilter{Limit: 1}); len(got) < 10; {
			page, err := d.List(t.Context(), next)
			must(t, err)
			if len(page) == 0 {
				break
			}
			next.After, next.AfterGroup = page[0].ID, page[0].Group
			got = append(got, next.After+" "+next.AfterGroup)
		}
		want := []string{"m1 billing", "m1 orders", "m1 shipping", "m2 billing", "m2 orders", "m2 shipping"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestRule35_EditIsValidatedAndAudited(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		errShort := errors.New("too short")
		d := deadLetters(t, f, gormstore.DeadLettersConfig{Validate: func(_ context.Context, l *cqrs.DeadLetter) error {
			if len(l.Payload) < 3 {
				return errShort
			}
			return nil
		}})
		put(t, f, d, letter("m1"))
		ctx := t.Context()
		if err := d.Edit(ctx, grp, "m1", []byte("fixed")); !errors.Is(err, gormstore.ErrNoActor) {
			t.Fatalf("an edit by nobody: %v", err)
		}
		ctx = gormstore.By(ctx, "ada", "typo")
		if err := d.Edit(ctx, grp, "m1", []byte("no")); !errors.Is(err, errShort) {
			t.Fatalf("an invalid edit: %v", err)
		}
		if err := d.Edit(ctx, grp, "m9", []byte("fixed")); !errors.Is(err, gormstore.ErrNotDead) {
			t.Fatalf("an edit of nothing: %v", err)
		}
		must(t, d.Edit(ctx, grp, "m1", []byte("fixed")))
		shown, err := d.Show(t.Context(), grp, "m1")
		if err != nil || string(shown.Payload) != "fixed" {
			t.Fatalf("%+v, %v", shown, err)
		}
		if got := audit(t, f); got != "dead orders m1 edit ada typo;" {
			t.Fatalf("log %q", got)
		}
	})
}

func audit(t *testing.T, f *fixture) string {
	t.Helper()
	var rows []struct{ Kind, Grp, ID, Action, Actor, Reason string }
	must(t, f.db.Raw("SELECT kind,grp,id,action,actor,reason FROM cqrs_operator_log ORDER BY seq").Scan(&rows).Error)
	var b bytes.Buffer
	for _, r := range rows {
		fmt.Fprintf(&b, "%s %s %s %s %s %s;", r.Kind, r.Grp, r.ID, r.Action, r.Actor, r.Reason)
	}
	return b.String()
}

// A dead letter that holds up its key is discarded: what waits behind it goes on.
func TestRule05_DiscardFreesTheQueue(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		dead := parked("k1", "m1")
		dead.Blocked, dead.Dead = true, true
		f.append(t, dead, parked("k1", "m2"))
		l := letter("m1")
		l.Blocking = true
		put(t, f, d, l)
		if _, err := d.Discard(t.Context(), grp, []string{"m1"}); !errors.Is(err, gormstore.ErrNoActor) {
			t.Fatalf("discarded by nobody: %v", err)
		}
		n, err := d.Discard(gormstore.By(t.Context(), "ada", "a test order"), grp, []string{"m1", "m9"})
		if err != nil || n != 1 {
			t.Fatalf("discarded %d, %v", n, err)
		}
		if got := idsOf(f.lease(t, 10, time.Hour)); got != "m2" {
			t.Fatalf("leased %q behind a discarded letter", got)
		}
		if _, err := d.Show(t.Context(), grp, "m1"); !errors.Is(err, gormstore.ErrNotDead) {
			t.Fatalf("it is still there: %v", err)
		}
		if got := audit(t, f); got != "dead orders m1 discard ada a test order;" {
			t.Fatalf("log %q", got)
		}
	})
}

func TestRule35_PurgeIsBoundedAndSparesWhatHoldsUp(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		var old []*cqrs.DeadLetter
		for i := range 5 {
			l := letter(fmt.Sprint("old", i))
			l.DiedAt = time.Now().Add(-48 * time.Hour)
			l.Blocking = i == 0
			old = append(old, l)
		}
		put(t, f, d, append(old, letter("new"))...)
		for _, want := range []int{3, 1, 0} {
			if n, err := d.Purge(t.Context(), 24*time.Hour, 3); err != nil || n != want {
				t.Fatalf("purged %d, want %d, %v", n, want, err)
			}
		}
		left, err := d.List(t.Context(), gormstore.DeadFilter{})
		if err != nil || len(left) != 2 || left[0].ID != "new" || left[1].ID != "old0" {
			t.Fatalf("left %v, %v", left, err)
		}
	})
}
