package loadgen

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Stats are the crowd's figures so far.
type Stats struct {
	Accepted int64 // purchases that were promised, each counted once
	Refused  int64 // purchases that the shop said no to, or that their buyers gave up
	Shed     int64 // answers 429: come back later
	Failed   int64 // requests that were refused a connection, timed out or got a 5xx
	Doubled  int64 // purchases that were sent twice at once
	Cancels  int64 // orders that their buyers cancelled
	Reads    int64 // looks at an order
	Buyers   int   // active now
	P50, P99 time.Duration
}

// meter counts. It is safe for concurrent use.
type meter struct {
	mu    sync.Mutex
	stats Stats
	hist  *hdrhistogram.Histogram
	sum   time.Duration // of accepts since the last call of recent
	n     int
}

func newMeter() *meter {
	return &meter{hist: hdrhistogram.New(1, time.Minute.Microseconds(), 3)}
}

func (m *meter) count(f func(*Stats)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.stats)
}

// took notes how long the shop took to accept an order.
func (m *meter) took(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.hist.RecordValue(min(d, time.Minute).Microseconds()) // in range
	m.sum += d
	m.n++
}

// recent returns the mean time to accept since the last call, and how many there were.
func (m *meter) recent() (time.Duration, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.n
	if n == 0 {
		return 0, 0
	}
	mean := m.sum / time.Duration(n)
	m.sum, m.n = 0, 0
	return mean, n
}

func (m *meter) read() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.P50 = time.Duration(m.hist.ValueAtQuantile(50)) * time.Microsecond
	s.P99 = time.Duration(m.hist.ValueAtQuantile(99)) * time.Microsecond
	return s
}
