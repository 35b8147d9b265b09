package kafkabus_test

import (
	"testing"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// A message with the whole envelope costs a few allocations either way, not two per header.
func TestMarshalerAllocations(t *testing.T) {
	msg := benchMessages(1)[0]
	m := kafkabus.Marshaler{}
	rec, err := m.Marshal("t", msg)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = m.Marshal("t", msg) }); n > 5 {
		t.Errorf("Marshal allocates %v times", n)
	}
	in := received(t, rec)
	if n := testing.AllocsPerRun(100, func() { _, _ = m.Unmarshal(in) }); n > 10 {
		t.Errorf("Unmarshal allocates %v times", n)
	}
}
