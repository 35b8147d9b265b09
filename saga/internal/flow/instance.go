package flow

import (
	"encoding/json"
	"fmt"
	"time"
)

// Phase is the direction in which an instance moves.
type Phase string

// The phases. Those from Completed on are ends.
const (
	Forward     Phase = ""       // through the graph
	Settling    Phase = "settle" // something failed: nothing starts, what is in flight settles
	Unwind      Phase = "unwind" // undoes, in reverse order
	Turn        Phase = "turn"   // cancelled behind the pivot: what is in flight settles
	Refund      Phase = "refund" // through the cancel branch
	Completed   Phase = "completed"
	Compensated Phase = "compensated"
	Cancelled   Phase = "cancelled"
	Aborted     Phase = "aborted"
)

// Ended reports whether p is an end.
func (p Phase) Ended() bool {
	return p == Completed || p == Compensated || p == Cancelled || p == Aborted
}

// MarkState is what became of a node.
type MarkState string

// The states of a [Mark].
const (
	Out      MarkState = "out"      // its command is on its way; only its reply tells
	Paused   MarkState = "paused"   // certainly not executed; to be sent or run again when due
	Ready    MarkState = "ready"    // a local that is to run now
	Waiting  MarkState = "waiting"  // for an event
	OK       MarkState = "ok"       //
	Refused  MarkState = "refused"  // failed for certain: nothing to undo
	Doubt    MarkState = "doubt"    // given up with unknown outcome: to be undone
	Undoing  MarkState = "undoing"  // its undo is on its way
	Undone   MarkState = "undone"   //
	Skipped  MarkState = "skipped"  // never begun, or passed by an operator
	Entered  MarkState = "entered"  // a When that was true, a Sub that runs
	NotTaken MarkState = "nottaken" // a When that was false
)

// A Mark is what an instance remembers about a node.
type Mark struct {
	Node  string    `json:"n"`
	State MarkState `json:"s"`
	Inc   int       `json:"i,omitempty"` // incarnation, from 1
	Try   int       `json:"t,omitempty"` // sends under this incarnation, or of the undo
	Due   int64     `json:"d,omitempty"` // unix milliseconds; 0 means never
	Stuck bool      `json:"x,omitempty"` // waits for an operator
}

// Cursor is an instance's place.
type Cursor struct {
	Phase     Phase                      `json:"p,omitempty"`
	Marks     []*Mark                    `json:"m,omitempty"`
	Cancel    bool                       `json:"c,omitempty"` // somebody asked to cancel
	Abort     bool                       `json:"a,omitempty"` // an operator asked to abort
	Suspended bool                       `json:"z,omitempty"` // poisoned: messages are stashed
	Reason    string                     `json:"r,omitempty"` // why it does not simply go on
	Stash     []Input                    `json:"q,omitempty"`
	Frames    map[string]json.RawMessage `json:"f,omitempty"` // states of subs
	Origin    string                     `json:"o,omitempty"` // correlation of what started it
}

// An Instance is one run of a graph. It is not safe for concurrent use.
type Instance struct {
	ID     string
	State  any            // a pointer
	Frames map[string]any // states of subs, pointers
	Cursor Cursor
}

// Encode renders the state and the place as JSON.
func (in *Instance) Encode() (state, cursor []byte, err error) {
	if state, err = json.Marshal(in.State); err != nil {
		return nil, nil, fmt.Errorf("encode state: %w", err)
	}
	in.Cursor.Frames = nil
	for name, f := range in.Frames {
		data, err := json.Marshal(f)
		if err != nil {
			return nil, nil, fmt.Errorf("encode state of %s: %w", name, err)
		}
		if in.Cursor.Frames == nil {
			in.Cursor.Frames = map[string]json.RawMessage{}
		}
		in.Cursor.Frames[name] = data
	}
	cursor, err = json.Marshal(&in.Cursor)
	return state, cursor, err
}

// Decode is the reverse of Encode.
func (g *Graph) Decode(id string, state, cursor []byte) (*Instance, error) {
	in := &Instance{ID: id, State: g.Blank()}
	if err := json.Unmarshal(state, in.State); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	if err := json.Unmarshal(cursor, &in.Cursor); err != nil {
		return nil, fmt.Errorf("decode cursor: %w", err)
	}
	for name := range in.Cursor.Frames {
		if n := g.byName[name]; n == nil || n.NewFrame == nil {
			return nil, fmt.Errorf("decode cursor: no sub named %q", name)
		}
	}
	return in, g.decodeFrames(in)
}

// decodeFrames decodes the states of the subs that the graph has.
func (g *Graph) decodeFrames(in *Instance) error {
	for name, data := range in.Cursor.Frames {
		n := g.byName[name]
		if n == nil || n.NewFrame == nil {
			continue
		}
		f := n.NewFrame()
		if err := json.Unmarshal(data, f); err != nil {
			return fmt.Errorf("decode state of %s: %w", name, err)
		}
		in.setFrame(name, f)
	}
	return nil
}

func (in *Instance) setFrame(name string, state any) {
	if in.Frames == nil {
		in.Frames = map[string]any{}
	}
	in.Frames[name] = state
}

func (in *Instance) frame(name string) any {
	if name == "" {
		return in.State
	}
	return in.Frames[name]
}

// Mark returns the mark of a node, or nil.
func (c *Cursor) Mark(node string) *Mark {
	for _, m := range c.Marks {
		if m.Node == node {
			return m
		}
	}
	return nil
}

// Stuck reports whether a node waits for an operator.
func (c *Cursor) Stuck() bool {
	for _, m := range c.Marks {
		if m.Stuck {
			return true
		}
	}
	return false
}

// Abandon lets go of all that has begun and is not settled: a reply will find nobody.
func (c *Cursor) Abandon() {
	for _, m := range c.Marks {
		m.Due, m.Stuck = 0, false
		switch m.State {
		case Out, Undoing, Paused, Ready, Waiting:
			m.State = Skipped
		}
	}
}

// Due returns when the instance wants to be woken, in unix milliseconds; 0 means never.
func (c *Cursor) Due() int64 {
	var due int64
	if c.Phase.Ended() || c.Suspended {
		return 0
	}
	for _, m := range c.Marks {
		if m.Due != 0 && !m.Stuck && (due == 0 || m.Due < due) {
			due = m.Due
		}
	}
	return due
}

// Step names the node that an observer would say the instance is at: the last one that is not settled.
func (c *Cursor) Step() string {
	for i := len(c.Marks) - 1; i >= 0; i-- {
		switch c.Marks[i].State {
		case Out, Paused, Ready, Waiting, Undoing:
			return c.Marks[i].Node
		case Refused:
			if c.Marks[i].Stuck {
				return c.Marks[i].Node
			}
		}
	}
	return ""
}

func millis(t time.Time) int64 { return t.UnixMilli() }
