package contracts_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/contracts"
)

func TestCatalogIsSound(t *testing.T) {
	t.Parallel()
	if err := contracts.Catalog().Validate(); err != nil {
		t.Fatal(err)
	}
}

// Order is kept per key, so every message of every service must find its order's ID there; and the name of a
// topic must follow from its owner.
func TestEveryMessageIsKeyedByItsOrder(t *testing.T) {
	t.Parallel()
	c := contracts.Catalog()
	for _, info := range c.Types() {
		m := reflect.New(info.Go)
		m.Elem().FieldByName("OrderID").SetString("o-1")
		if key := c.KeyOf(m.Elem().Interface()); key != "o-1" {
			t.Errorf("%s has key %q", info.Name, key)
		}
		owner, _, _ := strings.Cut(info.Name, ".")
		suffix := ".commands"
		if info.Kind == cqrs.KindEvent {
			suffix = ".events"
		}
		if info.Topic != owner+suffix {
			t.Errorf("%s goes to %s", info.Name, info.Topic)
		}
		if b, err := json.Marshal(m.Interface()); err != nil || strings.Contains(string(b), "Returns") {
			t.Errorf("%s on the wire: %s, %v", info.Name, b, err)
		}
	}
}
