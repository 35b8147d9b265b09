package localbus

// A fifo is a queue of items that keeps its memory.
type fifo struct {
	items []*item
	head  int
}

func (q *fifo) len() int         { return len(q.items) - q.head }
func (q *fifo) at(i int) *item   { return q.items[q.head+i] }
func (q *fifo) rest() []*item    { return q.items[q.head:] }
func (q *fifo) clear(i int)      { q.items[q.head+i] = nil }
func (q *fifo) append(s []*item) { q.items = append(q.items, s...) }

func (q *fifo) pop() *item {
	it := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if 2*q.head >= len(q.items) {
		q.compact()
	}
	return it
}

// compact moves the items to the front and leaves out those that were cleared.
func (q *fifo) compact() {
	n := 0
	for _, it := range q.rest() {
		if it != nil {
			q.items[n] = it
			n++
		}
	}
	clear(q.items[n:])
	q.items, q.head = q.items[:n], 0
}
