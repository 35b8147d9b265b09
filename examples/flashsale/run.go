package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"github.com/surge-go/surge/examples/internal/judge"
)

// run plays the scenario until ctx ends, and returns the verdict. An error means that there is none.
func run(ctx context.Context, o options, stdout, stderr io.Writer) (result, error) {
	profile, err := o.profileFile()
	if err != nil {
		return result{}, err
	}
	defer func() { _ = profile.Close() }() // nil or not
	dir, err := o.folder()
	if err != nil {
		return result{}, err
	}
	people := stdout
	if o.json {
		people = stderr // stdout is for machines
	}
	log := slog.New(slog.DiscardHandler)
	if o.verbose {
		log = slog.New(slog.NewTextHandler(stderr, nil))
	}
	s, err := openShop(context.WithoutCancel(ctx), o, dir, log)
	if err != nil {
		return result{}, errors.Join(err, o.removeTemporary(dir))
	}
	_, _ = fmt.Fprintf(people, "flash sale of %v (%s)\n  shop  %s\n  data  %s\n\n", o.duration, o.mode, s.url, dir)
	r, faults, err := s.sell(ctx, people, profile)
	if err == nil {
		r.print(people, faults)
		if !o.once && ctx.Err() == nil {
			_, _ = fmt.Fprintf(people, "\nthe shop stays open at %s until Ctrl-C\n", s.url)
			err = s.stay(ctx)
		}
	}
	if err := errors.Join(err, s.close()); err != nil {
		return r, err
	}
	if err := o.removeTemporary(dir); err != nil {
		return r, err
	}
	if o.json {
		return r, r.printJSON(stdout)
	}
	return r, nil
}

// stay waits for the end of ctx, or of a part that should have gone on.
func (s *shop) stay(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// sell lets the crowd in, plays the scenario, waits until everything is settled, and judges.
func (s *shop) sell(ctx context.Context, people io.Writer, profile *os.File) (result, []string, error) {
	began := time.Now()
	count, err := openTallier(s.dir)
	if err != nil {
		return result{}, nil, err
	}
	defer count.close()
	was, err := count.count(context.WithoutCancel(ctx))
	if err != nil {
		return result{}, nil, err
	}
	tick := newTicker(people, s.opts.duration, was)
	b, err := s.playAndShow(ctx, tick, count, profile)
	if err != nil {
		return result{}, nil, err
	}
	if err := s.settle(tick, count); err != nil {
		return result{}, nil, err
	}
	tick.finish()
	took := time.Since(began)
	v, err := judge.Judge(context.WithoutCancel(ctx), s.dir)
	if err != nil {
		return result{}, nil, err
	}
	r := newResult(v, s.crowd.Stats(), b, took, s.opts.mode)
	s.page.change(func(f *figures) { f.Phase, f.Verdict, f.Faults = "the sale is over", &r, v.Faults })
	return r, v.Faults, nil
}

// playAndShow runs the crowd, the scenario and the status line side by side.
func (s *shop) playAndShow(ctx context.Context, tick *ticker, count *tallier, profile *os.File) (busy, error) {
	if profile != nil {
		if err := pprof.StartCPUProfile(profile); err != nil {
			return busy{}, err
		}
		defer pprof.StopCPUProfile()
	}
	playing, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	notes := make(chan string, 32)
	wg.Go(func() {
		defer cancel() // a crowd without a journal must not go on
		if err := s.crowd.Run(playing, mostBuyers); err != nil {
			s.failed <- err
		}
	})
	wg.Go(func() { s.show(playing, tick, count, notes) })
	b, err := play(playing, s, s.opts.duration, func(what string) { notes <- what })
	cancel()
	wg.Wait()
	select {
	case failed := <-s.failed:
		err = errors.Join(err, failed)
	default:
	}
	return b, err
}

// show prints notes and figures until ctx ends.
func (s *shop) show(ctx context.Context, tick *ticker, count *tallier, notes <-chan string) {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case what := <-notes:
			tick.note(what)
		case <-every.C:
			if c, err := count.count(ctx); err == nil {
				s.tell(tick, c)
			}
		case <-ctx.Done():
			return
		}
	}
}

// tell shows the figures on the status line and on the page.
func (s *shop) tell(tick *ticker, c tally) {
	stats := s.crowd.Stats()
	tick.show(c, stats, s.breakers())
	s.page.show(tick, c, stats, s.gateway.States())
}

// breakers names those that are not closed.
func (s *shop) breakers() string {
	var open []string
	for _, state := range s.gateway.States() {
		if !strings.HasSuffix(state, ": closed") {
			open = append(open, state)
		}
	}
	if len(open) == 0 {
		return ""
	}
	return " · breaker " + strings.Join(open, ", ")
}

// settle waits until no order and no saga is under way, or until nothing moves any more.
func (s *shop) settle(tick *ticker, count *tallier) error {
	most := max(2*s.opts.duration, 3*time.Minute)
	const still = 35 * time.Second // a step of a saga that often failed is tried again after 30 s
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	tick.note("settling")
	var last tally
	since := time.Now()
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	for {
		c, err := count.count(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err != nil || c.open() == 0 || time.Since(since) > still {
			return nil
		}
		if c != last {
			last, since = c, time.Now()
		}
		s.tell(tick, c)
		select {
		case err := <-s.failed:
			return err
		case <-ctx.Done():
		case <-every.C:
		}
	}
}
