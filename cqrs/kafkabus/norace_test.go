//go:build !race

package kafkabus_test

const raced = false
