package cqrs_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/surge-go/surge/cqrs"
)

// A batch handler that sorts its items, as one that takes locks in one order does, answers each caller with its own result.
func TestABatchHandlerMaySortItsItems(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		sizes := 0
		cqrs.HandleBatch(s.p, func(_ context.Context, items []*cqrs.Item[place, receipt]) error {
			slices.Reverse(items)
			sizes = max(sizes, len(items))
			for _, it := range items {
				it.Reply(receipt{it.Message.Order})
			}
			return nil
		})
		s.oneBatch("shop.commands",
			placeMsg("1", "a", "x", cqrs.HeaderReplyTo, reply), placeMsg("2", "b", "x", cqrs.HeaderReplyTo, reply),
			placeMsg("3", "c", "x", cqrs.HeaderReplyTo, reply), placeMsg("4", "d", "x", cqrs.HeaderReplyTo, reply))
		if sizes < 2 {
			t.Skip("no batch")
		}
		for _, m := range b.sentTo(reply) {
			t.Logf("%v %s", m.Metadata, m.Payload)
		}
		want := map[string]string{"1": "a", "2": "b", "3": "c", "4": "d"}
		for _, m := range b.sentTo(reply) {
			id := m.Metadata["ce_causationid"]
			if w := want[id]; w != "" && string(m.Payload) != `{"Order":"`+w+`"}` {
				t.Errorf("command %s is answered with %s", id, m.Payload)
			}
		}
	})
}
