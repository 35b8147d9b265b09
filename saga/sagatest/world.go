package sagatest

import (
	"encoding/json"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
)

// fate is what a participant remembers under a token.
type fate string

const (
	did     fate = "did"
	refused fate = "refused"
	barred  fate = "barred" // never executed, and never will be
	undid   fate = "undid"
)

// A parcel is a message on its way: a command, or the reply to one.
type parcel struct {
	token   string
	outcome cqrs.Outcome // of a reply; "" for a command
	copied  bool         // it was delivered before
}

func (p parcel) String() string {
	s := "command " + p.token
	if p.outcome != "" {
		s = "reply " + string(p.outcome) + " to " + p.token
	}
	if p.copied {
		s = "a copy of " + s
	}
	return s
}

// A world is one state that the explorer has reached. Time is always the epoch: due times are moved instead.
type world struct {
	state, cursor []byte
	mail          []parcel // a set: a second copy of a message is the fault "duplicate"
	parts         map[string]fate
	faults        int // left
	cancelled     bool
	heard         []string // Waits whose event was sent

	from *world
	did  string

	// What brought it here, until that has been played again; before is nil if the instance did not change.
	by     flow.Input
	before *world
	res    flow.Result
}

func (w *world) next(did string) *world {
	n := *w
	n.mail, n.parts, n.heard = slices.Clone(w.mail), maps.Clone(w.parts), slices.Clone(w.heard)
	n.from, n.did, n.before = w, did, nil
	return &n
}

func (w *world) put(p parcel) {
	if !slices.Contains(w.mail, p) {
		w.mail = append(w.mail, p)
	}
}

// take removes p, or leaves a copy for another delivery, which is a fault.
func (w *world) take(p parcel, twice bool) {
	w.mail = slices.DeleteFunc(w.mail, func(q parcel) bool { return q == p })
	if twice {
		w.faults--
		p.copied = true
		w.put(p)
	}
}

// quiet reports whether nothing is on its way but copies.
func (w *world) quiet() bool {
	return !slices.ContainsFunc(w.mail, func(p parcel) bool { return !p.copied })
}

var seed = maphash.MakeSeed()

// key is equal for worlds with the same future.
func (w *world) key() uint64 {
	mail := make([]string, len(w.mail))
	for i, p := range w.mail {
		mail[i] = p.String()
	}
	slices.Sort(mail)
	parts := make([]string, 0, len(w.parts))
	for t, f := range w.parts {
		parts = append(parts, t+"="+string(f))
	}
	slices.Sort(parts)
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range [][]byte{w.state, w.cursor} {
		_, _ = h.Write(part)
		_ = h.WriteByte(0)
	}
	for _, list := range [][]string{mail, parts, w.heard, {strconv.Itoa(w.faults), strconv.FormatBool(w.cancelled)}} {
		for _, s := range list {
			_, _ = h.WriteString(s)
			_ = h.WriteByte(1)
		}
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

// shift lets time pass until the next timer is due, by moving all due times.
func (w *world) shift(in *flow.Instance) bool {
	due := in.Cursor.Due()
	if due == 0 {
		return false
	}
	now := epoch.UnixMilli()
	for _, m := range in.Cursor.Marks {
		if m.Due != 0 {
			m.Due = max(m.Due-(due-now), now)
		}
	}
	cursor, err := json.Marshal(&in.Cursor)
	if err != nil {
		return false
	}
	w.cursor = cursor
	return true
}
