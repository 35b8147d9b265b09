package contracts

import (
	"slices"

	"github.com/surge-go/surge/cqrs"
)

// Catalog lists the messages of all services.
func Catalog() *cqrs.Catalog {
	return cqrs.NewCatalog(slices.Concat(Orders(), Inventory(), Payments(), Shipping())...)
}

func command[T any](name string, key func(T) string) cqrs.Type {
	return cqrs.Command[T]{Name: name, Key: key}
}

func event[T any](name string, key func(T) string) cqrs.Type {
	return cqrs.Event[T]{Name: name, Key: key}
}
