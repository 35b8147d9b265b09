package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host/hosttest"
	"go.uber.org/goleak"
	"gorm.io/gorm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The whole service, on a database in memory.
func TestPlaceOrder(t *testing.T) {
	t.Parallel()
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	})
	if err := db.AutoMigrate(&Order{}); err != nil {
		t.Fatal(err)
	}
	svc := hosttest.Open(t, db, messages)
	register(svc.Service)

	id, err := cqrs.Execute(t.Context(), svc.Processor, PlaceOrder{SKU: "hat"})
	if err != nil || id == "" {
		t.Fatalf("Execute = %q, %v", id, err)
	}
	svc.Settle()
	if got := hosttest.Sent[OrderPlaced](svc); len(got) != 1 || got[0].ID != id {
		t.Errorf("events = %v", got)
	}
}

// The program itself: it places an order, hears of it, and ends well when it is interrupted.
func TestProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "quickstart")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // prints where it hangs
	heard := &untilHeard{interrupt: func() { _ = cmd.Process.Signal(os.Interrupt) }}
	cmd.Stderr = heard
	if err := cmd.Run(); err != nil || !strings.Contains(heard.String(), "placed ") {
		t.Fatalf("the program ended with %v and printed %q", err, heard.String())
	}
}

// untilHeard interrupts the program once it has printed its line.
type untilHeard struct {
	printed   bytes.Buffer
	interrupt func()
}

func (u *untilHeard) String() string { return u.printed.String() }

func (u *untilHeard) Write(p []byte) (int, error) {
	n, err := u.printed.Write(p)
	if strings.Contains(u.String(), "placed ") {
		u.interrupt()
	}
	return n, err
}
