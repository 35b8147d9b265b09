package host_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// sarama's metrics have one ticker for the whole program, which never ends.
const sharedTicker = "github.com/rcrowley/go-metrics.(*meterArbiter).tick"

// What a service that was killed has left behind ends by itself, on a busy machine later than goleak is ready to wait.
func TestMain(m *testing.M) {
	code := m.Run()
	deadline := time.Now().Add(20 * time.Second)
	err := goleak.Find(goleak.IgnoreAnyFunction(sharedTicker))
	for err != nil && time.Now().Before(deadline) {
		err = goleak.Find(goleak.IgnoreAnyFunction(sharedTicker))
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
