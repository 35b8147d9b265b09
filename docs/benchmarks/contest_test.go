package benchmarks_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A contender does its share of work once, prepared and checked outside the clock.
type contender struct {
	name string
	// side is what the contender stands for in ratios; "" means its name. Contenders of one side are settings of
	// the same thing: the fastest counts.
	side string
	// against names the sides that this one is compared with; nil means all for the first
	// contender and none for the others.
	against []string
	// round does the work and returns how much it was and how long it took. It fails b if anything is missing.
	round func(b *testing.B) (done int, took time.Duration)
}

func (c contender) of() string {
	if c.side != "" {
		return c.side
	}
	return c.name
}

// contest measures each contender in a sub-benchmark of its name, and all of them in turns in the sub-benchmark
// "ratio", which reports the quotients of their sides' rates. One iteration is one round.
func contest(b *testing.B, unit string, contenders ...contender) {
	b.Helper()
	for _, c := range contenders {
		b.Run(c.name, func(b *testing.B) {
			done, spent := 0, time.Duration(0)
			for range b.N {
				n, took := c.round(b)
				done, spent = done+n, spent+took
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(done)/spent.Seconds(), unit)
		})
	}
	b.Run("ratio", func(b *testing.B) {
		rates := map[string][]float64{}
		for i := range b.N {
			turn := slices.Clone(contenders)
			if i%2 == 1 {
				slices.Reverse(turn)
			}
			for _, c := range turn {
				n, took := c.round(b)
				rates[c.name] = append(rates[c.name], float64(n)/took.Seconds())
			}
		}
		b.ResetTimer() // forgets what the last contender reported
		b.ReportMetric(0, "ns/op")
		reportRatios(b, contenders, rates)
	})
}

// reportRatios compares the best settings of two sides: the median over all rounds of the quotient of two
// rates that were measured in the same round, so that what disturbs a round disturbs both.
func reportRatios(b *testing.B, contenders []contender, rates map[string][]float64) {
	b.Helper()
	best := map[string]string{}
	for _, c := range contenders {
		old, ok := best[c.of()]
		if !ok || median(rates[c.name]) > median(rates[old]) {
			best[c.of()] = c.name
		}
	}
	if contenders[0].against == nil {
		contenders[0].against = slices.Sorted(maps.Keys(best))
	}
	for _, c := range contenders {
		for _, side := range c.against {
			if side == c.of() {
				continue
			}
			quotients := make([]float64, b.N)
			for i := range quotients {
				quotients[i] = rates[best[c.of()]][i] / rates[best[side]][i]
			}
			b.ReportMetric(median(quotients), "ratio:"+c.of()+"/"+side)
		}
	}
	all := make([]string, len(contenders))
	for i, c := range contenders {
		all[i] = fmt.Sprintf("%s %.0f/s", c.name, median(rates[c.name]))
	}
	b.Log(strings.Join(all, ", ")) // on one line: of a benchmark's log only the first ten are printed
}

func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// scaled multiplies the size of a round by SURGE_BENCH_SIZE, which is 1 when it is not set.
func scaled(b *testing.B, n int) int {
	b.Helper()
	v := os.Getenv("SURGE_BENCH_SIZE")
	if v == "" {
		return n
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f <= 0 {
		b.Fatalf("SURGE_BENCH_SIZE is %q, want a positive number", v)
	}
	return max(int(f*float64(n)), 1)
}

// crowd lets goroutines share the numbers from 0 to n-1 and returns how long they took.
func crowd(b *testing.B, goroutines, n int, do func(i int) error) time.Duration {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range goroutines {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	if b.Failed() {
		b.FailNow()
	}
	return took
}

// must fails b when there is an error.
func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// need returns the value of an environment variable that names a server.
func need(b *testing.B, variable string) string {
	b.Helper()
	v := os.Getenv(variable)
	if v == "" {
		b.Skipf("%s is not set", variable)
	}
	return v
}

// id makes the identifier of a message, 36 characters long.
func id(i int) string { return fmt.Sprintf("0198c0de-0000-7000-8000-%012d", i) }
