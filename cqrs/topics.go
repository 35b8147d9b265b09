package cqrs

// Topics returns what Run subscribes to, sorted, as registered so far: what a bus that waits for its readers
// must be told before anybody publishes. The topic of [Processor.CallTopic] is not among them.
func (p *Processor) Topics() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &runner{p: p, byTopic: map[string][]*handler{}, byName: map[string][]*handler{}}
	r.collectTopics()
	return r.topics
}
