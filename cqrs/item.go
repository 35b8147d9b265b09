package cqrs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
)

// fate is what a transaction decided about a message.
type fate int

const (
	undecided fate = iota
	handled
	skipped   // nobody's business in this group
	duplicate // the inbox knows it
	behind    // an earlier one of its queue is not done
	retried   // failed; again after a delay
	scheduled // its time has not come; its key does not wait for it
	dead      // failed for good
	unstarted // its turn did not come in this transaction
)

// postponed reports whether the message is to run later.
func (f fate) postponed() bool { return f == behind || f == retried || f == scheduled }

// An item is a message in a lane: fresh from a subscriber, or parked before.
type item struct {
	d      *Delivery
	msg    *message.Message // nil: parked
	parked *Parked          // nil: fresh
	chain  *chain           // of a parked one
	done   func(*Parked)    // tells the worker that leased it
	route  *route
	queue  string // what keeps order; "" for a message without key

	ready   bool          // looked at once: decoded, or has a verdict
	verdict error         // why its handlers are not even called
	skip    bool          // nobody's business
	later   time.Duration // until its time, if it is scheduled
	timed   bool          // waits for it in memory
	arrives bool          // parked, and its time has come: it goes to its key now
	stuck   time.Duration // for so long a handler of its key has not returned
	single  bool          // runs alone: its batch handler did not return
	marked  bool          // noted as about to run, see vigil
	begun   int           // times that it had begun to run without an end when it was last asked
	kills   int           // times that it ran when the process died
	settled bool
	held    bool        // by its lane, until its next try
	place   int         // in the order of its lane; 0: not yet known
	unwatch func() bool // of its session, while it is held
	losses  int         // of its own transaction, in a row, because the store went away
	tries   int         // runs that failed, of a message that is retried from memory

	// Set anew by every run of the transaction.
	fate    fate
	err     error
	delay   time.Duration
	counts  bool // the failure consumes an attempt
	blocks  bool // a dead letter that its queue waits for
	refused bool
	quiet   bool // postponed by us: no failure to note
}

func (r *runner) item(topic string, m *message.Message) *item {
	d := &Delivery{Envelope: EnvelopeFrom(m), Topic: topic, Payload: m.Payload, Metadata: m.Metadata}
	d.Envelope.ID = storable(d.Envelope.ID)
	if d.Envelope.ID == "" { // two without would be one in a store
		d.Envelope.ID = nameless(m)
	}
	it := &item{d: d, msg: m, queue: queueOf(topic, d.Envelope.Key)}
	it.route = r.routeOf(d)
	return it
}

// nameless names a message that came without an ID: by its place, so that it keeps the name, if the bus tells.
func nameless(m *message.Message) string {
	if p, ok := PositionOf(m.Context()); ok {
		return storable(fmt.Sprintf("%s/%d/%d", p.Topic, p.Partition, p.Offset))
	}
	return newID()
}

// A chain joins the messages of one queue that were leased together. Its lane may run them in several batches;
// when one does not get done, those behind it must not run either.
type chain struct{ broken atomic.Bool }

func (r *runner) parkedItem(pk *Parked, c *chain) *item {
	md := message.Metadata(maps.Clone(pk.Metadata)) // what handlers do to it must not change the record
	d := &Delivery{Envelope: envelopeFrom(pk.ID, md), Topic: pk.Topic, Payload: slices.Clone(pk.Payload), Metadata: md}
	d.Envelope.Attempt = pk.Attempt
	it := &item{d: d, parked: pk, chain: c, done: r.parkedDone, queue: queueOf(pk.Topic, d.Envelope.Key)}
	it.arrives = it.queue != "" && pk.Queue == pk.ID && pk.ID != it.queue // who sends it chooses the ID
	it.route = r.routeOf(d)
	return it
}

const maxName = 200

// queueOf names a queue.
func queueOf(topic, key string) string {
	if key == "" {
		return ""
	}
	return storable(topic + "|" + key)
}

