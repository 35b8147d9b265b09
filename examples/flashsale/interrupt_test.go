package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func optionsOf(t *testing.T, args ...string) options {
	t.Helper()
	o, err := parse(args, noEnv, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// A service that is down when the interrupt comes is opened all the same: there is no verdict without it.
func TestInterruptDuringARestartIsNoError(t *testing.T) {
	o := optionsOf(t, "-duration", "2s", "-once", "-data", t.TempDir())
	s, err := openShop(t.Context(), o, o.data, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	_, err = play(ctx, s, o.duration, func(what string) {
		if strings.Contains(what, "the order service is back") {
			interrupt()
		}
	})
	if err != nil {
		t.Errorf("no verdict: %v", err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func TestInterruptBeforeTheSaleGivesAVerdict(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	o := optionsOf(t, "-duration", "2s", "-once", "-data", t.TempDir())
	if r, err := run(ctx, o, io.Discard, io.Discard); err != nil || !r.OK {
		t.Errorf("%+v, %v", r, err)
	}
}
