package archtest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the guide shows is the code of examples/migration, which tests compile and run.
func TestTheGuideShowsCodeThatRuns(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	guide, err := os.ReadFile(filepath.Join(root, "docs", "migrating-from-watermill.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "examples", "migration", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code.WriteString(unindented(string(text)))
	}
	blocks := regexp.MustCompile("(?s)```(\\w*)\n(.*?)```").FindAllStringSubmatch(string(guide), -1)
	if len(blocks) < 15 {
		t.Fatalf("the guide has %d blocks of code only", len(blocks))
	}
	for _, b := range blocks {
		if b[1] != "go" || !strings.Contains(code.String(), unindented(b[2])) {
			t.Errorf("no file of examples/migration has this:\n%s", b[2])
		}
	}
}

// unindented leaves indentation out: the guide shows parts of functions, too.
func unindented(s string) string { return regexp.MustCompile(`(?m)^[ \t]+`).ReplaceAllString(s, "") }
