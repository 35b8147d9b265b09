package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

const (
	crashFile = "SURGE_CQRS_CRASH_TEST_FILE" // set for the process that is to die
	poison    = 17
	crashSent = 100
)

// A message that kills the process is found and becomes a dead letter; the others run once.
func TestRule06_AMessageThatKillsTheProcessBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "shop.db")
	c, err := openCrashing(t.Context(), file)
	must(t, err)
	must(t, c.work.Do(t.Context(), func(ctx context.Context) error {
		for i := range crashSent {
			if err := c.s.Send(ctx, note{Order: fmt.Sprint("o", i%10), Text: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, c.close())
	deaths := 0
	for ; deaths < 20; deaths++ {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), crashFile+"="+file)
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		if text := strings.TrimSpace(string(out)); text != "dies" {
			t.Fatalf("the process failed, instead of dying: %v: %s", err, text)
		}
	}
	t.Logf("the process died %d times", deaths)
	if deaths < 2 || deaths > 7 {
		t.Errorf("it died %d times; once unawares, then for each of 5 attempts", deaths)
	}
	c, err = openCrashing(t.Context(), file)
	must(t, err)
	defer func() { must(t, c.close()) }()
	must(t, c.work.Do(t.Context(), func(ctx context.Context) error {
		var doubled int64
		uow.DB(ctx).Raw("SELECT count(*) FROM (SELECT text FROM lines GROUP BY text HAVING count(*) > 1)").Scan(&doubled)
		behind := int64(crashSent/10 - poison/10 - 1) // of the key, after the dead letter
		if n := count(uow.DB(ctx), "1=1"); doubled != 0 || n != crashSent-1-behind {
			t.Errorf("%d effects, %d doubled; want %d", n, doubled, crashSent-1-behind)
		}
		var d struct {
			Payload, Reason string
			Attempt         int
		}
		uow.DB(ctx).Raw("SELECT payload, reason, attempt FROM cqrs_dead").Scan(&d)
		if !strings.Contains(d.Payload, `"17"`) || !strings.Contains(d.Reason, "died") || d.Attempt != 5 {
			t.Errorf("the dead letter is %+v", d)
		}
		var left int64
		uow.DB(ctx).Raw("SELECT count(*) FROM cqrs_begun").Scan(&left)
		if left != 0 {
			t.Errorf("%d notes of what began are left after an orderly end", left)
		}
		return nil
	}))
}

// die is the process that dies: it ends in order once everything that can be done is done.
func die(file string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := openCrashing(ctx, file)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	cqrs.On(c.p, func(ctx context.Context, n note) error {
		if n.Text == fmt.Sprint(poison) {
			fmt.Println("dies")
			os.Exit(1)
		}
		return uow.DB(ctx).Create(&line{Key: n.Order, Text: n.Text}).Error
	})
	ended := make(chan error, 2)
	go func() { ended <- c.relay.Run(ctx) }()
	go func() { ended <- c.p.Run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); !c.done(ctx); {
		select {
		case <-tick.C:
		case <-deadline:
			fmt.Println("nothing happens:", c.p.Stats())
			return 2
		}
	}
	cancel()
	if err := errors.Join(<-ended, <-ended, c.close()); err != nil {
		fmt.Println(err)
		return 2
	}
	return 0
}

type crashing struct {
	*stack
	relay *outbox.Relay
	close func() error
}

// done reports whether the dead letter is there and everything else has run or waits behind it.
func (c *crashing) done(ctx context.Context) (over bool) {
	err := c.work.Do(ctx, func(ctx context.Context) error {
		var n struct{ Dead, Parked, Outbox int64 }
		err := uow.DB(ctx).Raw("SELECT (SELECT count(*) FROM cqrs_dead) AS dead, (SELECT count(*) FROM cqrs_parked)" +
			" AS parked, (SELECT count(*) FROM outbox) AS outbox").Scan(&n).Error
		over = n.Dead == 1 && n.Outbox == 0 && count(uow.DB(ctx), "1=1")+n.Parked == crashSent
		return err
	})
	return err == nil && over
}

func openCrashing(ctx context.Context, file string) (*crashing, error) {
	dsn := file + "?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)"
	db, err := gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		return nil, err
	}
	pool, err := db.DB()
	if err != nil {
		return nil, err
	}
	err = errors.Join(outbox.Migrate(ctx, db), idempotency.Migrate(ctx, db), gormstore.Migrate(ctx, db),
		db.AutoMigrate(&line{}))
	if err != nil {
		return nil, err
	}
	c := &crashing{stack: &stack{}}
	c.bus = localbus.New(localbus.Config{Groups: []string{"shop"}})
	c.close = func() error { return errors.Join(c.bus.Close(), pool.Close()) }
	c.work, err = uow.New(db, uow.Config{})
	if err != nil {
		return nil, err
	}
	out, err := outbox.New(db, outbox.Config{})
	if err != nil {
		return nil, err
	}
	if c.s, err = cqrs.NewSender(catalog(), out, cqrs.SenderConfig{Source: "shop"}); err != nil {
		return nil, err
	}
	dead, err := gormstore.NewDeadLetters(c.work, gormstore.DeadLettersConfig{})
	if err != nil {
		return nil, err
	}
	c.p, err = cqrs.NewProcessor("shop", c.s, cqrs.ProcessorConfig{
		Subscribe: c.bus.Subscriber, UnitOfWork: c.work, InTransaction: uow.In,
		Inbox: idempotency.NewInbox(idempotency.InboxConfig{}), Parking: gormstore.NewParking(), DeadLetters: dead,
		Crashes: gormstore.Crashes{}, Poll: 20 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	c.relay, err = outbox.NewRelay(out, c.bus.Publisher(), outbox.RelayConfig{UnitOfWork: c.work, Owner: "shop"})
	return c, err
}
