package cqrs_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

func TestRegistrationFaultsAreReportedTogether(t *testing.T) {
	t.Parallel()
	s := newService(t, newDB(), catalog(), cqrs.ProcessorConfig{})
	answer := func(context.Context, place) (receipt, error) { return receipt{}, nil }
	cqrs.Handle(s.p, answer)
	cqrs.Handle(s.p, answer)
	cqrs.On(s.p, func(context.Context, struct{}) error { return nil })
	cqrs.On(s.p, func(context.Context, note) error { return nil })
	cqrs.On(s.p, func(context.Context, note) error { return nil })
	cqrs.On(s.p, func(context.Context, placed) error { return nil })
	cqrs.On(s.p, func(context.Context, placed) error { return nil }) // events may have many
	s.p.Consume(func(context.Context, []*cqrs.Delivery) error { return nil }, cqrs.FromTypes("no.such"))
	cqrs.On[shipped](s.p, nil)
	cqrs.HandleBatch[other, int](s.p, nil)
	s.p.Consume(nil, cqrs.FromTopic(""))
	err := s.p.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		"two handlers of command cqrs_test.place", "handler of struct {}", "two handlers of command cqrs_test.note",
		`consumer of "no.such"`, "handler of cqrs_test.shipped is nil", "handler of cqrs_test.other is nil",
		"a consumer without function", "consumer of a topic without name",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("fault %q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "placed") {
		t.Errorf("two handlers of an event are no fault:\n%v", err)
	}
	if run := s.p.Run(t.Context()); run == nil || run.Error() != err.Error() {
		t.Errorf("Run = %v", run)
	}
}

// A consumer sees a message once, however many of its sources the message is from.
func TestAConsumerOfOverlappingSourcesSeesAMessageOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		s.p.Consume(func(ctx context.Context, ds []*cqrs.Delivery) error {
			b.add(ctx, "seen", len(ds))
			return nil
		}, cqrs.FromTypes("shop.placed", "shop.placed"), cqrs.FromTopic("shop.events"), cqrs.FromTypes("shop.placed"))
		s.run()
		synctest.Wait()
		s.deliver("shop.events", msg("1", "shop.placed", "a", `{}`))
		synctest.Wait()
		if n := b.row("seen"); n != 1 {
			t.Errorf("seen %d times", n)
		}
	})
}

// A fault of registration is for Run and Validate to report, not for Topics to panic at.
func TestTopicsLeaveOutWhatIsNotInTheCatalog(t *testing.T) {
	t.Parallel()
	s := newService(t, newDB(), catalog(), cqrs.ProcessorConfig{})
	s.p.Consume(func(context.Context, []*cqrs.Delivery) error { return nil }, cqrs.FromTypes("no.such", "shop.placed"))
	if got := s.p.Topics(); !slices.Equal(got, []string{"shop.events"}) {
		t.Errorf("topics %v", got)
	}
}

func TestProcessorConfigNamesTheFieldAndTheLimit(t *testing.T) {
	t.Parallel()
	b := newDB()
	for want, cfg := range map[string]cqrs.ProcessorConfig{
		"Lanes is -1":           {Lanes: -1},
		"Lanes is 1001":         {Lanes: 1001},
		"MaxBatch is 10001":     {MaxBatch: 10001},
		"MaxBatch is -1":        {MaxBatch: -1},
		"Linger is -1s":         {Linger: -time.Second},
		"Poll is -1s":           {Poll: -time.Second},
		"MaxAge is 2s":          {MaxAge: 2 * time.Second, Inbox: remembers{b, time.Second, true}, UnitOfWork: b},
		"Crashes needs":         {Crashes: crashes{b}},
		"Retry.Attempts is -1":  {Retry: cqrs.Retry{Attempts: -1}},
		"Retry.Min is -1s":      {Retry: cqrs.Retry{Min: -time.Second}},
		"Retry.Max is 1s":       {Retry: cqrs.Retry{Min: time.Minute, Max: time.Second}},
		"Inbox needs":           {Inbox: b},
		"Parking needs":         {Parking: parking{b}},
		"DeadLetters needs":     {DeadLetters: letters{b}},
		"Locker needs UnitOfWo": {Locker: lockerFunc(nil)},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if err := (cqrs.ProcessorConfig{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
}
