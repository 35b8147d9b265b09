package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var errNoSubject = errors.New("gateway: the token names nobody")

// Token returns a token that proves to a gateway with this secret who customer is, until expires.
func Token(secret []byte, customer string, expires time.Time) (string, error) {
	claims := jwt.RegisteredClaims{Subject: customer, ExpiresAt: jwt.NewNumericDate(expires)}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("gateway: token: %w", err)
	}
	return token, nil
}

// authenticate lets requests with a good token pass, and tells the service whose it is.
func authenticate(secret []byte, next http.Handler) http.Handler {
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithExpirationRequired(),
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		customer, err := subject(parser, secret, r.Header.Get("Authorization"))
		if err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			problem(w, http.StatusUnauthorized, "A valid bearer token is required.")
			return
		}
		r.Header.Set(HeaderCustomer, customer)
		next.ServeHTTP(w, r)
	})
}

func subject(parser *jwt.Parser, secret []byte, header string) (string, error) {
	scheme, raw, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", errNoSubject
	}
	var claims jwt.RegisteredClaims
	_, err := parser.ParseWithClaims(raw, &claims, func(*jwt.Token) (any, error) { return secret, nil })
	if err == nil && claims.Subject == "" {
		err = errNoSubject
	}
	return claims.Subject, err
}
