// Package archtest holds the architecture's walls: tests that fail on an import edge or a top-level name that the
// architecture does not allow. docs/architecture.md explains them.
package archtest
