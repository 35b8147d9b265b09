package cqrs_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
)

type (
	priceV1 struct{ Price string }
	priceV2 struct{ Cents int }
	priceV3 struct {
		Cents    int
		Currency string
	}
)

func upOne(p priceV1) (priceV2, error) {
	n, err := strconv.Atoi(p.Price)
	return priceV2{n}, err
}

func upTwo(p priceV2) (priceV3, error) { return priceV3{p.Cents, "EUR"}, nil }

func TestDecodeUpcastsOlderVersions(t *testing.T) {
	t.Parallel()
	c := cqrs.NewCatalog(
		cqrs.Upcast("p.priced", 2, upTwo), cqrs.Upcast("p.priced", 1, upOne),
		cqrs.Event[priceV3]{Name: "p.priced", Version: 3},
	)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	decode := func(version int, payload string) (any, error) {
		return c.Decode(&cqrs.Delivery{Envelope: cqrs.Envelope{Type: "p.priced", Version: version}, Payload: []byte(payload)})
	}
	for version, payload := range map[int]string{
		0: `{"Price":"7"}`, 1: `{"Price":"7"}`, 2: `{"Cents":7}`, 3: `{"Cents":7,"Currency":"EUR"}`,
	} {
		if v, err := decode(version, payload); err != nil || v != (priceV3{7, "EUR"}) {
			t.Errorf("version %d = %v, %v", version, v, err)
		}
	}
	if _, err := decode(4, `{}`); !errors.Is(err, cqrs.ErrNewerVersion) {
		t.Errorf("newer = %v", err)
	}
	for _, bad := range []string{`{"Price":"x"}`, `[`, ``} {
		if _, err := decode(1, bad); !errors.Is(err, cqrs.ErrUndecodable) {
			t.Errorf("%q = %v", bad, err)
		}
	}
	if _, err := c.Decode(&cqrs.Delivery{Envelope: cqrs.Envelope{Type: "x"}}); !errors.Is(err, cqrs.ErrUnknownType) {
		t.Errorf("unknown = %v", err)
	}
}

// What is older than the first upcast is not taken for the newest version, of which it has nothing.
func TestDecodeRefusesWhatNoUpcastReaches(t *testing.T) {
	t.Parallel()
	c := cqrs.NewCatalog(
		cqrs.Event[priceV3]{Name: "p.priced", Version: 3}, cqrs.Upcast("p.priced", 2, upTwo),
		cqrs.Event[placed]{Name: "p.placed", Version: 3},
	)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	decode := func(name, payload string) (any, error) {
		return c.Decode(&cqrs.Delivery{Envelope: cqrs.Envelope{Type: name, Version: 1}, Payload: []byte(payload)})
	}
	if v, err := decode("p.priced", `{"Price":"7"}`); !errors.Is(err, cqrs.ErrUndecodable) || v != nil {
		t.Errorf("version 1 = %v, %v", v, err)
	}
	if v, err := decode("p.placed", `{"Order":"a"}`); err != nil || v != (placed{"a"}) {
		t.Errorf("without upcasts: %v, %v", v, err)
	}
}

func TestCatalogReportsEveryFault(t *testing.T) {
	t.Parallel()
	c := cqrs.NewCatalog(
		cqrs.Event[placed]{},
		cqrs.Event[shipped]{Name: "a.b", Version: -1},
		cqrs.Command[note]{Name: "a.c"}, cqrs.Command[place]{Name: "a.c"},
		cqrs.Event[note]{Name: "a.d"},
		cqrs.Event[priceV3]{Name: "p.priced", Version: 4},
		cqrs.Upcast("p.priced", 1, upOne), cqrs.Upcast("p.priced", 3, upTwo), cqrs.Upcast("p.priced", 3, upTwo),
		cqrs.Upcast("p.priced", 4, upTwo), cqrs.Upcast("nobody", 1, upTwo),
		nil, cqrs.Upcast[priceV2, priceV3]("p.priced", 2, nil),
	).WithCodec(nil)
	err := c.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		"placed has no name", "version -1", `name "a.c" is used twice`, `listed as "a.c" and as "a.d"`,
		`no upcast of "p.priced" from version 2`, `two upcasts of "p.priced" from version 3`,
		`from version 4; the catalog has version 4`, `upcast of "nobody"`,
		"entry 12 is nil", `upcast of "p.priced" from version 2 has no function`, "the codec is nil",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("fault %q is missing in:\n%v", want, err)
		}
	}
	if _, e := cqrs.NewSender(c, newDB(), cqrs.SenderConfig{}); e == nil {
		t.Error("NewSender took a catalog with faults")
	}
	wrong := cqrs.NewCatalog(cqrs.Event[priceV3]{Name: "p.priced", Version: 2}, cqrs.Upcast("p.priced", 1, upOne))
	if err := wrong.Validate(); err == nil || !strings.Contains(err.Error(), "makes cqrs_test.priceV2") {
		t.Errorf("a chain that ends elsewhere = %v", err)
	}
}

