package flow

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// InputKind tells what happened to an instance.
type InputKind string

// The kinds of inputs. Those from Retry on come from operators.
const (
	Start  InputKind = "start"
	Reply  InputKind = "reply"
	Event  InputKind = "event"
	Timer  InputKind = "timer"
	Stop   InputKind = "cancel"
	Retry  InputKind = "retry"
	Skip   InputKind = "skip"
	Abort  InputKind = "abort"
	Settle InputKind = "settled"
	Force  InputKind = "force"
)

// An Input is something that happened to an instance. It can be stashed: it holds nothing but data.
type Input struct {
	Kind    InputKind    `json:"k"`
	Step    string       `json:"s,omitempty"` // reply, settled: the node; skip, retry: one node, "" means all stuck
	Inc     int          `json:"i,omitempty"` // reply
	Undo    bool         `json:"u,omitempty"` // reply: to the undo
	Outcome cqrs.Outcome `json:"o,omitempty"` // reply, settled
	Code    string       `json:"c,omitempty"` // reply: of a rejection
	Text    string       `json:"t,omitempty"` // reply: of a rejection; others: the reason
	Event   string       `json:"e,omitempty"` // event: the type's name
	Payload []byte       `json:"p,omitempty"` // reply, event: encoded
	End     Phase        `json:"f,omitempty"` // force: the end

	ID      string            `json:"id,omitempty"` // of the message
	Topic   string            `json:"tp,omitempty"` // placeholders keep what a dead letter needs
	Headers map[string]string `json:"h,omitempty"`
}

// Env is what a transition may see of the world.
type Env struct {
	Now    time.Time                         // one clock for all transitions of an engine
	Decode func(data []byte, into any) error // of replies and events
	Local  func(n *Node, state any) error    // runs a local; nil means n.Run is not allowed to run
	Failed map[string]error                  // locals that failed when this input was tried before
}

// A LocalError stops a transition because a local failed. The caller undoes what it wrote and applies the input
// again, to a fresh copy, with the error in [Env.Failed].
type LocalError struct {
	Node string
	Err  error
}

// Error names the local.
func (e *LocalError) Error() string { return fmt.Sprintf("local %s: %v", e.Node, e.Err) }

// Unwrap returns the local's own error.
func (e *LocalError) Unwrap() error { return e.Err }

// Aim tells what a command does to its step.
type Aim byte

// The aims of commands.
const (
	ToDo   Aim = 'd'
	ToUndo Aim = 'u'
	ToEnd  Aim = 'e' // the undo of a local: for its participant a command like any other
)

// A Token names one command of one instance: all tries of an incarnation carry the same.
type Token struct {
	Saga string
	Step string
	Inc  int
	Aim  Aim
}

// String is the token's form on the wire.
func (t Token) String() string {
	return t.Saga + ":" + strconv.Itoa(t.Inc) + ":" + string(t.Aim) + ":" + t.Step
}

// Of returns the token of the do that t does or undoes: what a participant keeps its row under.
func (t Token) Of() Token {
	if t.Aim == ToUndo {
		t.Aim = ToDo
	}
	return t
}

// ParseToken reads what [Token.String] wrote.
func ParseToken(s string) (Token, bool) {
	p := strings.SplitN(s, ":", 4)
	if len(p) != 4 || p[0] == "" || p[3] == "" || len(p[2]) != 1 {
		return Token{}, false
	}
	inc, err := strconv.Atoi(p[1])
	aim := Aim(p[2][0])
	if err != nil || inc < 1 || (aim != ToDo && aim != ToUndo && aim != ToEnd) {
		return Token{}, false
	}
	return Token{Saga: p[0], Step: p[3], Inc: inc, Aim: aim}, true
}

// A Command is to be sent when, and only if, the transition is stored.
type Command struct {
	Token    Token
	Message  any
	Deadline time.Time
}

// An Entry is one line of the journal.
type Entry struct {
	What string `json:"w"` // "reply", "send", "undo", "timeout", …
	Step string `json:"s,omitempty"`
	Inc  int    `json:"i,omitempty"`
	Try  int    `json:"t,omitempty"`
	Note string `json:"n,omitempty"` // outcome, reason, who and why
}

// A Result is what a transition asks for beside storing the instance.
type Result struct {
	Changed  bool // false: the input was a duplicate or came too late, and there is nothing to store
	Commands []Command
	Entries  []Entry
}
