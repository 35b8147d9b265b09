package kafkabus

import (
	"context"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// tokenProvider adapts a function to sarama, which wants an answer within the time to dial, and calls for it on a
// goroutine of its own, where a panic would end the process.
type tokenProvider struct {
	token   func(ctx context.Context) (string, error)
	timeout time.Duration
}

func (p tokenProvider) Token() (token *sarama.AccessToken, err error) {
	defer func() {
		if v := recover(); v != nil {
			token, err = nil, fmt.Errorf("kafkabus: Config.SASL.Token panicked: %v", v)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	text, err := p.token(ctx)
	if err != nil {
		return nil, err
	}
	return &sarama.AccessToken{Token: text}, nil
}
