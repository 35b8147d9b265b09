// Package cqrs runs handlers of commands and events, many of them in one transaction.
package cqrs
