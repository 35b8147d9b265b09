package debezium

import "context"

// Round is one round of a pruner.
type Round = round

// Survey reads the rows of a round and returns how many there are.
func (p *Pruner) Survey(ctx context.Context) (Round, int, error) {
	r, err := p.survey(ctx)
	return r, len(r.seqs), err
}

// Settle deletes a round's rows if they are confirmed, and reports whether it did so, or gave them up.
func (p *Pruner) Settle(ctx context.Context, r Round) (pruned, void bool, err error) {
	confirmed, void, err := p.settled(ctx, r)
	if confirmed {
		err = p.remove(ctx, r.seqs)
	}
	return confirmed, void, err
}

// Shipped is the file postgres.json.
var Shipped = postgres
