package kafkabus

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// Mechanism is a SASL mechanism.
type Mechanism string

// The mechanisms that are supported. Kerberos is available through OverwriteSaramaConfig.
const (
	Plain       Mechanism = "PLAIN"         // needs TLS to be of use
	ScramSHA256 Mechanism = "SCRAM-SHA-256" //
	ScramSHA512 Mechanism = "SCRAM-SHA-512" //
	OAuthBearer Mechanism = "OAUTHBEARER"   // needs Token
)

// SASL authenticates against the brokers. The zero value does not authenticate.
type SASL struct {
	Mechanism Mechanism
	User      string
	Password  string

	// Token returns an access token that is not expired, for OAuthBearer. It is called once per connection
	// and should cache; it must be safe for concurrent use.
	Token func(ctx context.Context) (string, error)
}

func (s SASL) validate() error {
	switch s.Mechanism {
	case "":
		return nil
	case OAuthBearer:
		if s.Token == nil {
			return errors.New("kafkabus: Config.SASL.Token is missing, OAUTHBEARER needs it")
		}
	case Plain, ScramSHA256, ScramSHA512:
		if s.User == "" {
			return fmt.Errorf("kafkabus: Config.SASL.User is empty, %s needs it", s.Mechanism)
		}
	default:
		return fmt.Errorf("kafkabus: Config.SASL.Mechanism %q is unknown", s.Mechanism)
	}
	return nil
}

func (s SASL) apply(c *sarama.Config) {
	if s.Mechanism == "" {
		return
	}
	sasl := &c.Net.SASL
	sasl.Enable, sasl.Handshake = true, true
	sasl.Version = sarama.SASLHandshakeV1
	sasl.Mechanism = sarama.SASLMechanism(s.Mechanism)
	sasl.User, sasl.Password = s.User, s.Password
	switch s.Mechanism {
	case ScramSHA256:
		sasl.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
	case ScramSHA512:
		sasl.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
	case OAuthBearer:
		sasl.TokenProvider = tokenProvider{s.Token, c.Net.DialTimeout}
	}
}

// scramClient is one SCRAM conversation.
type scramClient struct {
	hash scram.HashGeneratorFcn
	conv *scram.ClientConversation
}

func (c *scramClient) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	c.conv = client.NewConversation()
	return nil
}

func (c *scramClient) Step(challenge string) (string, error) { return c.conv.Step(challenge) }
func (c *scramClient) Done() bool                            { return c.conv.Done() }
