package domain

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Limits of an order; more than this is a mistake or an attack.
const (
	MaxLines    = 50
	MaxQuantity = 1000
)

var (
	// ErrInvalid is wrapped by every refusal of a value.
	ErrInvalid = errors.New("order: invalid")
	base       = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
)

// OrderID names an order and is the key of every message about it.
type OrderID string

// NewOrderID derives the ID from the request that asks for the order: who asks (scope), what for
// (operation) and the key under which the request is repeated. The same request always
// meets the same row, whatever was purged in between.
func NewOrderID(scope, operation, key string) OrderID {
	h := sha256.New()
	for _, part := range []string{scope, operation, key} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return OrderID(base.EncodeToString(h.Sum(nil)[:15]))
}

// RandomOrderID returns an ID that no other request shares: the naive way.
func RandomOrderID() OrderID {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails, by its contract
	return OrderID(base.EncodeToString(b[:]))
}

// CustomerID names who pays.
type CustomerID string

// NewCustomerID refuses an empty or oversized name.
func NewCustomerID(s string) (CustomerID, error) {
	if s == "" || len(s) > 100 {
		return "", fmt.Errorf("%w: a customer's name has 1 to 100 bytes, not %d", ErrInvalid, len(s))
	}
	return CustomerID(s), nil
}

// SKU names a product.
type SKU string

// NewSKU refuses an empty or oversized name, and blanks in it.
func NewSKU(s string) (SKU, error) {
	if s == "" || len(s) > 64 || strings.ContainsAny(s, " \t\r\n") {
		return "", fmt.Errorf("%w: a SKU has 1 to 64 bytes and no blanks: %q", ErrInvalid, s)
	}
	return SKU(s), nil
}

// Quantity counts units of a product, 1 to [MaxQuantity].
type Quantity int

// NewQuantity refuses what is out of range.
func NewQuantity(n int) (Quantity, error) {
	if n < 1 || n > MaxQuantity {
		return 0, fmt.Errorf("%w: a quantity is 1 to %d, not %d", ErrInvalid, MaxQuantity, n)
	}
	return Quantity(n), nil
}

// Money is an amount in cents of the shop's only currency. It is never negative.
type Money int64

// NewMoney refuses a negative amount.
func NewMoney(cents int64) (Money, error) {
	if cents < 0 {
		return 0, fmt.Errorf("%w: an amount is not negative: %d", ErrInvalid, cents)
	}
	return Money(cents), nil
}

// Plus adds, and refuses an overflow.
func (m Money) Plus(n Money) (Money, error) {
	if n > math.MaxInt64-m {
		return 0, fmt.Errorf("%w: the amount is too large", ErrInvalid)
	}
	return m + n, nil
}

// Times multiplies, and refuses an overflow.
func (m Money) Times(q Quantity) (Money, error) {
	if q > 0 && m > math.MaxInt64/Money(q) {
		return 0, fmt.Errorf("%w: the amount is too large", ErrInvalid)
	}
	return m * Money(q), nil
}

// Line is a product and how many units of it, at the price of the moment it was ordered.
type Line struct {
	SKU       SKU
	Quantity  Quantity
	UnitPrice Money
}

// NewLine makes a line of checked values.
func NewLine(sku string, quantity int, unitPrice Money) (Line, error) {
	s, err1 := NewSKU(sku)
	q, err2 := NewQuantity(quantity)
	_, err3 := NewMoney(int64(unitPrice))
	return Line{SKU: s, Quantity: q, UnitPrice: unitPrice}, errors.Join(err1, err2, err3)
}

// Total is the line's price.
func (l Line) Total() (Money, error) { return l.UnitPrice.Times(l.Quantity) }
