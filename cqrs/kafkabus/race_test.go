//go:build race

package kafkabus_test

// raced says that the race detector looks on.
const raced = true
