package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"go.uber.org/goleak"
	"gorm.io/gorm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnEventFindsItsHandlerWithoutHost(t *testing.T) {
	t.Parallel()
	db, err := gorm.Open(sqlite.Open(filepath.Join(t.TempDir(), "greetings.db")), &gorm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	})
	s, err := open(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1)
	register(s.processor, s.sender, func(name string) { heard <- name })
	answer, err := cqrs.Execute(t.Context(), s.processor, Greet{Name: "Ada"})
	if err != nil || answer != "hello Ada" {
		t.Fatalf("Execute = %q, %v", answer, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	select {
	case name := <-heard:
		if name != "Ada" {
			t.Errorf("heard of %q", name)
		}
	case <-ctx.Done():
		t.Error("nobody heard")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
