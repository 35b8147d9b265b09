package main

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// asProgram makes this test binary the program itself, for tests that kill it.
const asProgram = "FLASHSALE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(program(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}
