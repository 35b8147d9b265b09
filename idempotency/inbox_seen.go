package idempotency

import (
	"context"
	"fmt"
)

// Seen reports which of ids group has claimed, in the order of ids, and claims nothing. It does not wait for
// claims that have not committed. Outside a transaction it returns uow.ErrNoTransaction.
func (i *Inbox) Seen(ctx context.Context, group string, ids []string) ([]bool, error) {
	sorted, err := distinct(group, ids)
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(sorted))
	err = inChunks(sorted, func(chunk []string) error {
		q := statementIn(ctx).add("SELECT message FROM idempotency_inbox WHERE consumer = ? AND message", group)
		got, err := q.among(chunk).strings(ctx)
		for _, id := range got {
			known[id] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("idempotency: inbox: %w", err)
	}
	seen := make([]bool, len(ids))
	for n, id := range ids {
		seen[n] = known[id]
	}
	return seen, nil
}
