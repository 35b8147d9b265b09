package chaos_test

import (
	"context"
	"fmt"

	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/chaos"
)

// Half of the charges lose their answer. Some of those have charged the card all the same.
func Example() {
	faults, err := chaos.New(chaos.Config{
		Seed:   1,
		Faults: []chaos.Fault{{Rate: 0.5, Outcome: resilience.InDoubt}},
	})
	if err != nil {
		panic(err)
	}
	p := resilience.Must(resilience.New("payments", faults.Policy()))
	charged, answered := 0, 0
	for range 1000 {
		err := resilience.Run(context.Background(), p, func(context.Context) error {
			charged++
			return nil
		})
		if err == nil {
			answered++
		}
	}
	fmt.Println("more charged than answered:", charged > answered+100)
	// Output: more charged than answered: true
}
