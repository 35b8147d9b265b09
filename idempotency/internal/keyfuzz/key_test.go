// Package keyfuzz fuzzes the parser of keys. It is a package of its own because fuzzing recompiles all that a test
// imports, and the other tests import databases.
package keyfuzz

import (
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/surge-go/surge/idempotency"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What is accepted has 1 to 255 visible characters or spaces, and its quoted form is the same key.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"k", `"k"`, `"a \" b"`, `"\\"`, "a,b", "", `"`, "ä", strings.Repeat("x", 256)} {
		f.Add(s)
	}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	f.Fuzz(func(t *testing.T, header string) {
		id, err := idempotency.ParseKey(header)
		if err != nil {
			if !errors.Is(err, idempotency.ErrKey) || id != "" {
				t.Errorf("%q: %q, %v", header, id, err)
			}
			return
		}
		strange := func(r rune) bool { return r < ' ' || r > '~' }
		if id == "" || len(id) > idempotency.MaxKeyPart || strings.ContainsFunc(id, strange) {
			t.Errorf("%q was read as %q", header, id)
		}
		if again, err := idempotency.ParseKey(`"` + quote.Replace(id) + `"`); err != nil || again != id {
			t.Errorf("%q quoted is %q, %v", id, again, err)
		}
	})
}
