//go:build ignore

// Results reads the output of go test -json, prints what failed, and exits with 1 if anything did or if a test
// was skipped because its server was not switched on.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
)

type event struct{ Action, Package, Test, Output string }

var (
	// Every integration test names the variable it misses.
	switchedOff = regexp.MustCompile(`SURGE_TEST_[A-Z]+`)
	// How a package ends before its tests do. The stacks that follow are told as a test's that may have passed.
	died = regexp.MustCompile(`^(panic|fatal error): `)
)

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	output := map[string]*strings.Builder{}
	stacks := map[string]*strings.Builder{} // by package
	running := map[string]bool{}
	var bad []string
	passed, skipped := 0, 0
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text()) // the go command itself speaks
			continue
		}
		name := e.Package + " " + e.Test
		if output[name] == nil {
			output[name] = &strings.Builder{}
		}
		switch e.Action {
		case "run":
			running[name] = true
		case "output", "build-output":
			output[name].WriteString(e.Output)
			if stacks[e.Package] == nil && died.MatchString(e.Output) {
				stacks[e.Package] = &strings.Builder{}
			}
			if s := stacks[e.Package]; s != nil && s.Len() < 20_000 {
				s.WriteString(e.Output)
			}
		case "pass":
			delete(running, name)
			passed++
		case "fail", "build-fail":
			delete(running, name)
			bad = append(bad, "FAIL "+name+"\n"+output[name].String())
			if s := stacks[e.Package]; e.Test == "" && s != nil {
				bad = append(bad, s.String())
			}
		case "skip":
			delete(running, name)
			skipped++
			if switchedOff.MatchString(output[name].String()) {
				bad = append(bad, "SKIPPED "+name+"\n"+output[name].String())
			}
		}
	}
	for _, b := range bad {
		fmt.Println(b)
	}
	for name := range running {
		fmt.Println("CUT SHORT", name)
	}
	fmt.Printf("%d passed, %d skipped, %d bad\n", passed, skipped, len(bad))
	if len(bad) > 0 || passed == 0 {
		os.Exit(1)
	}
}
