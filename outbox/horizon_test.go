package outbox_test

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/surge-go/surge/outbox"
	"pgregory.net/rapid"
)

// A server is a model of PostgreSQL's transactions, as far as a relay's reader sees them.
type server struct {
	nextID, nextSeq int64
	completed       int64           // the latest
	running         map[int64]*open // by id; nil for the reader's own
	locked          map[int]bool    // keys
	count           map[int]int     // messages of each key
	visible         map[int64]row
}

// An open transaction has locked keys and taken numbers.
type open struct {
	keys []int
	rows map[int64]row
}

type row struct{ key, n int }

func (s *server) begin(own *open) (id int64) {
	id = s.nextID
	s.nextID++
	s.running[id] = own
	return id
}

// publish takes a number for a key that the transaction has locked, or locks.
func (s *server) publish(o *open, key int) {
	if !slices.Contains(o.keys, key) {
		if s.locked[key] {
			return
		}
		s.locked[key] = true
		o.keys = append(o.keys, key)
	}
	s.count[key]++
	o.rows[s.nextSeq] = row{key, s.count[key]}
	s.nextSeq++
}

func (s *server) end(id int64, commit bool) {
	if o := s.running[id]; o != nil {
		for seq, r := range o.rows {
			if commit {
				s.visible[seq] = r
			} else {
				s.count[r.key]--
			}
		}
		for _, k := range o.keys {
			delete(s.locked, k)
		}
	}
	delete(s.running, id)
	s.completed = max(s.completed, id)
}

// snapshot is pg_current_snapshot(): what has begun above the latest that has ended, is not listed.
func (s *server) snapshot() string {
	xmax := s.completed + 1
	xmin, list := xmax, []string{}
	for _, id := range slices.Sorted(maps.Keys(s.running)) {
		if id < xmax {
			xmin = min(xmin, id)
			list = append(list, fmt.Sprint(id))
		}
	}
	return fmt.Sprintf("%d:%d:%s", xmin, xmax, strings.Join(list, ","))
}

// between lists the visible rows between two numbers, the first excluded.
func (s *server) between(after, until int64) (seqs []int64) {
	for seq := range s.visible {
		if seq > after && seq <= until {
			seqs = append(seqs, seq)
		}
	}
	slices.SortFunc(seqs, cmp.Compare)
	return seqs
}

// A walk is a reader's way over the table, with a step of the server between its statements.
type walk struct {
	*server
	past     *outbox.Horizon
	pos, low int64
	got      map[int64]bool
	order    []row
}

func (w *walk) read(t *rapid.T, limit int, step func()) {
	top := w.pos
	for _, seq := range w.between(w.pos, w.nextSeq) {
		top = seq
	}
	step()
	if !w.past.Passed(top) {
		text := w.snapshot()
		step() // others begin between the snapshot and our id
		own := w.begin(nil)
		defer w.end(own, true)
		if err := w.past.Note(text, own, top); err != nil {
			t.Fatal(err)
		}
	}
	step()
	rows := w.between(w.pos, top)
	if len(rows) > limit {
		rows = rows[:limit]
		top = rows[limit-1]
	}
	step()
	low := top
	if w.past.Open() > 0 {
		back, err := w.past.Ended(w.snapshot())
		if err != nil {
			t.Fatal(err)
		}
		w.low = min(w.low, back)
		if back != math.MaxInt64 {
			low = w.pos
		}
	}
	step()
	if w.low < w.pos {
		w.take(w.between(w.low, w.pos))
	}
	w.take(rows)
	w.pos, w.low = top, low
}

func (w *walk) take(seqs []int64) {
	for _, seq := range seqs {
		if !w.got[seq] {
			w.got[seq] = true
			w.order = append(w.order, w.visible[seq])
		}
	}
}

// Whenever transactions begin, take numbers, commit and roll back, a reader that follows the horizon misses nothing
// and sees each key's messages in the order of their commits.
func TestRule13_HorizonMissesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &server{
			nextID: 10, nextSeq: 1, completed: 9, running: map[int64]*open{}, locked: map[int]bool{}, count: map[int]int{},
			visible: map[int64]row{},
		}
		w := &walk{server: s, past: outbox.NewHorizon(), got: map[int64]bool{}}
		step := func() {
			for range rapid.IntRange(0, 3).Draw(t, "events") {
				var ids []int64
				for _, id := range slices.Sorted(maps.Keys(s.running)) {
					if s.running[id] != nil {
						ids = append(ids, id)
					}
				}
				if len(ids) == 0 || rapid.IntRange(0, 3).Draw(t, "begins") == 0 {
					ids = []int64{s.begin(&open{rows: map[int64]row{}})}
				}
				id := rapid.SampledFrom(ids).Draw(t, "transaction")
				if end := rapid.IntRange(0, 5).Draw(t, "event"); end < 2 {
					s.end(id, end == 0)
				} else {
					s.publish(s.running[id], rapid.IntRange(0, 2).Draw(t, "key"))
				}
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "reads") {
			step()
			w.read(t, rapid.IntRange(1, 5).Draw(t, "limit"), step)
		}
		for _, id := range slices.Sorted(maps.Keys(s.running)) {
			s.end(id, true)
		}
		for range len(s.visible) + 3 {
			w.read(t, 100, func() {})
		}
		last := map[int]int{}
		for _, r := range w.order {
			if r.n != last[r.key]+1 {
				t.Fatalf("key %d: message %d after %d", r.key, r.n, last[r.key])
			}
			last[r.key] = r.n
		}
		if len(w.order) != len(s.visible) {
			t.Fatalf("%d of %d were read", len(w.order), len(s.visible))
		}
	})
}
