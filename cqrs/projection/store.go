package projection

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Store keeps what projections must not forget. *gormstore.Projections is one.
type Store interface {
	Models
	Checkpoints
}

// Models keeps one row per projection. Who feeds a generation locks it shared, who changes what is fed exclusively.
type Models interface {
	// Read returns the model, with nothing but its name and Now if there is none. It locks nothing, and works
	// outside a transaction too.
	Read(ctx context.Context, name string) (Model, error)
	// Lock is Read, in the transaction in ctx, of a row that it locks until that ends: exclusively, creating it if
	// there is none, or shared with others that do not change it.
	Lock(ctx context.Context, name string, exclusive bool) (Model, error)
	// Save writes a model that is locked exclusively in the same transaction.
	Save(ctx context.Context, m Model) error
}

// Checkpoints keeps how far each generation is in each partition.
type Checkpoints interface {
	// List returns a generation's checkpoints, in any order; in the transaction in ctx if there is one.
	List(ctx context.Context, name string, generation int64) ([]Checkpoint, error)
	// Advance writes a checkpoint, in the transaction in ctx, if the one that is there has the position from, or
	// if there is none and from is [None]; else it returns [ErrMoved] and has written nothing.
	Advance(ctx context.Context, name string, generation, from int64, to Checkpoint) error
	// Forget removes a generation's checkpoints, in the transaction in ctx.
	Forget(ctx context.Context, name string, generation int64) error
}

// ErrMoved is returned by [Checkpoints].Advance when somebody else has advanced the checkpoint since it was read.
var ErrMoved = errors.New("projection: the checkpoint has moved")

// None is the position before the first.
const None int64 = -1

// A Checkpoint says how far a generation is in one partition.
type Checkpoint struct {
	Topic     string // "" for what the generation was loaded from
	Partition int32
	Position  int64     // of the last message behind us; [None]: nothing is. Without positions: how many there were
	Applied   int64     // events that apply functions have seen
	EventAt   time.Time // when the last of them occurred, by its sender's clock; zero: none has
	UpdatedAt time.Time // by the database's clock; written by the store
}

// A Model is one projection's read model: the generation that queries read, and those around it.
type Model struct {
	Name        string
	Live        int64 // the generation that queries read; 0: none yet, the first is being created
	Last        int64 // the last number given to a generation
	Generations []Generation
	Hold        time.Time // until then only the shadow is fed, so that it gets level; by the database's clock
	Now         time.Time // the database's clock when the model was read
}

// A Generation is one copy of the read model, built from the beginning by one version of the code.
type Generation struct {
	Number  int64     `json:"number"`
	Version int       `json:"version"` // [Config].Version of who builds it
	State   State     `json:"state"`
	Since   time.Time `json:"since"`            // of the state; by the database's clock
	Reason  string    `json:"reason,omitempty"` // why it was given up
}

// State is what happens to a generation.
type State string

// The states of a generation, in their order.
const (
	Loading   State = "loading"   // is filled from its [Source]
	Following State = "following" // takes what is published
	Retired   State = "retired"   // is fed no more, and will be dropped
)

func (m *Model) generation(number int64) *Generation {
	i := slices.IndexFunc(m.Generations, func(g Generation) bool { return g.Number == number })
	if i < 0 {
		return nil
	}
	return &m.Generations[i]
}

// fed returns the generation if it is to be fed, else nil.
func (m *Model) fed(number int64) *Generation {
	if g := m.generation(number); g != nil && g.State != Retired {
		return g
	}
	return nil
}

// shadow returns the generation that is being built beside the live one, nil if there is none.
func (m *Model) shadow() *Generation {
	for i, g := range m.Generations {
		if g.Number != m.Live && g.State != Retired {
			return &m.Generations[i]
		}
	}
	return nil
}

// begin adds a generation.
func (m *Model) begin(version int, s State) Generation {
	m.Last++
	g := Generation{Number: m.Last, Version: version, State: s, Since: m.Now}
	m.Generations = append(m.Generations, g)
	return g
}

func (m *Model) retire(number int64, reason string) {
	if g := m.generation(number); g != nil {
		g.State, g.Since, g.Reason = Retired, m.Now, reason
	}
	if m.Live == number {
		m.Live = 0
	}
	m.Hold = time.Time{}
}

// swap makes the shadow the live generation.
func (m *Model) swap(number int64) {
	m.retire(m.Live, "")
	m.Live = number
}

func (m *Model) remove(number int64) {
	m.Generations = slices.DeleteFunc(m.Generations, func(g Generation) bool { return g.Number == number })
}

// held reports whether the generation has to wait until the shadow is level with it.
func (m *Model) held(number int64) bool { return number == m.Live && m.Now.Before(m.Hold) }
