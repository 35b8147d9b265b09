package kafkabus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// roundTrip publishes and consumes one message.
func roundTrip(t *testing.T, brokers []string, cfg kafkabus.Config) {
	t.Helper()
	bus := open(t, brokers, cfg)
	name := topic(t, bus, 1)
	publish(t, bus, name, keyed("k", "1")...)
	read(t, subscribe(t, subscriber(t, bus, "g"), name), 1)[0].Ack()
}

func TestSASL(t *testing.T) {
	t.Parallel()
	for _, m := range []kafkabus.Mechanism{kafkabus.Plain, kafkabus.ScramSHA256, kafkabus.ScramSHA512} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			brokers := fake(t, kfake.EnableSASL(), kfake.Superuser(string(m), "user", "secret")).ListenAddrs()
			cfg := quickConfig()
			cfg.SASL = kafkabus.SASL{Mechanism: m, User: "user", Password: "secret"}
			roundTrip(t, brokers, cfg)

			cfg.SASL.Password = "wrong"
			bus := open(t, brokers, cfg)
			if err := bus.Publisher().Publish("t", keyed("k", "1")...); err == nil {
				t.Fatal("a wrong password was accepted")
			}
		})
	}
}

func TestOAuth(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	var token atomic.Value
	cluster.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
		resp.SupportedMechanisms = []string{"OAUTHBEARER"}
		return resp, nil, true
	})
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		token.Store(string(req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes))
		return req.ResponseKind(), nil, true
	})
	cfg := quickConfig()
	cfg.SASL = kafkabus.SASL{Mechanism: kafkabus.OAuthBearer, Token: func(ctx context.Context) (string, error) {
		if _, ok := ctx.Deadline(); !ok {
			return "", errors.New("no deadline")
		}
		return "the-token", nil
	}}
	roundTrip(t, cluster.ListenAddrs(), cfg)
	if sent, _ := token.Load().(string); !strings.Contains(sent, "Bearer the-token") {
		t.Fatalf("authenticated by %q", sent)
	}
	for name, without := range map[string]func(context.Context) (string, error){
		"error": func(context.Context) (string, error) { return "", errors.New("no token today") },
		"panic": func(context.Context) (string, error) { panic("no token today") }, // on a goroutine of sarama's
	} {
		cfg.SASL.Token = without
		if err := open(t, cluster.ListenAddrs(), cfg).Publisher().Publish("t", keyed("k", "1")...); err == nil {
			t.Fatalf("%s: went on without a token", name)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, pool := certificate(t)
	brokers := fake(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{cert}})).ListenAddrs()
	cfg := quickConfig()
	cfg.TLS = &tls.Config{RootCAs: pool}
	roundTrip(t, brokers, cfg)

	cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
	if err := open(t, brokers, cfg).Publisher().Publish("t", keyed("k", "1")...); err == nil {
		t.Fatal("an unknown authority was trusted")
	}
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
