package kafkabus

import (
	"encoding/binary"

	"github.com/IBM/sarama"
)

// NewPartitioner is a sarama.PartitionerConstructor that sends a key where Java's clients (and so Kafka
// Connect, Debezium and Kafka Streams) and franz-go send it: murmur2 modulo the partitions. sarama's own
// default is FNV-1a, under which keys would move when the writer changes. Messages without a key go anywhere.
// A Publisher.OverwriteSaramaConfig is taken as it is, so set its Producer.Partitioner to this, or to what the other
// writers of its topics use.
func NewPartitioner(topic string) sarama.Partitioner {
	return partitioner{keyless: sarama.NewRandomPartitioner(topic)}
}

type partitioner struct{ keyless sarama.Partitioner }

func (p partitioner) Partition(msg *sarama.ProducerMessage, n int32) (int32, error) {
	if msg.Key == nil {
		return p.keyless.Partition(msg, n)
	}
	key, err := msg.Key.Encode()
	if err != nil {
		return -1, err
	}
	return int32(murmur2(key)&0x7fffffff) % n, nil
}

func (partitioner) RequiresConsistency() bool { return true }

func (partitioner) MessageRequiresConsistency(msg *sarama.ProducerMessage) bool {
	return msg.Key != nil
}

// murmur2 is MurmurHash2 (Austin Appleby, public domain), 32 bits, with Kafka's seed.
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * m
		k ^= k >> r
		h = h*m ^ k*m
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
