package cqrs_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

type place struct {
	cqrs.Returns[receipt]
	Order, SKU string
	Fail       string
}
type (
	receipt struct{ Order string }
	note    struct{ Order, Text string }
	placed  struct{ Order string }
	shipped struct{ Order string }
)

func catalog(more ...cqrs.Type) *cqrs.Catalog {
	return cqrs.NewCatalog(append([]cqrs.Type{
		cqrs.Command[place]{Name: "shop.place", Key: func(c place) string { return c.Order }, Validate: validPlace},
		cqrs.Command[note]{Name: "shop.note", Key: func(n note) string { return n.Order }},
		cqrs.Event[placed]{Name: "shop.placed", Key: func(e placed) string { return e.Order }},
		cqrs.Event[shipped]{Name: "shop.shipped", Version: 2, Key: func(e shipped) string { return e.Order }},
	}, more...)...)
}

func validPlace(c place) error {
	if c.SKU == "nothing" {
		return errors.New("no such SKU")
	}
	return nil
}

// msg makes a message as it comes from a bus.
func msg(id, name, key, payload string, headers ...string) *message.Message {
	m := message.NewMessage(id, []byte(payload))
	m.Metadata[cqrs.HeaderType] = name
	m.Metadata[cqrs.HeaderKey] = key
	m.Metadata[cqrs.HeaderVersion] = "1"
	m.Metadata[cqrs.HeaderKind] = "command"
	for i := 0; i+1 < len(headers); i += 2 {
		m.Metadata[headers[i]] = headers[i+1]
	}
	return m
}

func placeMsg(id, order, sku string, headers ...string) *message.Message {
	return msg(id, "shop.place", order, fmt.Sprintf(`{"Order":%q,"SKU":%q}`, order, sku), headers...)
}

func noteMsg(id, order, text string) *message.Message {
	return msg(id, "shop.note", order, fmt.Sprintf(`{"Order":%q,"Text":%q}`, order, text))
}

func acked(t *testing.T, m *message.Message) bool {
	t.Helper()
	select {
	case <-m.Acked():
		return true
	default:
		return false
	}
}

func nacked(m *message.Message) bool {
	select {
	case <-m.Nacked():
		return true
	default:
		return false
	}
}
