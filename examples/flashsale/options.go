package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/surge-go/surge/examples/internal/unit"
)

// options is what the command line and the environment ask for.
type options struct {
	duration time.Duration
	once     bool
	json     bool
	data     string // "" means a fresh temporary folder
	addr     string
	seed     uint64
	unsafe   unit.Unsafe
	batch    int    // 0 means the defaults
	mode     string // of the above, for people
	profile  string
	verbose  bool
}

// errUsage is wrapped by what the caller got wrong: exit code 2.
var errUsage = errors.New("wrong usage")

const leastDuration = 2 * time.Second

// parse reads the command line. The flag package has printed the error, if there is one, in one line.
func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("flashsale", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.DurationVar(&o.duration, "duration", time.Minute, "length of the whole scenario; everything scales with it")
	fs.BoolVar(&o.once, "once", false, "exit after the verdict, with 1 when a promise was broken")
	fs.BoolVar(&o.json, "json", false, "print the result as one JSON object on the last line of stdout")
	fs.StringVar(&o.data, "data", "", "`folder` of the databases, kept and used again (default a fresh temporary one)")
	fs.StringVar(&o.addr, "addr", "127.0.0.1:0", "`address` of the shop; port 0 takes a free one")
	fs.Uint64Var(&o.seed, "seed", 1, "of what buyers do and which faults hit whom")
	fs.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of the busy part to this `file`")
	fs.BoolVar(&o.verbose, "v", false, "log what the services say, to stderr")
	off := fs.String("unsafe", "", "protections to take away: stock, outbox, idempotency (comma-separated)")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(stderr)
			fs.Usage()
			return o, err
		}
		return o, fmt.Errorf("%w: %w (-h lists the flags)", errUsage, err)
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%w: unexpected argument %q (-h lists the flags)", errUsage, fs.Arg(0))
	}
	if o.duration < leastDuration {
		return o, fmt.Errorf("%w: -duration is %v, at least %v is needed", errUsage, o.duration, leastDuration)
	}
	if err := o.parseUnsafe(*off); err != nil {
		return o, err
	}
	return o, o.parseBatch(getenv("SURGE_BATCH"))
}

func (o *options) parseUnsafe(list string) error {
	o.mode = "safe"
	if list == "" {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		switch name {
		case "stock":
			o.unsafe.Stock = true
		case "outbox":
			o.unsafe.Outbox = true
		case "idempotency":
			o.unsafe.Idempotency = true
		default:
			return fmt.Errorf("%w: -unsafe knows stock, outbox and idempotency, not %q", errUsage, name)
		}
	}
	o.mode = "unsafe=" + list
	return nil
}

func (o *options) parseBatch(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return fmt.Errorf("%w: SURGE_BATCH is %q, a number from 1 is needed", errUsage, s)
	}
	o.batch = n
	o.mode += " batch=" + s
	return nil
}

// profileFile makes the file of the CPU profile; nil if none is asked for.
func (o *options) profileFile() (*os.File, error) {
	if o.profile == "" {
		return nil, nil
	}
	f, err := os.Create(o.profile)
	if err != nil {
		return nil, fmt.Errorf("%w: -cpuprofile: %w", errUsage, err)
	}
	return f, nil
}

// removeTemporary removes the data folder if it is a temporary one.
func (o *options) removeTemporary(dir string) error {
	if o.data != "" {
		return nil
	}
	return os.RemoveAll(dir)
}

// folder makes the data folder, or checks that the given one can be written.
func (o *options) folder() (dir string, err error) {
	if o.data == "" {
		if dir, err = os.MkdirTemp("", "flashsale-"); err != nil {
			return "", fmt.Errorf("%w: no temporary folder: %w", errUsage, err)
		}
		return dir, nil
	}
	if strings.ContainsAny(o.data, "?#%") {
		return "", fmt.Errorf("%w: -data: %q: SQLite would read ?, # and %% as parts of a URI", errUsage, o.data)
	}
	if err := os.MkdirAll(o.data, 0o750); err != nil {
		return "", fmt.Errorf("%w: -data: %w", errUsage, err)
	}
	probe := filepath.Join(o.data, ".flashsale-probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return "", fmt.Errorf("%w: -data: the folder cannot be written: %w", errUsage, err)
	}
	return o.data, os.Remove(probe)
}
