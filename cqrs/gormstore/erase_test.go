package gormstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
)

// A person's data can be erased from where messages rest; what waited behind it goes on.
func TestRule35_APersonsMessagesAreErased(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		letters, err := gormstore.NewDeadLetters(f.work, gormstore.DeadLettersConfig{})
		must(t, err)
		parking := gormstore.NewParking()
		rec := func(group, id, queue, key string) cqrs.Record {
			return cqrs.Record{Group: group, ID: id, Queue: queue, Topic: "t", Type: "x", Key: key, Payload: []byte("secret")}
		}
		f.do(t, func(ctx context.Context) error {
			dead := &cqrs.DeadLetter{Record: rec("g", "1", "q", "ann"), Blocking: true, DiedAt: time.Now()}
			other := &cqrs.DeadLetter{Record: rec("g", "5", "5", "bob"), DiedAt: time.Now()}
			if err := letters.Put(ctx, []*cqrs.DeadLetter{dead, other}); err != nil {
				return err
			}
			return parking.Append(ctx, []*cqrs.Parked{
				{Record: dead.Record, Blocked: true, Dead: true},
				{Record: rec("g", "2", "q", "ann")},
				{Record: rec("g", "3", "q", "bob")}, // waits behind them
				{Record: rec("h", "1", "q", "ann")},
			})
		})
		if _, err := letters.Erase(t.Context(), gormstore.Erasure{Key: "ann"}); !errors.Is(err, gormstore.ErrNoActor) {
			t.Errorf("without an actor: %v", err)
		}
		as := gormstore.By(t.Context(), "dpo", "request 7")
		if _, err := letters.Erase(as, gormstore.Erasure{Group: "g"}); err == nil {
			t.Error("an erasure of everything is accepted")
		}
		if n, err := letters.Erase(as, gormstore.Erasure{Group: "g", Key: "ann"}); n != 2 || err != nil {
			t.Errorf("Erase = %d, %v, want the letter and what was behind it", n, err)
		}
		f.do(t, func(ctx context.Context) error {
			leased, err := parking.Lease(ctx, "g", 10, time.Minute)
			if len(leased) != 1 || leased[0].ID != "3" {
				t.Errorf("leased %v, want what waited", leased)
			}
			return err
		})
		if n, err := letters.Erase(as, gormstore.Erasure{IDs: []string{"1"}}); n != 1 || err != nil {
			t.Errorf("Erase of the other group's = %d, %v", n, err)
		}
		f.do(t, func(ctx context.Context) error {
			var left, logged int64
			uow.DB(ctx).Raw("SELECT (SELECT count(*) FROM cqrs_parked WHERE msg_key='ann') +" +
				" (SELECT count(*) FROM cqrs_dead WHERE msg_key='ann')").Scan(&left)
			uow.DB(ctx).Raw("SELECT count(*) FROM cqrs_operator_log WHERE action='erase' AND actor='dpo'").Scan(&logged)
			if left != 0 || logged != 3 {
				t.Errorf("%d messages of the person are left, %d erasures are logged", left, logged)
			}
			if bob, err := letters.Show(ctx, "g", "5"); err != nil || string(bob.Payload) != "secret" {
				t.Errorf("another person's letter: %v, %v", bob, err)
			}
			return nil
		})
		if n, err := letters.Erase(as, gormstore.Erasure{Key: "nobody"}); n != 0 || err != nil {
			t.Errorf("Erase of nobody = %d, %v", n, err)
		}
		if _, err := letters.Erase(as, gormstore.Erasure{IDs: make([]string, 1001)}); err == nil {
			t.Error(fmt.Sprint(1001, " ids are accepted"))
		}
	})
}

// A letter whose replay begins meanwhile has moved to the parked messages: it is erased there.
func TestRule35_WhatIsReplayedMeanwhileIsErased(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		if f.db.Name() == "sqlite" {
			t.Skip("one writer at a time")
		}
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		put(t, f, d, letter("m1"))
		turned, commit := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- f.work.Do(t.Context(), func(ctx context.Context) error {
				letters, err := d.Replay(ctx, grp, []string{"m1"})
				for _, l := range letters {
					p := []*cqrs.Parked{{Record: l.Record, Dead: true}}
					err = errors.Join(err, gormstore.NewParking().Append(ctx, p))
				}
				close(turned)
				<-commit
				return err
			})
		}()
		<-turned
		time.AfterFunc(300*time.Millisecond, func() { close(commit) })
		n, err := d.Erase(gormstore.By(t.Context(), "dpo", "request 7"), gormstore.Erasure{IDs: []string{"m1"}})
		must(t, err)
		must(t, <-done)
		f.do(t, func(ctx context.Context) error {
			leased, err := gormstore.NewParking().Lease(ctx, grp, 10, time.Minute)
			if n != 1 || len(leased) > 0 {
				t.Errorf("%d erased, and %d messages left", n, len(leased))
			}
			return err
		})
	})
}
