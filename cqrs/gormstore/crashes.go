package gormstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
)

const (
	deathKnown = time.Minute    // after which every run has seen that another one has died
	deathsKept = 24 * time.Hour // how long that is remembered, unless another run leaves before
)

var _ cqrs.Crashes = Crashes{}

// Crashes is a [cqrs.Crashes] in the tables cqrs_runs, with a row for each process of a group that lives, and
// cqrs_begun, which is empty unless one has died. It uses the transaction in the context of each call, and returns
// [uow.ErrNoTransaction] where there is none. The zero value is ready and safe for concurrent use.
type Crashes struct{}

// Beat notes that run lives for ttl more, and returns the group's other runs.
func (Crashes) Beat(ctx context.Context, group, run string, ttl time.Duration) ([]cqrs.Peer, error) {
	tx := uow.DB(ctx)
	onDup := " ON CONFLICT (grp,run) DO UPDATE SET beats=cqrs_runs.beats+1, expires_at=excluded.expires_at"
	if tx.Name() == "mysql" {
		onDup = " ON DUPLICATE KEY UPDATE beats=beats+1, expires_at=VALUES(expires_at)"
	}
	_, err := exec(tx, "note a sign of life", "INSERT INTO cqrs_runs (grp,run,beats,expires_at) VALUES (?,?,1,"+
		nowOn(tx)+"+?)"+onDup, group, run, ttl.Microseconds())
	if err != nil {
		return nil, err
	}
	return query[cqrs.Peer](tx, "look for other processes", "SELECT run, beats, expires_at<"+nowOn(tx)+
		" AS expired FROM cqrs_runs WHERE grp=? AND run<>? ORDER BY run", group, run)
}

// Leave forgets run, and the group's runs that have expired more than a minute ago: by then the others know of it.
func (Crashes) Leave(ctx context.Context, group, run string) error {
	tx := uow.DB(ctx)
	_, err := exec(tx, "leave", "DELETE FROM cqrs_runs WHERE grp=? AND (run=? OR expires_at<"+nowOn(tx)+"-?)",
		group, run, deathKnown.Microseconds())
	return err
}

// Begun returns how often messages have begun to run without an end.
func (Crashes) Begun(ctx context.Context, group string, ids []string) ([]int, error) {
	type row struct {
		ID string
		N  int
	}
	tx := uow.DB(ctx)
	begun := make([]int, len(ids))
	err := chunks(ids, func(chunk []string) error {
		rows, err := query[row](tx, "look for what was running", "SELECT id, n FROM cqrs_begun WHERE grp=? AND id IN ?",
			group, chunk)
		for _, r := range rows {
			if i, ok := slices.BinarySearch(ids, r.ID); ok {
				begun[i] = r.N
			}
		}
		return err
	})
	return begun, err
}

// Begin notes that messages begin to run.
func (Crashes) Begin(ctx context.Context, group string, ids []string) error {
	tx := uow.DB(ctx)
	now := nowOn(tx)
	onDup := " ON CONFLICT (grp,id) DO UPDATE SET n=cqrs_begun.n+1, at=excluded.at"
	if tx.Name() == "mysql" {
		onDup = " ON DUPLICATE KEY UPDATE n=n+1, at=VALUES(at)"
	}
	return chunks(ids, func(ids []string) error {
		args := make([]any, 0, 2*len(ids))
		for _, id := range ids {
			args = append(args, group, id)
		}
		rows := strings.TrimSuffix(strings.Repeat("(?,?,1,"+now+"),", len(ids)), ",")
		_, err := exec(tx, "note what begins", "INSERT INTO cqrs_begun (grp,id,n,at) VALUES "+rows+onDup, args...)
		return err
	})
}

// End forgets that messages have begun.
func (Crashes) End(ctx context.Context, group string, ids []string) error {
	tx := uow.DB(ctx)
	return chunks(ids, func(ids []string) error {
		_, err := exec(tx, "note what ends", "DELETE FROM cqrs_begun WHERE grp=? AND id IN ?", group, ids)
		return err
	})
}

// Purge forgets at most limit messages that have begun more than age ago and were never delivered again, and returns
// how many. age must be longer than a bus may wait before it delivers a message again. It also forgets runs that have
// died more than a day ago, of groups whose runs never end in an orderly way. It needs the unit of work, and a limit of
// at least 1.
func (Crashes) Purge(ctx context.Context, age time.Duration, limit int) (int, error) {
	if err := purgeable(limit); err != nil {
		return 0, err
	}
	tx := uow.DB(ctx)
	_, err := exec(tx, "purge runs", "DELETE FROM cqrs_runs WHERE expires_at<"+nowOn(tx)+"-?", deathsKept.Microseconds())
	if err != nil {
		return 0, err
	}
	// PostgreSQL checks what has changed meanwhile against the outer condition alone.
	old, micros := "at<"+nowOn(tx)+"-?", age.Microseconds()
	n, err := exec(tx, "purge what has begun", "DELETE FROM cqrs_begun WHERE "+old+" AND (grp,id) IN (SELECT grp,id"+
		" FROM (SELECT grp,id FROM cqrs_begun WHERE "+old+" ORDER BY at LIMIT ?) old)", micros, micros, limit)
	return int(n), err
}
