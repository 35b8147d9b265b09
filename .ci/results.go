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

// Every integration test names the variable it misses.
var switchedOff = regexp.MustCompile(`SURGE_TEST_[A-Z]+`)

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	output := map[string]*strings.Builder{}
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
		case "output", "build-output":
			output[name].WriteString(e.Output)
		case "pass":
			passed++
		case "fail", "build-fail":
			bad = append(bad, "FAIL "+name+"\n"+output[name].String())
		case "skip":
			skipped++
			if switchedOff.MatchString(output[name].String()) {
				bad = append(bad, "SKIPPED "+name+"\n"+output[name].String())
			}
		}
	}
	for _, b := range bad {
		fmt.Println(b)
	}
	fmt.Printf("%d passed, %d skipped, %d bad\n", passed, skipped, len(bad))
	if len(bad) > 0 || passed == 0 {
		os.Exit(1)
	}
}
