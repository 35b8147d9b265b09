package archtest_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every rule of docs/correctness.md has a test that is named after it, and no test is named after a rule that is not
// there.
func TestEveryRuleHasATest(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "correctness.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`(?m)^([0-9]+)\. `).FindAllStringSubmatch(string(text), -1)
	for i, m := range rules {
		if m[1] != strconv.Itoa(i+1) {
			t.Fatalf("rule %d is numbered %s", i+1, m[1])
		}
	}
	proved := map[string]bool{}
	test := regexp.MustCompile(`(?m)^func Test(Rule[0-9]+_?)`)
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, m := range test.FindAllStringSubmatch(string(code), -1) {
			proved[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rules {
		name := fmt.Sprintf("Rule%02d_", i+1)
		if !proved[name] {
			t.Errorf("no test is called Test%s…", name)
		}
		delete(proved, name)
	}
	for name := range proved {
		t.Errorf("tests are called Test%s, and there is no such rule", name)
	}
}
