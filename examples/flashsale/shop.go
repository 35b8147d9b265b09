package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/gateway"
	"github.com/surge-go/surge/examples/internal/bank"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/inventory"
	"github.com/surge-go/surge/examples/loadgen"
	"github.com/surge-go/surge/examples/order"
	"github.com/surge-go/surge/examples/payment"
	"github.com/surge-go/surge/examples/shipping"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/resilience/chaos"
)

// Names of the services, of their consumer groups and of their files.
const (
	orderService     = "order"
	inventoryService = "inventory"
	paymentService   = "payment"
	shippingService  = "shipping"
)

// shop is everything that runs.
type shop struct {
	opts     options
	dir      string
	log      *slog.Logger
	bus      *localbus.Bus
	chaos    *chaos.Injector // between the bank and its callers
	catalog  *cqrs.Catalog
	goods    goods
	services map[string]*node
	gateway  *gateway.Gateway
	journal  *loadgen.Journal
	crowd    *loadgen.Crowd
	page     *page
	url      string // of the gateway and the page

	failed  chan error // a part that should have gone on
	closers []func() error
}

// openShop starts everything but the crowd.
func openShop(ctx context.Context, o options, dir string, log *slog.Logger) (*shop, error) {
	s := &shop{
		opts: o, dir: dir, log: log, catalog: contracts.Catalog(), goods: newGoods(o.duration),
		services: map[string]*node{}, failed: make(chan error, 16), page: newPage(),
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *shop) open(ctx context.Context) error {
	unlock, err := lock(ctx, s.dir)
	if err != nil {
		return fmt.Errorf("%w: -data: %w", errUsage, err)
	}
	s.onClose(unlock)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.opts.addr)
	if err != nil {
		return fmt.Errorf("%w: -addr: %w", errUsage, err)
	}
	s.onClose(func() error { _ = listener.Close(); return nil })
	s.url = "http://" + listener.Addr().String()
	s.openBus()
	bankURL, err := s.openBank(ctx)
	if err != nil {
		return err
	}
	if err := s.openServices(ctx, bankURL); err != nil {
		return err
	}
	secret := []byte(rand.Text() + rand.Text())
	if err := s.openGateway(listener, secret); err != nil {
		return err
	}
	return s.openCrowd(secret)
}

// openBus makes the bus. Events that nobody reads are news for whoever comes, and there may be nobody.
func (s *shop) openBus() {
	s.bus = localbus.New(localbus.Config{
		Discard: true, Partitions: 8, InTransaction: uow.In, Wait: time.Minute, Logger: s.log,
	})
	s.onClose(s.bus.Close)
}

func (s *shop) openBank(ctx context.Context) (url string, err error) {
	b, err := bank.Open(ctx, filepath.Join(s.dir, "bank.db"))
	if err != nil {
		return "", err
	}
	s.onClose(b.Close)
	if s.chaos, err = chaos.New(chaos.Config{Seed: s.opts.seed}); err != nil {
		return "", err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.serve(l, s.chaos.Handler(b))
	return "http://" + l.Addr().String(), nil
}

// serve serves until the shop is closed.
func (s *shop) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	})
	s.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			_ = srv.Close()
		}
		wg.Wait()
		return nil
	})
}

