package kafkabus_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// In a real cluster one broker after the other is killed and started again while members come and go.
func TestChaosOnACluster(t *testing.T) {
	brokers, command := os.Getenv("SURGE_CHAOS_KAFKA"), os.Getenv("SURGE_CHAOS_BROKER")
	if brokers == "" || command == "" {
		t.Skip("SURGE_CHAOS_KAFKA and SURGE_CHAOS_BROKER are not set; see .ci/run chaos")
	}
	addrs := strings.Split(brokers, ",")
	cfg := hasty()
	cfg.Drain = 5 * time.Second
	cfg.Subscriber.OverwriteSaramaConfig.Net.DialTimeout = 3 * time.Second
	cfg.Subscriber.OverwriteSaramaConfig.Net.ReadTimeout = 15 * time.Second
	s := &storm{
		cfg: cfg, keys: 1000, perKey: 200, batch: 500, pace: 100 * time.Millisecond,
		churn: 2 * time.Second, limit: 5 * time.Minute,
	}
	s.store = postgresStore(t)
	s = stormy(t, addrs, s, 6)
	s.disturb = func(ctx context.Context) int { return crashes(ctx, t, command, len(addrs), s) }
	s.rage()
}

// calmFor is how long a broker that came back is left alone. With a second, on a machine where brokers come back within
// two, a batch for all partitions finds one broker or another away for minutes.
const calmFor = 5 * time.Second

// crashes kills one broker at a time, and the next one only when that has caught up, as one restarts a cluster.
func crashes(ctx context.Context, t *testing.T, command string, brokers int, s *storm) int {
	broker := func(action string, i int) {
		out, err := exec.Command("sh", "-c", fmt.Sprint(command, " ", action, " ", i)).CombinedOutput()
		if err != nil {
			t.Errorf("%s broker %d: %v\n%s", action, i, err, out)
		}
	}
	for n := 0; ; n++ {
		for s.wait(ctx, calmFor); ctx.Err() == nil && !s.inSync(); {
			s.wait(ctx, 200*time.Millisecond)
		}
		if ctx.Err() != nil {
			if n < brokers {
				t.Errorf("only %d of %d brokers were restarted", n, brokers)
			}
			return n
		}
		action := "kill"
		if n%4 == 3 {
			action = "stop"
		}
		t.Logf("%s broker %d: %d messages are handled", action, n%brokers+1, s.store.count())
		broker(action, n%brokers+1)
		s.wait(ctx, 2*time.Second)
		broker("start", n%brokers+1)
	}
}

// inSync reports whether all replicas of the topic and of the group's offsets have caught up.
func (s *storm) inSync() bool {
	admin, err := sarama.NewClusterAdmin(s.brokers, quick())
	if err != nil {
		return false
	}
	defer closed(s.t, admin)
	topics, err := admin.DescribeTopics([]string{s.topic, "__consumer_offsets"})
	if err != nil {
		return false
	}
	for _, t := range topics {
		for _, p := range t.Partitions {
			if p.Err != sarama.ErrNoError || len(p.Isr) < len(p.Replicas) {
				return false
			}
		}
	}
	return len(topics) == 2
}

func postgresStore(t *testing.T) *store {
	url := os.Getenv("SURGE_TEST_POSTGRES")
	if url == "" {
		return newStore(t, sqliteDB, "INTEGER PRIMARY KEY AUTOINCREMENT")
	}
	name := fmt.Sprintf("kafkabus_%x", rand.Uint64())
	server := connected(t, postgres.Open(url))
	if err := server.Exec("CREATE SCHEMA " + name).Error; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Exec("DROP SCHEMA " + name + " CASCADE") })
	return newStore(t, func(t *testing.T) *gorm.DB {
		return connected(t, postgres.Open(url+"&search_path="+name))
	}, "BIGSERIAL PRIMARY KEY")
}
