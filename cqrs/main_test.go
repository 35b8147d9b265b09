package cqrs_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(crashFile); file != "" {
		os.Exit(die(file)) // see TestRule06_AMessageThatKillsTheProcessBecomesADeadLetter
	}
	goleak.VerifyTestMain(m)
}