func TestLookups(t *testing.T) {
	t.Parallel()
	c := catalog()
	if i, ok := c.Lookup(&place{}); !ok || i.Name != "shop.place" || i.Topic != "shop.commands" || i.Version != 1 ||
		i.Kind != cqrs.KindCommand || i.Reply.Name() != "receipt" {
		t.Errorf("Lookup = %+v, %v", i, ok)
	}
	if i, ok := c.LookupName("shop.shipped"); !ok || i.Topic != "shop.events" || i.Version != 2 || i.Reply != nil {
		t.Errorf("LookupName = %+v, %v", i, ok)
	}
	if _, ok := c.Lookup(nil); ok {
		t.Error("nil is in the catalog")
	}
	if k := c.KeyOf(&placed{"o-1"}); k != "o-1" {
		t.Errorf("KeyOf = %q", k)
	}
}

func TestAsyncAPIDescribesTheCatalog(t *testing.T) {
	t.Parallel()
	doc, err := catalog().AsyncAPI("Shop", "1.0")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		AsyncAPI   string
		Channels   map[string]struct{ Address string }
		Operations map[string]struct {
			Action  string
			Channel map[string]string
			Reply   map[string]any
		}
		Components struct {
			Messages map[string]struct{ Payload map[string]string }
			Schemas  map[string]struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	if d.AsyncAPI != "3.0.0" || d.Channels["shop.commands"].Address != "shop.commands" || len(d.Channels) != 3 {
		t.Errorf("channels = %+v", d.Channels)
	}
	op := d.Operations["shop.place"]
	if op.Action != "receive" || op.Channel["$ref"] != "#/channels/shop.commands" || op.Reply == nil {
		t.Errorf("command = %+v", op)
	}
	if op := d.Operations["shop.placed"]; op.Action != "send" || op.Reply != nil {
		t.Errorf("event = %+v", op)
	}
	if got := d.Components.Messages["shop.place"].Payload["$ref"]; got != "#/components/schemas/place" {
		t.Errorf("payload = %q", got)
	}
	props := d.Components.Schemas["place"].Properties
	if len(props) != 3 || props["SKU"] == nil {
		t.Errorf("properties = %v: the embedded Returns must not show", props)
	}
	if _, err := catalog().AsyncAPI("", ""); err == nil {
		t.Error("a document without title")
	}
}

type tree struct {
	Name  string            `json:"name,omitempty"`
	Kids  []tree            `json:"kids"`
	Extra map[string]*int64 `json:"extra"`
	Raw   []byte
	skip  bool
	Skip  bool `json:"-"`
	roots
	*bark
	First *tree      `json:"first"`
	Last  *tree      `json:"last,omitempty"`
	Born  *time.Time `json:"born"`
	Age   int        `json:",string"`
	Count *int       `json:",string,omitempty"`
	Bytes [2]byte    `json:",omitempty"`
}

type (
	roots struct{ ID string }
	bark  struct {
		Bark string
		Raw  int // hidden by the tree's
	}
)

func TestAsyncAPISchemasFollowJSON(t *testing.T) {
	t.Parallel()
	_ = tree{}.skip
	doc, err := cqrs.NewCatalog(cqrs.Event[tree]{Name: "t.grown"}).AsyncAPI("T", "1")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	var got, want any
	_ = json.Unmarshal(d.Components.Schemas["tree"], &got)
	_ = json.Unmarshal([]byte(`{"type":"object","required":["Age","ID","Raw","born","extra","first","kids"],"properties":{
		"name":{"type":"string"},"ID":{"type":"string"},"Bark":{"type":"string"},
		"kids":{"type":["array","null"],"items":{"$ref":"#/components/schemas/tree"}},
		"first":{"anyOf":[{"$ref":"#/components/schemas/tree"},{"type":"null"}]},
		"last":{"$ref":"#/components/schemas/tree"},
		"extra":{"type":["object","null"],"additionalProperties":{"type":["integer","null"]}},
		"born":{"type":["string","null"],"format":"date-time"},
		"Age":{"type":"string"},"Count":{"type":"string"},"Bytes":{"type":"array","items":{"type":"integer"}},
		"Raw":{"type":["string","null"],"contentEncoding":"base64"}}}`), &want)
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("schema = %s\nwant     %s", a, b)
	}
}
