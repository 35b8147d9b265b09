package outbox_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
)

// While a topic is behind, a read that looks for other topics in what is not read for it yet must be short: the topic
// may be waiting. But it has to go on, to whatever is behind the backlog.
func TestLookingAheadIsDoneInSteps(t *testing.T) {
	t.Parallel()
	const rows, buffer, stride = 9_500, 10, 4_000
	for name, open := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			box, _ := newOutbox(t, db)
			msgs := make([]*message.Message, rows)
			for i := range msgs {
				msgs[i] = message.NewMessage(fmt.Sprint(i), nil)
			}
			if err := db.Transaction(func(tx *gorm.DB) error { return box.PublishTx(tx, "slow", msgs...) }); err != nil {
				t.Fatal(err)
			}
			reading, err := outbox.NewReading(t.Context(), box, db.Name(), outbox.RelayConfig{Buffer: buffer, Batch: buffer})
			if err != nil {
				t.Fatal(err)
			}
			var got []int64
			for range 6 {
				if _, err := reading.Read(t.Context(), db.Statement.ConnPool); err != nil {
					t.Fatal(err)
				}
				got = append(got, reading.Position())
			}
			if want := []int64{buffer, 2 * buffer, 2*buffer + stride, 2*buffer + 2*stride, rows, rows}; !slices.Equal(got, want) {
				t.Errorf("the scan of all topics is at %d, want %d", got, want)
			}
		})
	}
}

// What was acknowledged is deleted by its exact keys. A range says the same as a list only where the list has no gap:
// in a gap may be a message that somebody is about to commit.
func TestDeletionOfARange(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	for _, c := range []struct {
		seqs []int64
		want bool
	}{
		{[]int64{7}, true},
		{[]int64{7, 8, 9}, true},
		{[]int64{7, 9}, false},
		{[]int64{7, 8, 10}, false},
		{[]int64{7, 6, 5}, false},
		{[]int64{7, 9, 8, 10}, false},
		{[]int64{7, 9, 9}, false},
		{nil, false},
	} {
		_, args := outbox.Deletion(box, c.seqs)
		if got := len(args) == 2; got != c.want {
			t.Errorf("%d: deleted as a range: %v, want %v", c.seqs, got, c.want)
		}
	}
}