func (s *shop) openServices(ctx context.Context, bankURL string) error {
	s.onClose(s.stopServices)
	open := map[string]func(context.Context, unit.Config) (*unit.Unit, error){
		shippingService: shipping.Open,
		inventoryService: func(ctx context.Context, c unit.Config) (*unit.Unit, error) {
			return inventory.Open(ctx, inventory.Config{Config: c, Stock: s.goods.stock})
		},
		paymentService: func(ctx context.Context, c unit.Config) (*unit.Unit, error) {
			return payment.Open(ctx, payment.Config{Config: c, Bank: bankURL, Patience: s.opts.duration / 60})
		},
		orderService: func(ctx context.Context, c unit.Config) (*unit.Unit, error) {
			return order.Open(ctx, order.Config{Config: c, Prices: s.goods.prices})
		},
	}
	for _, name := range []string{shippingService, inventoryService, paymentService, orderService} {
		n := &node{failed: s.failed, open: open[name], cfg: unit.Config{
			Name: name, Path: filepath.Join(s.dir, name+".db"), Bus: s.bus, Catalog: s.catalog,
			Batch: s.opts.batch, Unsafe: s.opts.unsafe, Logger: s.log,
		}}
		s.services[name] = n
		if err := n.prepare(ctx); err != nil {
			return err
		}
	}
	for _, n := range s.services { // all have said what they read: nothing is dropped for want of a reader
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stopServices stops all at once: they may be waiting for each other.
func (s *shop) stopServices() error {
	var wg sync.WaitGroup
	errs := make([]error, 0, len(s.services))
	var mu sync.Mutex
	for _, n := range s.services {
		wg.Go(func() {
			err := n.stop()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// reopen starts what has crashed and is not back.
func (s *shop) reopen(ctx context.Context) error {
	errs := []error{s.chaos.Set()}
	for _, n := range s.services {
		errs = append(errs, n.start(ctx))
	}
	return errors.Join(errs...)
}

func (s *shop) openGateway(l net.Listener, secret []byte) (err error) {
	upstreams := map[string][]string{}
	for name, n := range s.services {
		upstreams[name] = []string{"http://" + n.cfg.Addr}
	}
	s.gateway, err = gateway.New(gateway.Config{
		Services: upstreams, Routes: routes(), Aggregates: aggregates(), Secret: secret, Logger: s.log,
		Admission: s.admission(upstreams[orderService][0]),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.gateway.Run(ctx) }) // returns nil
	s.onClose(func() error { cancel(); wg.Wait(); s.gateway.Close(); return nil })
	s.serve(l, s.page.around(s.gateway))
	s.onClose(func() error { s.page.close(); return nil })
	return nil
}

func (s *shop) openCrowd(secret []byte) (err error) {
	s.journal, err = loadgen.OpenJournal(filepath.Join(s.dir, "buyers.journal"))
	if err != nil {
		return err
	}
	s.onClose(s.journal.Close)
	expires := time.Now().Add(s.opts.duration + 24*time.Hour)
	s.crowd, err = loadgen.New(loadgen.Config{
		URL: s.url, SKUs: s.goods.skus, Hot: s.goods.hot, Wanted: int64(s.goods.wanted), Journal: s.journal,
		Seed: s.opts.seed, Logger: s.log, Patience: loadgen.Patience{Request: max(s.opts.duration/12, time.Second)},
		Token: func(customer string) string {
			token, err := gateway.Token(secret, customer, expires)
			if err != nil {
				s.failed <- err
			}
			return token
		},
	})
	return err
}

func (s *shop) onClose(f func() error) { s.closers = append(s.closers, f) }

// close ends everything, last opened first.
func (s *shop) close() error {
	var errs []error
	for i := range s.closers {
		errs = append(errs, s.closers[len(s.closers)-1-i]())
	}
	return errors.Join(errs...)
}

// goods is what the shop sells.
type goods struct {
	skus   []string
	hot    string // a new product each run, so that a run on the same folder has its rush too
	wanted int    // how many purchases of it are tried
	stock  map[string]int
	prices map[string]int64
}

func newGoods(duration time.Duration) goods {
	const mixed, plenty = 200, 10_000_000
	hot := max(10, int(duration.Seconds()*2))
	g := goods{
		hot: "hot-" + strings.ToLower(rand.Text()[:6]), wanted: 10 * hot,
		stock: map[string]int{}, prices: map[string]int64{},
	}
	for i := range mixed {
		sku := fmt.Sprintf("sku-%03d", i)
		g.skus = append(g.skus, sku)
		g.stock[sku], g.prices[sku] = plenty, int64(199+i*25)
	}
	g.stock[g.hot], g.prices[g.hot] = hot, 4999
	return g
}
