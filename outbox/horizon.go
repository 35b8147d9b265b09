package outbox

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A horizon knows, on PostgreSQL, which transactions may still commit messages with numbers that a reader has
// passed. It needs no lock and waits for nobody:
//
//   - A transaction has an id before it takes its first number (see insertArrays).
//   - Before each look the reader asks for the highest number that is visible. Whoever takes a number later gets a
//     higher one.
//   - So a transaction that begins after a look has only numbers above what was visible then; and whoever publishes
//     for a key after another one has committed, has a higher number than what was visible while that one was open.
//
// A reader that reads no further than what was visible before the look therefore misses only messages of
// transactions that were open in it, and none of what must precede what it reads. When such a transaction has ended,
// it looks back, no further than that transaction's numbers can reach.
type horizon struct {
	upTo int64           // the highest number that was visible before the last look
	next int64           // transactions that began after the last look have at least this id
	open map[int64]int64 // transactions that were open in the last look; their numbers are higher than this
}

// A snapshot is what one look sees: a transaction id that was given out just now, and which were in progress.
type snapshot struct {
	now  int64
	xmax int64   // from here on all that have begun may be in progress
	list []int64 // in progress below xmax
	xmin int64   // all below have ended
}

// look takes notice of a snapshot that was taken after top was visible, and returns the number above which
// transactions have ended since the last look whose messages may have been passed.
func (h *horizon) look(s snapshot, top int64) (back int64) {
	back = math.MaxInt64
	for id, above := range h.open {
		if !s.running(id) {
			back = min(back, above)
			delete(h.open, id)
		}
	}
	for _, id := range s.list {
		if id >= h.next {
			h.open[id] = h.upTo
		}
	}
	for id := max(s.xmax, h.next); id < s.now; id++ {
		h.open[id] = h.upTo
	}
	h.next, h.upTo = s.now, max(h.upTo, top)
	return back
}

// settled reports whether nothing can appear any more up to what was visible before.
func (h *horizon) settled(top int64) bool { return top <= h.upTo && len(h.open) == 0 }

func (s *snapshot) running(id int64) bool {
	return id >= s.xmax || id >= s.xmin && slices.Contains(s.list, id)
}

// parse reads PostgreSQL's text form of a snapshot, xmin:xmax:xip,xip,…
func (s *snapshot) parse(text string) error {
	fields := strings.Split(text, ":")
	if len(fields) != 3 {
		return fmt.Errorf("outbox: snapshot %q", text)
	}
	var err error
	if s.xmin, err = strconv.ParseInt(fields[0], 10, 64); err != nil {
		return err
	}
	if s.xmax, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
		return err
	}
	if fields[2] == "" {
		return nil
	}
	for id := range strings.SplitSeq(fields[2], ",") {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return err
		}
		s.list = append(s.list, n)
	}
	return nil
}
