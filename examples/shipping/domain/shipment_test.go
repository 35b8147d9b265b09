package domain_test

import (
	"errors"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/shipping/domain"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func TestPrepareCountsParcelsAndRefuses(t *testing.T) {
	t.Parallel()
	for units, parcels := range map[int]int{1: 1, 10: 1, 11: 2, domain.MaxUnits: domain.MaxUnits / 10} {
		s, err := domain.Prepare("o-1", "ann", units)
		if err != nil || s.Snapshot().Parcels != parcels {
			t.Errorf("%d units: %+v, %v", units, s, err)
		}
	}
	for _, units := range []int{0, -1, domain.MaxUnits + 1} {
		if _, err := domain.Prepare("o-1", "ann", units); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%d units: %v", units, err)
		}
	}
	if _, err := domain.Prepare("o-1", "", 1); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("no customer: %v", err)
	}
}

func TestCancelledIsNotDispatched(t *testing.T) {
	t.Parallel()
	s, _ := domain.Prepare("o-1", "ann", 1)
	s.Cancel()
	if err := s.Dispatch(noon); !errors.Is(err, domain.ErrWrongState) || s.Status() != domain.Cancelled {
		t.Fatalf("%s, %v", s.Status(), err)
	}
}

// However commands repeat and mix: a parcel leaves once at most, and what is stopped stays stopped.
func TestShipmentStateMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, err := domain.Prepare("o-1", "ann", 3)
		if err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"dispatch": func(*rapid.T) { _ = s.Dispatch(noon) },
			"cancel":   func(*rapid.T) { s.Cancel() },
			"": func(t *rapid.T) {
				var left, stopped int
				for _, e := range s.Recorded() {
					switch e.(type) {
					case domain.ShipmentDispatched:
						left++
					case domain.ShipmentCancelled:
						stopped++
					}
				}
				back := s.Status() == domain.Cancelled || s.Status() == domain.Returned
				gone := s.Status() == domain.Dispatched || s.Status() == domain.Returned
				if left > 1 || stopped > 1 || back != (stopped == 1) || gone != (left == 1) {
					t.Fatalf("%s: left %d, stopped %d", s.Status(), left, stopped)
				}
			},
		})
	})
}
