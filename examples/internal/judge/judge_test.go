package judge_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/internal/judge"
)

// The judge shares no code with the services, so the tests spell out the tables it relies on.
var schemas = map[string]string{
	"order": `CREATE TABLE orders (id TEXT PRIMARY KEY, status TEXT, total INTEGER, cancel_requested INTEGER,
		closed_at INTEGER)`,
	"shipping": `CREATE TABLE saga_instances (type TEXT, saga_key TEXT, status TEXT)`,
	"bank": `CREATE TABLE ledger (seq INTEGER PRIMARY KEY, operation TEXT, reference TEXT, amount INTEGER,
		refused TEXT DEFAULT '')`,
	"inventory": `CREATE TABLE products (sku TEXT PRIMARY KEY, seeded INTEGER, free INTEGER);
		CREATE TABLE reservations (order_id TEXT, sku TEXT, quantity INTEGER, status TEXT)`,
}

// A shop in which everything is right: two orders confirmed, one rejected, one cancelled and refunded.
var sound = map[string]string{
	"order": `INSERT INTO orders VALUES ('a','confirmed',100,0,1000000), ('b','confirmed',50,0,2000000),
		('c','rejected',10,0,3000000), ('d','cancelled',30,1,4000000)`,
	"shipping": `INSERT INTO saga_instances VALUES ('fulfil-order','a','completed'), ('fulfil-order','b','completed'),
		('fulfil-order','c','compensated'), ('fulfil-order','d','cancelled')`,
	"bank": `INSERT INTO ledger (operation, reference, amount) VALUES ('authorize','a',100), ('capture','a',100),
		('capture','b',50), ('authorize','c',10), ('void','c',10), ('capture','d',30), ('refund','d',30)`,
	"inventory": `INSERT INTO products VALUES ('hat',10,7), ('cap',5,5);
		INSERT INTO reservations VALUES ('a','hat',2,'committed'), ('b','hat',1,'held'), ('d','cap',1,'released')`,
	"journal": "k-a\ta\t202\nk-a\ta\t202\nk-b\tb\t202\nk-c\tc\t202\nk-d\td\t202\n",
}

func folder(t *testing.T, damage map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, schema := range schemas {
		db, err := sql.Open("sqlite", filepath.Join(dir, name+".db"))
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{schema, sound[name], damage[name]} {
			if _, err := db.ExecContext(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	journal := []byte(sound["journal"] + damage["journal"])
	if err := os.WriteFile(filepath.Join(dir, "buyers.journal"), journal, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func verdict(t *testing.T, damage map[string]string) *judge.Verdict {
	t.Helper()
	v, err := judge.Judge(t.Context(), folder(t, damage))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSoundShopIsOK(t *testing.T) {
	t.Parallel()
	v := verdict(t, nil)
	if !v.OK() || len(v.Faults) != 0 || v.Placed != 4 || v.Confirmed != 2 || v.Rejected != 1 || v.Cancelled != 1 {
		t.Fatalf("%+v", v)
	}
	if n := v.Fulfilled(time.UnixMicro(1000000), time.UnixMicro(2000000)); n != 1 {
		t.Errorf("%d fulfilled in the first second", n)
	}
}

// entry adds a row to the bank's ledger.
func entry(values string) string {
	return "INSERT INTO ledger (operation, reference, amount) VALUES (" + values + ")"
}

// Each damage alone must be seen, and counted where it belongs.
func TestEachDamageIsSeen(t *testing.T) {
	t.Parallel()
	lost := func(v *judge.Verdict) int { return v.Lost }
	stuck := func(v *judge.Verdict) int { return v.Stuck }
	oversold := func(v *judge.Verdict) int { return v.Oversold }
	charged := func(v *judge.Verdict) int { return v.ChargedTwice }
	unaccounted := func(v *judge.Verdict) int { return v.Unaccounted }
	for _, c := range []struct {
		name, file, damage string
		count              func(*judge.Verdict) int
		want               int
	}{
		{"promised, not there", "journal", "k-x\tx\t202\nk-x\tx\t202\n", lost, 1},
		{"no saga", "shipping", `DELETE FROM saga_instances WHERE saga_key = 'a'`, lost, 1},
		{"pending without saga", "order", `INSERT INTO orders VALUES ('e','pending',1,0,0)`, lost, 1},
		{"saga without order", "shipping", `INSERT INTO saga_instances VALUES ('fulfil-order','z','completed')`, lost, 1},
		{"order pending", "order", `UPDATE orders SET status = 'pending' WHERE id = 'c'`, stuck, 1},
		{"saga running", "shipping", `UPDATE saga_instances SET status = 'running' WHERE saga_key = 'a'`, stuck, 1},
		{"saga parked", "shipping", `UPDATE saga_instances SET status = 'parked' WHERE saga_key = 'c'`, stuck, 1},
		{"cancel unheard", "order", `UPDATE orders SET cancel_requested = 1 WHERE id = 'a'`, stuck, 1},
		{"oversold", "inventory", `INSERT INTO reservations VALUES ('x','hat',10,'held')`, oversold, 3},
		{"captured twice", "bank", entry("'capture','a',100"), charged, 1},
		{"charged though rejected", "bank", entry("'capture','c',10"), charged, 1},
		{"not refunded", "bank", `DELETE FROM ledger WHERE operation = 'refund'`, charged, 1},
		{"charged for no order", "bank", entry("'capture','q',5"), charged, 1},
		{"two orders for one key", "journal", "k-a\tb\t202\n", charged, 1},
		{"stock vanished", "inventory", `UPDATE products SET free = free - 1 WHERE sku = 'hat'`, unaccounted, 1},
		{"nobody paid", "bank", `DELETE FROM ledger WHERE reference = 'b'`, unaccounted, 1},
		{"wrong amount", "bank", `UPDATE ledger SET amount = 49 WHERE reference = 'b'`, unaccounted, 1},
		{"refunded too much", "bank", entry("'refund','c',10"), unaccounted, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := verdict(t, map[string]string{c.file: c.damage})
			if v.OK() || c.count(v) != c.want || len(v.Faults) == 0 {
				t.Fatalf("%+v", v)
			}
			if all := v.Lost + v.Stuck + v.Oversold + v.ChargedTwice + v.Unaccounted; all != c.want {
				t.Fatalf("counted more than once: %+v", v)
			}
		})
	}
}

func TestHarmlessThingsAreNoDamage(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]map[string]string{
		"a line cut off":     {"journal": "k-x\tx"},
		"a refusal":          {"journal": "k-x\t\t429\n"},
		"a nonsense line":    {"journal": "nonsense\n\n"},
		"a refused capture":  {"bank": entry("'capture','c',10") + "; UPDATE ledger SET refused = 'x' WHERE reference = 'c'"},
		"an operator's end":  {"shipping": `UPDATE saga_instances SET status = 'aborted' WHERE saga_key = 'c'`},
		"two keys, one each": {"journal": "k-e\tb\t202\n"},
	} {
		if v := verdict(t, damage); !v.OK() {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestMissingFileIsAnError(t *testing.T) {
	t.Parallel()
	dir := folder(t, nil)
	if err := os.Remove(filepath.Join(dir, "bank.db")); err != nil {
		t.Fatal(err)
	}
	if _, err := judge.Judge(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "bank.db") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bank.db")); err == nil {
		t.Fatal("the judge made the file that it should read")
	}
}
