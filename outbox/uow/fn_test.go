package uow_test

import (
	"context"
	"errors"
	"testing"

	"github.com/surge-go/surge/outbox/uow"
)

func TestFnWrites(t *testing.T) {
	db := openPostgres(t)
	u := unit(t, db, uow.Config{})
	exec(t, db, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'INSERT INTO items (id) VALUES (1) RETURNING id'")
	err := u.Do(t.Context(), func(ctx context.Context) error {
		var n int
		if err := uow.DB(ctx).Raw("SELECT f()").Scan(&n).Error; err != nil {
			return err
		}
		return errNo
	})
	if !errors.Is(err, errNo) {
		t.Fatal(err)
	}
	if got := count(t, db, "1 = 1"); got != 0 {
		t.Errorf("%d rows, want 0", got)
	}
}
