package resilience

import (
	"context"
	"log/slog"
	"time"
)

// Log returns an [Observer] that writes to l: transitions at info level, failed calls at warn, failed tries
// and successful calls at debug. Canceled calls are at debug too. It panics if l is nil.
func Log(l *slog.Logger) Observer {
	if l == nil {
		panic("resilience: Log needs a logger")
	}
	return &logObserver{l: l}
}

type logObserver struct{ l *slog.Logger }

// Attempt implements Observer.
func (o *logObserver) Attempt(ctx context.Context, pipeline string, n int) (context.Context, func(error)) {
	if !o.l.Enabled(ctx, slog.LevelDebug) {
		return ctx, nil
	}
	return ctx, func(err error) {
		if err != nil {
			o.l.LogAttrs(ctx, slog.LevelDebug, "try failed", slog.String("pipeline", pipeline),
				slog.Int("attempt", n), slog.Any("error", err))
		}
	}
}

// Call implements Observer.
func (o *logObserver) Call(ctx context.Context, pipeline string, d time.Duration, err error) {
	level := slog.LevelWarn
	if err == nil || isCancelled(ctx, err) {
		level = slog.LevelDebug
	}
	if !o.l.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("pipeline", pipeline), slog.Duration("duration", d),
		slog.String("outcome", OutcomeOf(err).String()),
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	o.l.LogAttrs(ctx, level, "call ended", attrs...)
}

// Transition implements Observer.
func (o *logObserver) Transition(pipeline string, from, to State) {
	o.l.LogAttrs(context.Background(), slog.LevelInfo, "breaker changed", slog.String("pipeline", pipeline),
		slog.String("from", from.String()), slog.String("to", to.String()))
}

// Observers returns an [Observer] that passes everything on to each of os, in order.
func Observers(os ...Observer) Observer { return observers(os) }

type observers []Observer

// Attempt implements Observer.
func (os observers) Attempt(ctx context.Context, pipeline string, n int) (context.Context, func(error)) {
	var ends []func(error)
	for _, o := range os {
		var end func(error)
		if ctx, end = o.Attempt(ctx, pipeline, n); end != nil {
			ends = append(ends, end)
		}
	}
	if len(ends) == 0 {
		return ctx, nil
	}
	return ctx, func(err error) {
		for i := len(ends) - 1; i >= 0; i-- {
			ends[i](err)
		}
	}
}

// Call implements Observer.
func (os observers) Call(ctx context.Context, pipeline string, d time.Duration, err error) {
	for _, o := range os {
		o.Call(ctx, pipeline, d, err)
	}
}

// Transition implements Observer.
func (os observers) Transition(pipeline string, from, to State) {
	for _, o := range os {
		o.Transition(pipeline, from, to)
	}
}
