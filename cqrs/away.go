package cqrs

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
)

// maxLosses is how often in a row a message's own transaction may be lost with the connection before the message is
// suspected: one that is too large, say, has the server hang up each time.
const maxLosses = 5

// away reports whether a transaction was lost because the store went away, or nobody knows what became of it.
func away(err error) bool {
	var unknown interface { // *uow.OutcomeError
		Resolve(ctx context.Context) (committed bool, err error)
	}
	var op *net.OpError
	if errors.As(err, &unknown) || errors.As(err, &op) {
		return true
	}
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) { // connection, or server shutting down; rolled back for the sake of another transaction
		code := coded.SQLState()
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P0") || strings.HasPrefix(code, "40")
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
