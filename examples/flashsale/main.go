package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the heap is small and short-lived: collecting it less often saves a tenth of the CPU
	}
	os.Exit(program(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// program runs the command and returns its exit code. The first interrupt ends it cleanly with a verdict, the
// second at once.
func program(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := parse(args, getenv, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return fail(stderr, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from then on a signal does what it usually does
	r, err := run(ctx, o, stdout, stderr)
	if err != nil {
		return fail(stderr, err)
	}
	if !r.OK {
		return 1
	}
	return 0
}

func fail(stderr io.Writer, err error) int {
	_, _ = fmt.Fprintln(stderr, "flashsale:", err)
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}
