package bank

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var (
	errClosed   = errors.New("bank: closed")
	errMismatch = errors.New("bank: the key was used for another request")
)

// maxBatch bounds how many operations share a commit.
const maxBatch = 256

// operation is what a request asks for.
type operation struct {
	Operation string `json:"operation"`
	Reference string `json:"reference"` // the customer's own name for it: an order
	Card      string `json:"card"`
	Amount    int64  `json:"amount"`
	Of        string `json:"of"` // what is captured, voided or refunded
	key       string
}

// answer is what the bank says.
type answer struct {
	Name    string `json:"name"`
	Refused string `json:"refused,omitempty"`
}

func (a answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // the client left; the ledger stands
}

type job struct {
	op     operation
	answer answer
	err    error
	done   chan struct{}
}

func decode(w http.ResponseWriter, r *http.Request) (operation, error) {
	var op operation
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&op); err != nil {
		return op, fmt.Errorf("bank: %w", err)
	}
	op.key = r.Header.Get("Idempotency-Key")
	switch op.Operation {
	case Authorize, Capture, Void, Refund:
	default:
		return op, fmt.Errorf("bank: unknown operation %q", op.Operation)
	}
	if op.Reference == "" || op.Amount < 1 {
		return op, errors.New("bank: a reference and a positive amount are required")
	}
	return op, nil
}

// perform hands the operation to the writer and waits for its commit.
func (b *Bank) perform(ctx context.Context, op operation) (answer, error) {
	j := &job{op: op, done: make(chan struct{})}
	select {
	case b.work <- j:
	case <-b.closed:
		return answer{}, errClosed
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	select {
	case <-j.done:
		return j.answer, j.err
	case <-b.done:
		return answer{}, errClosed
	}
}

// write commits what waits, many operations at a time, until the bank is closed.
func (b *Bank) write() {
	defer close(b.done)
	for {
		select {
		case <-b.closed:
			return
		case first := <-b.work:
			batch := append(make([]*job, 0, maxBatch), first)
			for len(batch) < maxBatch && len(b.work) > 0 {
				batch = append(batch, <-b.work)
			}
			b.commit(batch)
		}
	}
}

// commit performs a batch in one transaction and answers all of it.
func (b *Bank) commit(batch []*job) {
	err := b.transact(batch)
	for _, j := range batch {
		if err != nil {
			j.err = fmt.Errorf("bank: write the ledger: %w", err)
		}
		close(j.done)
	}
}

func (b *Bank) transact(batch []*job) error {
	ctx := context.Background() // a client that leaves does not undo the others
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, j := range batch {
		if j.answer, j.err = enter(ctx, tx, j.op); j.err != nil && !errors.Is(j.err, errMismatch) {
			return errors.Join(j.err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// enter performs one operation: it writes a row, or finds the answer given before under the key.
func enter(ctx context.Context, tx *sql.Tx, op operation) (answer, error) {
	of, refused, err := judge(ctx, tx, op)
	if err != nil {
		return answer{}, err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO ledger (operation, reference, card, amount, of, refused, idem_key, at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (idem_key) DO NOTHING`,
		op.Operation, op.Reference, op.Card, op.Amount, of, refused,
		sql.NullString{String: op.key, Valid: op.key != ""}, time.Now().UnixMicro())
	if err != nil {
		return answer{}, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		a, failed := replay(ctx, tx, op)
		return a, errors.Join(err, failed)
	}
	seq, err := res.LastInsertId()
	return answer{Name: name(op.Operation, seq), Refused: refused}, err
}

func replay(ctx context.Context, tx *sql.Tx, op operation) (answer, error) {
	var seq, amount, of int64
	var kind, reference, refused string
	err := tx.QueryRowContext(ctx, `SELECT seq, operation, reference, amount, of, refused FROM ledger WHERE idem_key = ?`,
		op.key).Scan(&seq, &kind, &reference, &amount, &of, &refused)
	if err != nil {
		return answer{}, err
	}
	if kind != op.Operation || reference != op.Reference || amount != op.Amount || of != number(op.Of) {
		return answer{}, errMismatch
	}
	return answer{Name: name(kind, seq), Refused: refused}, nil
}

// judge decides whether the bank refuses, and finds the row that is captured, voided or refunded.
// It does not look for an earlier operation of the same kind: that is what keys are for.
func judge(ctx context.Context, tx *sql.Tx, op operation) (of int64, refused string, err error) {
	if op.Operation == Authorize {
		if strings.HasPrefix(op.Card, "declined") {
			return 0, "insufficient_funds", nil
		}
		return 0, "", nil
	}
	want := Authorize
	if op.Operation == Refund {
		want = Capture
	}
	of = number(op.Of)
	var kind, no string
	var amount int64
	err = tx.QueryRowContext(ctx, `SELECT operation, amount, refused FROM ledger WHERE seq = ?`, of).
		Scan(&kind, &amount, &no)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return of, "unknown_" + want, nil
	case err != nil:
		return 0, "", err
	case kind != want || no != "" || op.Amount > amount:
		return of, "not_possible", nil
	}
	return of, "", nil
}

func name(operation string, seq int64) string { return operation + "-" + strconv.FormatInt(seq, 10) }

// number is the row that a name stands for; 0 for what is no name.
func number(name string) int64 {
	_, digits, _ := strings.Cut(name, "-")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
