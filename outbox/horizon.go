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
//   - Before each note the reader asks for the highest number that is visible. Whoever takes a number later gets a
//     higher one.
//   - So a transaction that begins after a note has only numbers above what was visible then; and whoever publishes
//     for a key after another one has committed, has a higher number than what was visible while that one was open.
//
// A reader that notes who is open, and then reads no further than what was visible before, therefore misses only
// messages of transactions that it has noted. After each read it asks which of them have ended, maybe since the note:
// for those it looks back, no further than their numbers can reach, and takes what it finds first. As they may have
// ended since the read too, the next one looks back over this one.
type horizon struct {
	upTo int64           // the highest number that was visible before the last note
	next int64           // transactions that began after the last note have at least this id
	open map[int64]int64 // transactions that may be open; their numbers are higher than this
}

// A snapshot tells which transactions are in progress.
type snapshot struct {
	xmin int64   // all below have ended
	xmax int64   // from here on all that have begun may be in progress
	list []int64 // in progress between the two
}

// note takes notice of those in progress by a snapshot that was taken after top was visible. now is an id that was
// given out after it.
func (h *horizon) note(s snapshot, now, top int64) {
	for _, id := range s.list {
		if id >= h.next {
			h.open[id] = h.upTo
		}
	}
	for id := max(s.xmax, h.next); id < now; id++ {
		h.open[id] = h.upTo
	}
	h.next, h.upTo = now, max(h.upTo, top)
}

// ended forgets those that have ended and returns the number above which they may have left messages that the reader
// has passed.
func (h *horizon) ended(s snapshot) (back int64) {
	back = math.MaxInt64
	for id, above := range h.open {
		if !s.running(id) {
			back = min(back, above)
			delete(h.open, id)
		}
	}
	return back
}

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
