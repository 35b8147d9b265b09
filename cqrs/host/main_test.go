package host_test

import (
	"testing"

	"go.uber.org/goleak"
)

// sarama's metrics have one ticker for the whole program, which never ends.
const sharedTicker = "github.com/rcrowley/go-metrics.(*meterArbiter).tick"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(sharedTicker)) }
