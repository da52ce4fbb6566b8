package service_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

// appendix has every error code of PostgreSQL 18; 00, 01 and 02 are not errors.
const appendix = `
03000 08000 08001 08003 08004 08006 08007 08P01 09000 0A000 0B000 0F000 0F001 0L000 0LP01 0P000 0Z000 0Z002 
20000 21000 22000 22001 22002 22003 22004 22005 22007 22008 22009 2200B 2200C 2200D 2200F 2200G 2200H 2200L 
2200M 2200N 2200S 2200T 22010 22011 22012 22013 22014 22015 22016 22018 22019 2201B 2201E 2201F 2201G 2201W 
2201X 22021 22022 22023 22024 22025 22026 22027 2202E 2202G 2202H 22030 22031 22032 22033 22034 22035 22036 
22037 22038 22039 2203A 2203B 2203C 2203D 2203E 2203F 2203G 22P01 22P02 22P03 22P04 22P05 22P06 23000 23001 
23502 23503 23505 23514 23P01 24000 25000 25001 25002 25003 25004 25005 25006 25007 25008 25P01 25P02 25P03 
25P04 26000 27000 28000 28P01 2B000 2BP01 2D000 2F000 2F002 2F003 2F004 2F005 34000 38000 38001 38002 38003 
38004 39000 39001 39004 39P01 39P02 39P03 3B000 3B001 3D000 3F000 40000 40001 40002 40003 40P01 42000 42501 
42601 42602 42611 42622 42701 42702 42703 42704 42710 42712 42723 42725 42803 42804 42809 42830 42846 42883 
428C9 42939 42P01 42P02 42P03 42P04 42P05 42P06 42P07 42P08 42P09 42P10 42P11 42P12 42P13 42P14 42P15 42P16 
42P17 42P18 42P19 42P20 42P21 42P22 44000 53000 53100 53200 53300 53400 54000 54001 54011 54023 55000 55006 
55P02 55P03 55P04 57000 57014 57P01 57P02 57P03 57P04 57P05 58000 58030 58P01 58P02 72000 F0000 F0001 HV000 
HV001 HV002 HV004 HV005 HV006 HV007 HV008 HV009 HV00A HV00B HV00C HV00D HV00J HV00K HV00L HV00M HV00N HV00P 
HV00Q HV00R HV010 HV014 HV021 HV024 HV090 HV091 P0000 P0001 P0002 P0003 P0004 XX000 XX001 XX002 
`

// Every code of the appendix has one meaning. A code that is in neither list is a defect: it is answered 500
// and logged, and the statement is never repeated.
func TestEveryErrorCodeHasOneMeaning(t *testing.T) {
	undone := "40000 40001 40P01 53300 55P03 57014 72000"
	notNow := "08000 08001 08003 08004 08006 08007 08P01 25006 25P03 25P04 26000 28000 28P01 3D000 40003 42P05 " +
		"53000 53100 53200 53400 54000 55000 55006 57000 57P01 57P02 57P03 57P04 57P05 58000 58030 58P01 58P02"
	for _, code := range strings.Fields(appendix) {
		err := fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})
		calls := 0
		got := service.Repeat(t.Context(), func() error {
			calls++
			if calls > 1 {
				return nil
			}
			return err
		})
		repeated, unavailable := calls > 1, service.Unavailable(err)
		if want := strings.Contains(undone, code); repeated != want || (got == nil) != want {
			t.Errorf("%s: repeated %t, want %t", code, repeated, want)
		}
		if want := strings.Contains(undone+" "+notNow, code); unavailable != want {
			t.Errorf("%s: unavailable %t, want %t", code, unavailable, want)
		}
	}
	if err := (&pgconn.PgError{Code: "0A000", Routine: "RevalidateCachedQuery"}); !service.Unavailable(err) {
		t.Error("a plan that a migration made stale is a defect")
	}
	if err := (&pgconn.PgError{Code: ""}); service.Unavailable(err) {
		t.Error("no code is not a defect")
	}
}

func TestRepeatIsBounded(t *testing.T) {
	undone, unknown := &pgconn.PgError{Code: "40001"}, &pgconn.PgError{Code: "57P01"}
	calls := 0
	err := service.Repeat(t.Context(), func() error { calls++; return undone })
	if calls != 8 || !errors.Is(err, undone) {
		t.Errorf("%d calls, %v", calls, err)
	}
	calls = 0
	err = service.Repeat(t.Context(), func() error {
		calls++
		if calls == 1 {
			return undone
		}
		return unknown
	})
	if calls != 2 || !errors.Is(err, unknown) {
		t.Errorf("%d calls, %v: an unknown outcome was repeated", calls, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls = 0
	err = service.Repeat(ctx, func() error { calls++; cancel(); return undone })
	if calls != 1 || !errors.Is(err, undone) {
		t.Errorf("%d calls, %v: repeated after the end of its time", calls, err)
	}
}

// Transactions that Postgres undid are repeated. The conditions are real: a lock that is not free in time, a
// statement that takes too long, a serialization failure and a deadlock.
func TestTransactionsAreRepeated(t *testing.T) {
	pool, err := openPool(t.Context(), testenv.Database(t, "empty", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "CREATE TABLE x (id int PRIMARY KEY, n int); INSERT INTO x VALUES (1, 0), (2, 0)")
	if err != nil {
		t.Fatal(err)
	}
	add := func(tx pgx.Tx, id int) error {
		_, err := tx.Exec(t.Context(), "UPDATE x SET n = n + 1 WHERE id = $1", id)
		return err
	}
	waits := make(chan struct{}) // closed while the other transaction is idle
	close(waits)
	// Each condition holds in the first try; other changes the database meanwhile.
	conditions := map[string]struct {
		set   string
		other func(other pgx.Tx, first pgx.Tx) error
	}{
		"55P03": {"SET LOCAL lock_timeout = 50", func(other, _ pgx.Tx) error { return add(other, 1) }},
		"57014": {"SET LOCAL statement_timeout = 50", func(other, _ pgx.Tx) error { return add(other, 1) }},
		"40001": {"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", func(other, first pgx.Tx) error {
			var n int
			if err := first.QueryRow(t.Context(), "SELECT n FROM x WHERE id = 1").Scan(&n); err != nil {
				return err
			}
			if err := add(other, 1); err != nil {
				return err
			}
			return other.Commit(t.Context())
		}},
		"40P01": {"SET LOCAL deadlock_timeout = 10", func(other, first pgx.Tx) error {
			if err := errors.Join(add(other, 1), add(first, 2)); err != nil {
				return err
			}
			waits = make(chan struct{})
			go func() {
				defer close(waits)
				_ = add(other, 2)
			}()
			return nil
		}},
	}
	for code, c := range conditions {
		t.Run(code, func(t *testing.T) {
			other, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Rollback(context.WithoutCancel(t.Context())) }()
			var failed *pgconn.PgError
			tries := 0
			err = service.Transactor{Pool: pool}.Do(t.Context(), nil, func(tx pgx.Tx) error {
				if tries++; tries > 1 {
					<-waits
					_ = other.Rollback(t.Context())
					return add(tx, 1)
				}
				if _, err := tx.Exec(t.Context(), c.set); err != nil {
					return err
				}
				if err := c.other(other, tx); err != nil {
					return err
				}
				err := add(tx, 1)
				errors.As(err, &failed)
				return err
			})
			if err != nil || tries != 2 || failed == nil || failed.Code != code {
				t.Errorf("%d tries: %v; the first failed with %v", tries, err, failed)
			}
		})
	}
}
