package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrongUsageIsOneClearLine(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("TMP", temporary) // on Windows
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	held := t.TempDir()
	unlock, err := lock(t.Context(), held)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unlock() }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for want, args := range map[string][]string{
		"-bogus":                     {"-bogus"},
		"unexpected argument":        {"now"},
		"-duration is 1s":            {"-duration", "1s"},
		"stock, outbox and idempote": {"-unsafe", "everything"},
		"-data":                      {"-data", filepath.Join(file, "below")},
		"as parts of a URI":          {"-data", filepath.Join(t.TempDir(), "50%20off")},
		"is in use":                  {"-data", held, "-duration", "2s"},
		"-cpuprofile":                {"-cpuprofile", filepath.Join(file, "below"), "-duration", "2s"},
		"address already in use":     {"-addr", l.Addr().String(), "-duration", "2s"},
	} {
		var stdout, stderr bytes.Buffer
		code := program(append(args, "-once"), noEnv, &stdout, &stderr)
		if stdout.Len() > 0 {
			t.Errorf("%v: it opened the shop: %s", args, &stdout)
		}
		if code != 2 || !strings.Contains(stderr.String(), want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%v: exit code %d, %q", args, code, &stderr)
		}
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	var stderr bytes.Buffer
	if code := program(nil, func(string) string { return "many" }, &bytes.Buffer{}, &stderr); code != 2 {
		t.Errorf("SURGE_BATCH=many: exit code %d, %q", code, &stderr)
	}
	code := program([]string{"-h"}, noEnv, &bytes.Buffer{}, &stderr)
	if code != 0 || !strings.Contains(stderr.String(), "-unsafe") {
		t.Errorf("-h: exit code %d, %q", code, &stderr)
	}
}

func TestFolderIsFreeAgainAfterwards(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		unlock, err := lock(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock(t.Context(), dir); err == nil {
			t.Error("two hold it")
		}
		if err := unlock(); err != nil {
			t.Fatal(err)
		}
	}
}
