package gormstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

var _ projection.Store = (*Projections)(nil)

// Projections is a [projection.Store] in the tables cqrs_projections and cqrs_projection_checkpoints. What it writes
// commits with the transaction in the context; it reads there too, or from db where there is none. It is safe for
// concurrent use.
type Projections struct{ db *gorm.DB }

// NewProjections returns the store on db, which is the unit of work's.
func NewProjections(db *gorm.DB) (*Projections, error) {
	if db == nil {
		return nil, errors.New("gormstore: NewProjections needs a database, got nil")
	}
	return &Projections{db}, nil
}

func (p *Projections) reader(ctx context.Context) *gorm.DB {
	if uow.In(ctx) {
		return uow.DB(ctx)
	}
	return p.db.WithContext(ctx)
}

type projectionRow struct {
	Live, Last, HoldUntil, Now int64
	Generations                string
}

// Read returns the model.
func (p *Projections) Read(ctx context.Context, name string) (projection.Model, error) {
	return readModel(p.reader(ctx), name, "", "")
}

// Lock returns the model, locked.
func (p *Projections) Lock(ctx context.Context, name string, exclusive bool) (projection.Model, error) {
	tx := uow.DB(ctx)
	if !exclusive {
		return lockModel(tx, name, share(tx), "pg_advisory_xact_lock_shared")
	}
	m, err := lockModel(tx, name, "FOR UPDATE", "pg_advisory_xact_lock")
	if err != nil || m.Last > 0 {
		return m, err
	}
	into := "INSERT INTO cqrs_projections (name,generations) VALUES (?,'[]') ON CONFLICT DO NOTHING"
	if tx.Name() == "mysql" {
		into = "INSERT IGNORE INTO cqrs_projections (name,generations) VALUES (?,'[]')"
	}
	if _, err := exec(tx, "begin a projection", into, name); err != nil {
		return m, err
	}
	return lockModel(tx, name, "FOR UPDATE", "pg_advisory_xact_lock")
}

// lockModel reads the model's row and locks it. PostgreSQL lets those who share a row's lock overtake for ever who
// wants it alone, so there they queue for turn, an advisory lock, before they get to the row.
func lockModel(tx *gorm.DB, name, lock, turn string) (projection.Model, error) {
	if tx.Name() != "postgres" {
		return readModel(tx, name, "", locking(tx, lock))
	}
	return readModel(tx, name, ","+turn+"(hashtextextended('cqrs_projections '||name,0))::text AS turn", " "+lock)
}

// share is what MariaDB understands too.
func share(tx *gorm.DB) string {
	if tx.Name() == "mysql" {
		return "LOCK IN SHARE MODE"
	}
	return "FOR SHARE"
}

func readModel(tx *gorm.DB, name, more, lock string) (projection.Model, error) {
	m := projection.Model{Name: name}
	rows, err := query[projectionRow](tx, "read a projection", "SELECT live,last,hold_until,generations,"+nowOn(tx)+
		" AS now"+more+" FROM cqrs_projections WHERE name=?"+lock, name)
	if err != nil {
		return m, err
	}
	if len(rows) == 0 {
		now, err := query[int64](tx, "read the clock", "SELECT "+nowOn(tx))
		if err == nil && len(now) == 1 {
			m.Now = moment(now[0])
		}
		return m, err
	}
	r := rows[0]
	m.Live, m.Last, m.Hold, m.Now = r.Live, r.Last, moment(r.HoldUntil), moment(r.Now)
	if err := json.Unmarshal([]byte(r.Generations), &m.Generations); err != nil {
		return m, fmt.Errorf("gormstore: generations of projection %q: %w", name, err)
	}
	return m, nil
}

// moment turns a column into a time; 0 is the zero time.
func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Save writes a model that is locked exclusively.
func (p *Projections) Save(ctx context.Context, m projection.Model) error {
	if m.Generations == nil {
		m.Generations = []projection.Generation{}
	}
	generations, err := json.Marshal(m.Generations)
	if err != nil {
		return fmt.Errorf("gormstore: generations of projection %q: %w", m.Name, err)
	}
	_, err = exec(uow.DB(ctx), "save a projection",
		"UPDATE cqrs_projections SET live=?,last=?,hold_until=?,generations=? WHERE name=?",
		m.Live, m.Last, micros(m.Hold), string(generations), m.Name)
	return err
}

type checkpointRow struct {
	Topic                                 string
	Part                                  int32
	Position, Applied, EventAt, UpdatedAt int64
}

// List returns a generation's checkpoints.
func (p *Projections) List(ctx context.Context, name string, generation int64) ([]projection.Checkpoint, error) {
	rows, err := query[checkpointRow](p.reader(ctx), "read checkpoints",
		"SELECT topic,part,position,applied,event_at,updated_at FROM cqrs_projection_checkpoints"+
			" WHERE name=? AND generation=?", name, generation)
	all := make([]projection.Checkpoint, len(rows))
	for i, r := range rows {
		all[i] = projection.Checkpoint{
			Topic: r.Topic, Partition: r.Part, Position: r.Position, Applied: r.Applied,
			EventAt: moment(r.EventAt), UpdatedAt: moment(r.UpdatedAt),
		}
	}
	return all, err
}

// Advance moves a checkpoint from its previous position.
func (p *Projections) Advance(
	ctx context.Context, name string, generation, from int64, to projection.Checkpoint,
) error {
	tx := uow.DB(ctx)
	n, err := exec(tx, "advance a checkpoint", "UPDATE cqrs_projection_checkpoints"+
		" SET position=?,applied=?,event_at=?,updated_at="+nowOn(tx)+
		" WHERE name=? AND generation=? AND topic=? AND part=? AND position=?",
		to.Position, to.Applied, micros(to.EventAt), name, generation, to.Topic, to.Partition, from)
	if err != nil || n > 0 {
		return err
	}
	if from != projection.None {
		return projection.ErrMoved
	}
	into, ignore := "INSERT INTO", " ON CONFLICT DO NOTHING"
	if tx.Name() == "mysql" {
		into, ignore = "INSERT IGNORE INTO", ""
	}
	n, err = exec(tx, "begin a checkpoint", into+" cqrs_projection_checkpoints"+
		" (name,generation,topic,part,position,applied,event_at,updated_at) VALUES (?,?,?,?,?,?,?,"+nowOn(tx)+")"+ignore,
		name, generation, to.Topic, to.Partition, to.Position, to.Applied, micros(to.EventAt))
	if err == nil && n == 0 {
		err = projection.ErrMoved
	}
	return err
}

// Forget removes a generation's checkpoints.
func (p *Projections) Forget(ctx context.Context, name string, generation int64) error {
	_, err := exec(uow.DB(ctx), "forget checkpoints",
		"DELETE FROM cqrs_projection_checkpoints WHERE name=? AND generation=?", name, generation)
	return err
}
