package archtest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/surge-go/surge/"

// walls says what of ours a package may import, itself apart. A pattern that ends in /... covers what is below it.
// The first entry that matches a package counts, so the special stand before the general.
var walls = []struct {
	pkg string
	may []string
}{
	{"resilience/messaging", []string{"resilience"}},
	{"resilience/chaos", []string{"resilience"}},
	{"resilience", nil},

	{"outbox/uow", nil},
	{"outbox/uow/pgxpipe", []string{"outbox/uow"}},
	{"outbox/outboxtest", []string{"outbox", "outbox/uow"}},
	{"outbox/debezium", nil}, // plain SQL and JSON
	{"outbox/pglisten", []string{"outbox"}},
	{"outbox", []string{"outbox/uow"}},

	{"idempotency/idempotencytest", []string{"idempotency", "outbox/uow"}},
	{"idempotency/internal/testdb", []string{"idempotency", "outbox/uow"}}, // for tests
	{"idempotency/internal/...", []string{"outbox/uow"}},
	{"idempotency", []string{"outbox/uow", "idempotency/internal/..."}},

	{"cqrs/aggregate", nil},
	{"cqrs/query", []string{"cqrs"}},
	{"cqrs/kafkabus", []string{"cqrs"}},
	{"cqrs/localbus", []string{"cqrs"}},
	{"cqrs/projection", []string{"cqrs"}},
	{"cqrs/projection/projectiontest", []string{"cqrs", "cqrs/projection"}},
	{"cqrs/effect", []string{"cqrs"}},
	{"cqrs/effect/effecttest", []string{"cqrs", "cqrs/effect"}},
	{"cqrs/protocodec", []string{"cqrs"}},
	{"cqrs/cqrsotel", []string{"cqrs"}},
	{"cqrs/cqrstest", []string{"cqrs", "cqrs/aggregate"}},
	{"cqrs/gormstore", []string{"cqrs", "cqrs/aggregate", "cqrs/effect", "cqrs/projection", "outbox/uow"}},
	{"cqrs/host/...", []string{"cqrs/...", "outbox/...", "idempotency", "resilience/...", "saga/..."}},
	{"cqrs", nil},

	{"saga/sagatest", []string{"saga", "saga/internal/...", "cqrs", "outbox/uow"}},
	{"saga/operator", []string{"saga", "saga/internal/...", "cqrs", "outbox/uow"}},
	{"saga/internal/fulfil", []string{"cqrs", "saga"}}, // for tests
	{"saga/internal/...", []string{"cqrs", "outbox/uow", "saga/internal/..."}},
	{"saga", []string{"cqrs", "outbox/uow", "saga/internal/..."}},

	// A service's domain knows the DDD base and nothing else; its application layer knows no adapters.
	{"examples/order/domain", []string{"cqrs/aggregate"}},
	{"examples/inventory/domain", []string{"cqrs/aggregate"}},
	{"examples/payment/domain", []string{"cqrs/aggregate"}},
	{"examples/shipping/domain", []string{"cqrs/aggregate"}},
	{"examples/internal/judge", nil}, // shares no code with what it judges
	{"examples/...", []string{
		"examples/...", "cqrs/...", "outbox/...", "idempotency", "resilience/...", "saga/...",
	}},
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal("go list:", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var l listed
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

func matches(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == below || strings.HasPrefix(pkg, below+"/")
	}
	return pkg == pattern
}

// forbidden returns why from may not import to, or "".
func forbidden(from, to string) string {
	for _, w := range walls {
		if !matches(w.pkg, from) {
			continue
		}
		if from == to || slices.ContainsFunc(w.may, func(p string) bool { return matches(p, to) }) {
			return ""
		}
		return from + " may not import " + to
	}
	return from + " has no entry in the table of walls"
}

func TestWalls(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if why := forbidden(from, from); why != "" {
			t.Error(why)
		}
		for _, i := range p.Imports {
			if to, ours := strings.CutPrefix(i, module); ours {
				if why := forbidden(from, to); why != "" {
					t.Error(why)
				}
			}
		}
	}
}

// Who looks for a package finds it in docs/architecture.md, and finds there what is.
func TestArchitectureNamesThePackages(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Packages")
	table, _, _ = strings.Cut(table, "\n## ")
	there := map[string]bool{"examples": true}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "examples/") || strings.Contains(name, "/internal/") {
			continue
		}
		there[name] = true
		if !strings.Contains(table, "`"+name+"`") {
			t.Error("docs/architecture.md does not name", name)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(table, -1) {
		for name := range strings.SplitSeq(strings.ReplaceAll(m[1], "`", ""), ", ") {
			if !there[name] {
				t.Error("docs/architecture.md names", name)
			}
		}
	}
}

func TestWallsRefuse(t *testing.T) {
	t.Parallel()
	for _, edge := range [][2]string{
		{"cqrs", "outbox"},
		{"cqrs", "cqrs/gormstore"},
		{"outbox/uow", "outbox"},
		{"saga", "outbox"},
		{"resilience", "resilience/messaging"},
		{"examples/order/domain", "cqrs"},
		{"examples/internal/judge", "examples/order/domain"},
		{"outbox", "examples/contracts"},
		{"newpackage", "cqrs"},
	} {
		if forbidden(edge[0], edge[1]) == "" {
			t.Errorf("%s → %s was let through", edge[0], edge[1])
		}
	}
}

// The flash sale is what people build first: it must not pay for brokers and servers that it does not use.
func TestFlashSaleStaysLight(t *testing.T) {
	t.Parallel()
	heavy := []string{
		"github.com/IBM/sarama", "gorm.io/driver/postgres", "gorm.io/driver/mysql", "github.com/jackc/pgx",
		"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "github.com/ThreeDotsLabs/watermill-kafka",
	}
	for _, p := range list(t) {
		if p.ImportPath != module+"examples/flashsale" {
			continue
		}
		for _, d := range p.Deps {
			if slices.ContainsFunc(heavy, func(h string) bool { return strings.HasPrefix(d, h) }) {
				t.Error("examples/flashsale links", d)
			}
		}
		return
	}
	t.Error("there is no examples/flashsale")
}

// People who use resilience for HTTP do not compile Watermill, and nobody who uses cqrs compiles GORM or Kafka.
func TestLightCores(t *testing.T) {
	t.Parallel()
	banned := map[string][]string{
		"resilience": {"github.com/ThreeDotsLabs/", "gorm.io/"},
		"cqrs":       {"gorm.io/", "github.com/IBM/sarama"},
	}
	for _, p := range list(t) {
		for _, prefix := range banned[strings.TrimPrefix(p.ImportPath, module)] {
			for _, d := range p.Deps {
				if strings.HasPrefix(d, prefix) {
					t.Errorf("%s links %s", p.ImportPath, d)
				}
			}
		}
	}
}

func TestTopLevel(t *testing.T) {
	t.Parallel()
	allowed := []string{
		"cqrs", "saga", "outbox", "idempotency", "resilience", "examples", "docs",
		"go.mod", "go.sum", "README.md", "LICENSE",
	}
	entries, err := os.ReadDir(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("top level has %s", e.Name())
		}
	}
}
