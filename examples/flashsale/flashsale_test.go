package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func noEnv(string) string { return "" }

// sale runs the program to its end and returns its exit code and what it printed.
func sale(t *testing.T, args ...string) (code int, r result, people string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = program(append([]string{"-once", "-json"}, args...), noEnv, &stdout, &stderr)
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Fatalf("exit code %d, no JSON on the last line: %v\n%s%s", code, err, &stdout, &stderr)
	}
	return code, r, stderr.String()
}

// The sales run one after the other: each takes the whole machine.

func TestEveryPromiseIsKept(t *testing.T) {
	code, r, people := sale(t, "-duration", "3s")
	if code != 0 || !r.OK || r.Confirmed == 0 || r.Placed != r.Confirmed+r.Rejected+r.Cancelled || r.P50 <= 0 {
		t.Fatalf("exit code %d: %+v\n%s", code, r, people)
	}
	if r.Mode != "safe" || r.Duration <= 0 {
		t.Errorf("%+v", r)
	}
}

// Each protection that is taken away must show what it was for. How much happens in a short sale depends on the
// machine, so a sale without damage is tried again, longer.
func TestUnsafeShowsItsDamage(t *testing.T) {
	for name, damage := range map[string]func(result) int{
		"stock":       func(r result) int { return r.Oversold },
		"outbox":      func(r result) int { return r.Lost },
		"idempotency": func(r result) int { return r.ChargedTwice },
	} {
		t.Run(name, func(t *testing.T) {
			for _, duration := range []string{"3s", "8s", "20s"} {
				code, r, people := sale(t, "-unsafe", name, "-duration", duration)
				if (code == 0) != r.OK || r.Mode != "unsafe="+name {
					t.Fatalf("exit code %d: %+v\n%s", code, r, people)
				}
				if damage(r) > 0 {
					return
				}
			}
			t.Fatal("no damage")
		})
	}
}

// start runs the test binary as the program, so that it can be killed.
func start(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out := &bytes.Buffer{}
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// orders returns the orders in the journal, which is there once a buyer came. A buyer who double-clicks is promised
// one twice.
func orders(t *testing.T, dir string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "buyers.journal"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	distinct := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(line, "\t"); len(f) == 3 {
			distinct[f[1]] = true
		}
	}
	return distinct
}

// promised waits until buyers were promised n more orders than before.
func promised(t *testing.T, dir string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for want := len(orders(t, dir)) + n; len(orders(t, dir)) < want; {
		select {
		case <-ctx.Done():
			t.Fatal("nobody buys")
		case <-tick.C:
		}
	}
}

func TestKilledAndRunAgainItGoesOn(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		cmd, _ := start(t, "-data", dir, "-duration", "1m")
		promised(t, dir, 50)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("it was not killed")
		}
	}
	before := len(orders(t, dir))
	code, r, people := sale(t, "-data", dir, "-duration", "2s")
	if code != 0 || !r.OK || r.Placed < before || before < 100 {
		t.Fatalf("exit code %d: %+v\n%s", code, r, people)
	}
}

func TestInterruptGivesTheVerdictSoFar(t *testing.T) {
	dir := t.TempDir()
	cmd, out := start(t, "-data", dir, "-duration", "1m", "-json")
	promised(t, dir, 20)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || !r.OK || r.Placed < 20 {
		t.Fatalf("%+v, %v\n%s", r, err, out)
	}
}
