package projection

// Backoff is how long an event that cannot be applied waits.
var Backoff = backoff

// AsksFor is how long an error asks to wait.
var AsksFor = asksFor

// Tracked is how many messages are remembered because the live model has them and its shadow may not.
func (p *Projection) Tracked() int64 { return p.track.size() }
