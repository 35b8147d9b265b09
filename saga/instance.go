package saga

import (
	"time"

	"github.com/surge-go/surge/saga/internal/flow"
)

// Status is where an instance stands.
type Status string

// The statuses. Completed, Compensated, Cancelled and Aborted are ends.
const (
	Running      Status = "running"
	Compensating Status = "compensating" // settles what is in flight, then undoes in reverse order
	Cancelling   Status = "cancelling"   // runs its OnCancel branch
	Parked       Status = "parked"       // a step waits for an operator, or for its late reply
	Suspended    Status = "suspended"    // poisoned: its messages are kept until an operator lets it go on
	Completed    Status = "completed"
	Compensated  Status = "compensated" // everything is undone
	Cancelled    Status = "cancelled"   // cancelled behind the pivot, through its OnCancel branch
	Aborted      Status = "aborted"     // undone, or ended, by an operator
)

// Ended reports whether s is an end.
func (s Status) Ended() bool {
	return s == Completed || s == Compensated || s == Cancelled || s == Aborted
}

// Instance is one run of a saga, as it stood when it was read.
type Instance[S any] struct {
	ID        string // made by the engine; "" in tests without one
	Key       string
	Version   int // of the definition
	Status    Status
	State     S
	Step      string    // the node it is at; "" if it has ended
	Reason    string    // why it is undone, parked or suspended; at most 500 bytes
	DueAt     time.Time // when it next looks after itself, no later than this; zero means never
	Cancelled bool      // somebody asked to cancel
	Tags      []string
}

// Snapshot is for this module's own packages; its parameter's type is not part of the API.
func (d *Definition[S]) Snapshot(key string, in *flow.Instance) Instance[S] {
	i := Instance[S]{
		ID: in.ID, Key: key, Version: d.graph.Version, Status: statusOf(&in.Cursor),
		Step: in.Cursor.Step(), Reason: in.Cursor.Reason, Cancelled: in.Cursor.Cancel,
	}
	if s, ok := in.State.(*S); ok {
		i.State = *s
	}
	if due := in.Cursor.Due(); due != 0 {
		i.DueAt = time.UnixMilli(due).UTC()
	}
	return i
}

func statusOf(c *flow.Cursor) Status {
	switch {
	case c.Suspended:
		return Suspended
	case c.Phase.Ended():
		return Status(c.Phase)
	case c.Stuck():
		return Parked
	}
	switch c.Phase {
	case flow.Settling, flow.Unwind:
		return Compensating
	case flow.Turn, flow.Refund:
		return Cancelling
	}
	return Running
}
