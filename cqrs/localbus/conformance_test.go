package localbus_test

import (
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs/cqrstest"
	"github.com/surge-go/surge/cqrs/localbus"
)

func conforms(t *testing.T, cfg localbus.Config, claims cqrstest.BusClaims) {
	cqrstest.RunBus(t, func(t *testing.T, drain time.Duration) cqrstest.BusFixture {
		cfg := cfg // each fixture's own
		cfg.Drain, cfg.Attempts = drain, 1000
		bus := localbus.New(cfg)
		t.Cleanup(func() {
			if err := bus.Close(); err != nil {
				t.Error(err)
			}
		})
		return cqrstest.BusFixture{Bus: bus, Claims: claims}
	})
}

// Keeps is not claimed: a group that nobody has heard of gets nothing that was published before.
func TestConformance(t *testing.T) {
	t.Parallel()
	claims := cqrstest.BusClaims{Groups: true, Durable: true, Order: true, Drains: true, Window: 1024}
	conforms(t, localbus.Config{}, claims)
}

func TestConformanceWithAWindowOfOne(t *testing.T) {
	t.Parallel()
	claims := cqrstest.BusClaims{Groups: true, Durable: true, Order: true, Drains: true}
	conforms(t, localbus.Config{Window: 1, Partitions: 3}, claims)
}
