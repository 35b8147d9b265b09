package benchmarks_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// A cost is the processor time that this process and the database's connections have used. On a busy machine it says
// more than a rate: it hardly moves with what else runs.
type cost struct {
	here  time.Duration
	there map[int]time.Duration // by process
}

// cost reads the clocks; on anything but Linux, with a PostgreSQL server on the same machine, there is 0.
func (d *database) cost(b *testing.B) cost {
	b.Helper()
	var r syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	c := cost{here: time.Duration(r.Utime.Nano() + r.Stime.Nano()), there: map[int]time.Duration{}}
	if d.Name() != "postgres" {
		return c
	}
	var pids []int
	must(b, d.Raw("SELECT pid FROM pg_stat_activity WHERE application_name = ?", d.schema).Scan(&pids).Error)
	for _, pid := range pids {
		var ns int64
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(stat), &ns); err == nil {
			c.there[pid] = time.Duration(ns)
		}
	}
	return c
}

// since reports what n operations have cost since then.
func (d *database) since(b *testing.B, then cost, n int) {
	b.Helper()
	now := d.cost(b)
	b.ReportMetric(float64(now.here-then.here)/1e3/float64(n), "go-µs/op")
	if d.Name() != "postgres" {
		return
	}
	var there time.Duration
	for pid, spent := range now.there {
		there += spent - then.there[pid]
	}
	b.ReportMetric(float64(there)/1e3/float64(n), "pg-µs/op")
}
