package kafkabus

import (
	"context"
	"time"

	"github.com/IBM/sarama"
)

// tokenProvider adapts a function to sarama, which wants an answer within the time to dial.
type tokenProvider struct {
	token   func(ctx context.Context) (string, error)
	timeout time.Duration
}

func (p tokenProvider) Token() (*sarama.AccessToken, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	token, err := p.token(ctx)
	if err != nil {
		return nil, err
	}
	return &sarama.AccessToken{Token: token}, nil
}
