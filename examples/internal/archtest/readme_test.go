package archtest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What README shows is the program that a test compiles and runs.
func TestReadmeShowsTheQuickStart(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile(filepath.Join("..", "..", "quickstart", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(readme(t), "```go\n"+strings.TrimSpace(string(program))+"\n```") {
		t.Error("README's quick start is not examples/quickstart/main.go")
	}
	if lines := strings.Count(string(program), "\n"); lines > 70 {
		t.Errorf("the quick start has %d lines: it is to be taken in at a glance", lines)
	}
}

func TestReadmeLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(
		`\]\(((?:docs|examples|cqrs|outbox|saga|idempotency|resilience|LICENSE)[^)#]*)\)`)
	for _, m := range link.FindAllStringSubmatch(readme(t), -1) {
		if _, err := os.Stat(filepath.Join("..", "..", "..", m[1])); err != nil {
			t.Error(err)
		}
	}
}
