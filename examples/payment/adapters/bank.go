package adapters

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/surge-go/surge/examples/payment/domain"
	"github.com/surge-go/surge/resilience"
)

// BankConfig configures a [Bank].
type BankConfig struct {
	URL      string        // of the provider; required
	Keys     bool          // false asks without a key, as naive code does: who repeats itself pays twice
	Try      time.Duration // bounds a try; 0 means 1 s
	Cooldown time.Duration // how long an open breaker leaves the bank alone; 0 means 1 s
}

// Bank is the payment provider, over HTTP: with two tries, a breaker around each, and a bound on the time. It
// implements domain.Provider and is safe for concurrent use.
type Bank struct {
	cfg      BankConfig
	pipeline *resilience.Pipeline
	base     *http.Transport
	client   *http.Client
}

// NewBank makes a client. Close it.
func NewBank(cfg BankConfig) (*Bank, error) {
	if cfg.Try == 0 {
		cfg.Try = time.Second
	}
	if cfg.Cooldown == 0 {
		cfg.Cooldown = time.Second
	}
	p, err := resilience.New("bank",
		resilience.Timeout(3*cfg.Try),
		resilience.Retry(resilience.RetryConfig{Attempts: 2, Min: cfg.Try / 20, Max: cfg.Try}),
		resilience.NewBreaker(resilience.BreakerConfig{Cooldown: cfg.Cooldown, ProbeTimeout: 2 * cfg.Try}),
		resilience.Timeout(cfg.Try),
	)
	if err != nil {
		return nil, fmt.Errorf("payment: bank: %w", err)
	}
	base := &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute}
	pick := func(_ *http.Request, p *resilience.Pipeline) *resilience.Pipeline { return p } // one bank, one breaker
	transport := resilience.NewTransport(p, resilience.TransportConfig{Base: base, Pick: pick})
	return &Bank{cfg: cfg, pipeline: p, base: base, client: &http.Client{Transport: transport}}, nil
}

// State returns where the breaker stands.
func (b *Bank) State() resilience.State { return b.pipeline.State() }

// Close lets go of idle connections.
func (b *Bank) Close() { b.base.CloseIdleConnections() }

// Do implements domain.Provider. Its errors tell resilience.OutcomeOf what became of the request.
func (b *Bank) Do(ctx context.Context, key string, r domain.Request) (domain.Answer, error) {
	body, err := json.Marshal(map[string]any{
		"operation": r.Operation, "reference": r.Payment, "card": r.Card, "amount": r.Amount, "of": r.Reference,
	})
	if err != nil {
		return domain.Answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.cfg.URL+"/v1/operations", bytes.NewReader(body))
	if err != nil {
		return domain.Answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if b.cfg.Keys {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := b.client.Do(req)
	if err != nil {
		return domain.Answer{}, fmt.Errorf("bank: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	return read(res)
}

func read(res *http.Response) (domain.Answer, error) {
	if res.StatusCode != http.StatusOK {
		err := fmt.Errorf("bank: status %d", res.StatusCode)
		return domain.Answer{}, resilience.WithOutcome(err, resilience.HTTPOutcome(res, nil))
	}
	var a struct{ Name, Refused string }
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		return domain.Answer{}, fmt.Errorf("bank: answer: %w", err)
	}
	return domain.Answer{Name: a.Name, Refused: a.Refused}, nil
}
