package idempotency_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/idempotency/internal/testdb"
)

// BenchmarkForCommands is one accepted order a request, 64 at once: with a key, without, and as a replay.
// parts/commit is how many requests shared a commit.
func BenchmarkForCommands(b *testing.B) {
	for _, d := range testdb.Dialects {
		for _, mode := range []string{"keyed", "unkeyed", "replayed"} {
			b.Run(d+"/"+mode, func(b *testing.B) {
				bn := newBench(b, d, 0)
				var n atomic.Int64
				var run atomic.Int64
				raw := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					id := fmt.Sprint("o-", run.Add(1))
					o, err := execute(r.Context(), bn, func(ctx context.Context) (string, error) { return id, place(ctx, id) })
					if err != nil {
						b.Error(err)
					}
					_, _ = fmt.Fprint(w, o.Order)
				})
				h := http.Handler(raw)
				if mode != "unkeyed" {
					h = idempotency.ForCommands(bn.store, scopeOf, idempotency.MiddlewareConfig{Wait: 10e9})(raw)
				}
				if mode == "replayed" {
					serve(h, request("k", "/", "{}"))
				}
				before := bn.work.Stats()
				b.SetParallelism(32)
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						key := "k"
						if mode == "keyed" {
							key = fmt.Sprint("k-", n.Add(1))
						}
						serve(h, request(key, "/", "{}"))
					}
				})
				after := bn.work.Stats()
				b.ReportMetric(float64(after.Parts-before.Parts)/float64(after.Commits-before.Commits), "parts/commit")
				b.ReportMetric(float64(after.Restarts-before.Restarts)/float64(b.N), "restarts/op")
			})
		}
	}
}
