package kafkabus

import (
	"context"
	"errors"

	"github.com/IBM/sarama"
)

// A batch is one Publish. After its error was returned, records may still be on their way, so nothing
// here refers to the caller's messages but their payloads.
type batch struct {
	topic string
	recs  []*sarama.ProducerMessage
	keys  []string
	errs  []error // by record; nil for those in Kafka
}

// errUnsent marks records that have not been answered for.
var errUnsent = errors.New("kafkabus: not sent")

func newBatch(topic string, n int) *batch {
	return &batch{
		topic: topic,
		recs:  make([]*sarama.ProducerMessage, n),
		keys:  make([]string, n),
		errs:  make([]error, n),
	}
}

// add adds a record, or why there is none.
func (b *batch) add(i int, rec *sarama.ProducerMessage, key string, err error) {
	if err == nil {
		err = errUnsent
	}
	b.recs[i], b.keys[i], b.errs[i] = rec, key, err
}

// refuse fails the whole batch.
func (b *batch) refuse(err error) error {
	e := &PublishError{Topic: b.topic, Size: len(b.recs), Err: err}
	for i := range b.recs {
		e.Indexes = append(e.Indexes, i)
	}
	return e
}

// send sends the records and says which failed.
func (b *batch) send(ctx context.Context, to sarama.SyncProducer, careful bool) error {
	stuck := map[string]bool{} // keys of which a message failed
	for {
		wave := b.wave(stuck, careful)
		if len(wave) == 0 || ctx.Err() != nil {
			break
		}
		b.sendWave(to, wave)
		for _, i := range wave {
			if b.errs[i] != nil && b.keys[i] != "" {
				stuck[b.keys[i]] = true
			}
		}
	}
	return b.result(ctx)
}

// wave returns the records to send next, in order: all of them, or when careful one per key, so that
// none of them can overtake another. Those behind a failed record of their key stay.
func (b *batch) wave(stuck map[string]bool, careful bool) []int {
	wave := make([]int, 0, len(b.recs))
	taken := map[string]bool{}
	for i, key := range b.keys {
		switch err := b.errs[i]; {
		case err == nil:
			continue
		case !errors.Is(err, errUnsent):
			if key != "" {
				stuck[key] = true
			}
			continue
		case key != "" && (stuck[key] || taken[key]):
			continue
		case careful && key != "":
			taken[key] = true
		}
		wave = append(wave, i)
	}
	return wave
}

// sendWave sends some of the records and notes what became of each.
func (b *batch) sendWave(to sarama.SyncProducer, wave []int) {
	recs := make([]*sarama.ProducerMessage, len(wave))
	for n, i := range wave {
		recs[n] = b.recs[i]
		b.errs[i] = nil
	}
	err := to.SendMessages(recs)
	if err == nil {
		return
	}
	failed := make(map[*sarama.ProducerMessage]error)
	var each sarama.ProducerErrors
	if errors.As(err, &each) {
		for _, e := range each {
			failed[e.Msg] = e.Err
		}
	}
	for _, i := range wave {
		if b.errs[i] = failed[b.recs[i]]; len(each) == 0 {
			b.errs[i] = err
		}
	}
}

// result makes the error, if any: what failed, and of each key all that comes after a failure, because
// only then can the caller send them again in their order.
func (b *batch) result(ctx context.Context) error {
	e := &PublishError{Topic: b.topic, Size: len(b.recs)}
	stuck := map[string]bool{}
	for i, err := range b.errs {
		key := b.keys[i]
		if err == nil && !stuck[key] {
			continue
		}
		if key != "" {
			stuck[key] = true
		}
		e.Indexes = append(e.Indexes, i)
		if e.Err == nil {
			e.Err = err
		}
	}
	if len(e.Indexes) == 0 {
		return nil
	}
	if errors.Is(e.Err, errUnsent) && ctx.Err() != nil {
		e.Err = ctx.Err()
	}
	return e
}