// storable returns a name that every store takes, whatever a foreign sender wrote: what is too long, or no text,
// becomes text, cut and made distinct by a hash.
func storable(name string) string {
	if len(name) <= maxName && utf8.ValidString(name) && strings.IndexByte(name, 0) < 0 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	h := hex.EncodeToString(sum[:])
	head := name[:min(len(name), maxName-len(h)-1)]
	head = strings.ReplaceAll(strings.ToValidUTF8(head, ""), "\x00", "")
	return head + "#" + h
}

func (it *item) reset() {
	it.fate, it.err, it.delay = undecided, nil, 0
	it.counts, it.blocks, it.refused, it.quiet = false, false, false, false
	it.d.Err = nil
}

// isTaken reports whether the session ended in which the message came: another process may have it by now.
func (it *item) isTaken() bool { return it.msg != nil && it.msg.Context().Err() != nil }

func (it *item) attempt() int {
	if it.parked != nil {
		return it.parked.Attempt
	}
	return it.tries
}

// settle ends the item's life here: it is acknowledged, or the worker that leased it hears of it.
func (it *item) settle(acknowledge bool) {
	if it.settled {
		return
	}
	it.settled = true
	switch {
	case it.parked != nil:
		if !acknowledge || it.fate.postponed() || it.blocks {
			it.chain.broken.Store(true)
		}
		it.done(it.parked)
	case acknowledge:
		it.msg.Ack()
	default:
		it.msg.Nack()
	}
}

// release gives the message back, to be delivered or leased again.
func (it *item) release() { it.settle(false) }

// look finds, once, whether the message may run, and reports whether it must be decoded.
func (it *item) look(p *Processor) bool {
	it.ready = true
	env, rt := &it.d.Envelope, it.route
	if at := moment(it.d.Metadata[HeaderDeliverAt]); it.parked == nil && time.Until(at) > 0 {
		it.later = time.Until(at)
	}
	switch {
	case len(rt.handlers) == 0:
		it.orphan()
	case it.parked == nil && p.cfg.MaxAge > 0 && !env.OccurredAt.IsZero() && time.Since(env.OccurredAt) > p.cfg.MaxAge:
		it.verdict = fmt.Errorf("%w: it occurred at %s", errTooOld, env.OccurredAt.Format(time.RFC3339))
	default:
		return rt.decode
	}
	return false
}

func deliveries(items []*item) []*Delivery {
	ds := make([]*Delivery, len(items))
	for i, it := range items {
		ds[i] = it.d
	}
	return ds
}

// orphan decides about a message that has no handler in this group.
func (it *item) orphan() {
	env := &it.d.Envelope
	known := it.route.entry != nil
	if known || env.Kind == KindEvent || env.Kind == KindReply {
		it.skip = true
		return
	}
	it.verdict = fmt.Errorf("%w: %q", ErrUnknownType, env.Type)
}

var errTooOld = errors.New("cqrs: message is older than MaxAge")

// final reports whether a failure can only repeat itself.
func final(err error) bool {
	return errors.Is(err, ErrUndecodable) || errors.Is(err, ErrUnknownType) || errors.Is(err, errTooOld) ||
		errors.Is(err, errKills)
}

// record makes what is stored of the item.
func (it *item) record(group string) Record {
	if it.parked != nil {
		r := it.parked.Record
		r.Attempt = max(r.Attempt, it.kills-1)
		if it.arrives {
			r.Queue = it.queue
		}
		return r
	}
	env := &it.d.Envelope
	r := Record{
		Group: group, ID: env.ID, Queue: it.queue, Topic: it.d.Topic,
		Type: storable(env.Type), Key: storable(env.Key),
		Payload: it.d.Payload, Metadata: it.d.Metadata, Attempt: max(0, it.kills-1),
	}
	if r.Queue == "" || it.fate == scheduled {
		r.Queue = r.ID
	}
	return r
}
