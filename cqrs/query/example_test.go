package query_test

import (
	"context"
	"fmt"

	"github.com/surge-go/surge/cqrs/query"
)

type Greeting struct {
	query.Returns[string]
	Name string
}

// A query names its answer; asking it infers the answer's type.
func Example() {
	reads := query.NewMux()
	query.Handle(reads, func(_ context.Context, q Greeting) (string, error) {
		return "hello " + q.Name, nil
	})
	answer, err := query.Ask(context.Background(), reads, Greeting{Name: "Ada"})
	fmt.Println(answer, err)
	// Output: hello Ada <nil>
}
