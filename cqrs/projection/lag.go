package projection

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Lag says how far a generation is.
type Lag struct {
	Generation Generation
	Live       bool // queries read it
	Partitions []PartitionLag
}

// PartitionLag says how far a generation is in one partition, at one moment.
type PartitionLag struct {
	Checkpoint
	// Behind is how many messages are not applied yet, whatever their type; -1 if the bus cannot tell. A bus without
	// positions tells for this process, and without what publishers have yet to hand over. What a bus counts and does
	// not deliver stays behind until something comes after it: Kafka's control records, at the end of a partition that
	// is written in transactions.
	Behind int64
	// Age is how old the model is at most: 0 if nothing is behind, else the time since the last applied event
	// occurred, by the database's clock against the sender's. Negative if that is not known.
	Age time.Duration
	// Stalled is the error because of which the partition stands still, if it does so in this process.
	Stalled error
}

// Behind is the sum over the partitions; -1 if one of them cannot tell.
func (l Lag) Behind() int64 {
	var n int64
	for _, p := range l.Partitions {
		if p.Behind < 0 {
			return -1
		}
		n += p.Behind
	}
	return n
}

// Age is that of the oldest partition; negative if nobody knows.
func (l Lag) Age() time.Duration {
	age := time.Duration(-1)
	for _, p := range l.Partitions {
		age = max(age, p.Age)
	}
	return age
}

// Lag returns how far the live generation is and, if there is one, its shadow behind it. It reads the store and
// asks the bus.
func (p *Projection) Lag(ctx context.Context) ([]Lag, error) {
	m, err := p.Model(ctx)
	if err != nil {
		return nil, err
	}
	live := m.generation(m.Live)
	if live == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoModel, p.name)
	}
	edges, err := p.edges(ctx)
	if err != nil {
		return nil, err
	}
	lag, err := p.lagOf(ctx, &m, live, edges)
	if err != nil {
		return nil, err
	}
	all := []Lag{lag}
	if s := m.shadow(); s != nil {
		if lag, err = p.lagOf(ctx, &m, s, edges); err != nil {
			return nil, err
		}
		all = append(all, lag)
	}
	return all, nil
}

// edges asks where the topics begin and end, if the bus can tell.
func (p *Projection) edges(ctx context.Context) (map[string]bounds, error) {
	bus, ok := p.bus.(bounded)
	if !ok {
		return nil, nil
	}
	edges := map[string]bounds{}
	for _, topic := range p.topics() {
		first, err := bus.Earliest(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("projection: beginning of topic %q: %w", topic, err)
		}
		next, err := bus.Latest(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("projection: end of topic %q: %w", topic, err)
		}
		edges[topic] = bounds{first: first, next: next}
	}
	return edges, nil
}

func (p *Projection) lagOf(ctx context.Context, m *Model, g *Generation, edges map[string]bounds) (Lag, error) {
	lag := Lag{Generation: *g, Live: g.Number == m.Live}
	all, err := p.store.List(ctx, p.name, g.Number)
	if err != nil {
		return lag, fmt.Errorf("projection: read checkpoints: %w", err)
	}
	for topic, b := range edges {
		for partition := range b.next {
			if !slices.ContainsFunc(all, func(c Checkpoint) bool { return c.Topic == topic && c.Partition == partition }) {
				all = append(all, Checkpoint{Topic: topic, Partition: partition, Position: None})
			}
		}
	}
	inFlight := map[string]int64(nil)
	if bus, ok := p.bus.(lagging); ok {
		inFlight = bus.Lag(p.group(g.Number))
	}
	for _, c := range all {
		l := PartitionLag{Checkpoint: c, Behind: -1}
		next, bounded := edges[c.Topic].next[c.Partition]
		waiting, counted := inFlight[c.Topic]
		switch {
		case bounded:
			from := c.Position + 1
			if c.Position == None {
				from = edges[c.Topic].first[c.Partition] // what is gone will never be applied
			}
			l.Behind = max(0, next-from)
		case counted:
			l.Behind = waiting
		case c.Topic == "" && g.State == Following:
			continue // what it was loaded from is behind it
		}
		switch {
		case l.Behind == 0:
		case c.EventAt.IsZero():
			l.Age = -1
		default:
			l.Age = max(0, m.Now.Sub(c.EventAt))
		}
		if v, ok := p.stalls.Load(laneKey{g.Number, c.Topic, c.Partition}); ok {
			l.Stalled, _ = v.(error)
		}
		lag.Partitions = append(lag.Partitions, l)
	}
	slices.SortFunc(lag.Partitions, func(a, b PartitionLag) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return lag, nil
}

// laneKey names a lane in this process.
type laneKey struct {
	generation int64
	topic      string
	partition  int32
}

func (l *lane) key() laneKey { return laneKey{l.f.gen.Number, l.topic, l.partition} }
