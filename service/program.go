package service

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
)

// ErrUsage is returned for a command line that is not one of the subcommands.
var ErrUsage = errors.New("usage: serve | migrate | broker | healthcheck | reconcile [--dry-run], " +
	"member-svc also admin-token (configuration comes from the environment; see docs/configuration.md)")

// Program is what the services have in common: how to get from the command line to Postgres and NATS.
type Program struct {
	Name       string           // of the program, its durable consumers and its NATS connection
	Producer   contract.Service // whose streams it writes
	Migrations []MigrationSet   // of its database, in order
	Consumers  []ConsumerConfig // the consumers that it reads
}

// MigrationSets returns the outbox's migrations, followed by a service's own, which are in the folder
// "migrations" and have their version in the given table.
func MigrationSets(own embed.FS, table string) []MigrationSet {
	lanes, _ := fs.Sub(outbox.Migrations, "migrations") // fails only for malformed names
	mine, _ := fs.Sub(own, "migrations")
	return []MigrationSet{{FS: lanes, Table: "outbox_version"}, {FS: mine, Table: table}}
}

// Command reads the configuration of a subcommand and runs it.
type Command func(ctx context.Context, getenv func(string) string, stdout io.Writer) error

// Dispatch runs the subcommand that args name. A key of commands is one word, or several joined by spaces. An
// unknown subcommand is [ErrUsage]. Asked for help, it prints ErrUsage.
func Dispatch(
	ctx context.Context, args []string, getenv func(string) string, stdout io.Writer, commands map[string]Command,
) error {
	line := strings.Join(args, " ")
	command := commands[line]
	switch {
	case line == "help" || line == "-h" || line == "--help":
		_, err := fmt.Fprintln(stdout, ErrUsage)
		return err
	case command == nil:
		return ErrUsage
	}
	return command(ctx, getenv, stdout)
}

// With returns a command that loads a configuration of type C for fn.
func With[C any](fn func(ctx context.Context, cfg C, stdout io.Writer) error) Command {
	return func(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
		var cfg C
		if err := LoadConfig(getenv, &cfg); err != nil {
			return err
		}
		return fn(ctx, cfg, stdout)
	}
}

// Migrate is the migrate subcommand: it brings the database up to date and, if NATS answers, also the
// configuration of the program's streams and consumers.
func (p Program) Migrate(ctx context.Context, databaseURL Secret, c Common, log *slog.Logger) error {
	if err := Migrate(ctx, databaseURL.Reveal(), log, p.Migrations...); err != nil {
		return err
	}
	return p.setUp(ctx, c, log, 0)
}

// WithDatabase runs fn, part of a subcommand, with a pool that it closes afterwards. Like Serve, it waits for
// Postgres and the schema.
func (p Program) WithDatabase(
	ctx context.Context, url Secret, c Common, log *slog.Logger, fn func(*pgxpool.Pool) error,
) error {
	pool, err := p.database(ctx, url, c, log)
	if err != nil {
		return err
	}
	defer func() { _ = ClosePool(context.WithoutCancel(ctx), pool) }()
	return fn(pool)
}

// database opens a pool and waits until Postgres answers and has the program's schema.
func (p Program) database(ctx context.Context, url Secret, c Common, log *slog.Logger) (*pgxpool.Pool, error) {
	pool, err := OpenPool(ctx, url, c, log)
	if err != nil {
		return nil, err
	}
	if err := waitMigrated(ctx, pool, log, p.Migrations...); err != nil {
		_ = ClosePool(context.WithoutCancel(ctx), pool)
		return nil, err
	}
	return pool, nil
}

// nonEssentialDelay is how long events that nobody waits for may gather before they are published or handled
// together. One by one they would cost as much as the essential ones.
const nonEssentialDelay = 50 * time.Millisecond

func spacing(lane contract.Lane) time.Duration {
	if lane == contract.Essential {
		return 0
	}
	return nonEssentialDelay
}

// Linger returns the [ConsumerConfig.Linger] that suits the messages of a lane.
func Linger(lane contract.Lane) time.Duration {
	if lane == contract.Essential {
		return 2 * time.Millisecond // one transaction costs as much as handling several messages in it
	}
	return nonEssentialDelay
}

// lanes returns the lanes in which the program has events. The others need no stream and no relay.
func (p Program) lanes() []contract.Lane {
	return slices.DeleteFunc(contract.Lanes(), func(l contract.Lane) bool {
		return len(contract.Subjects(p.Producer, l)) == 0
	})
}

// HealthcheckAddr is the healthcheck subcommand. It returns nil if the program's own listener, bound to addr
// with the certificate in files, answers within 2 s that it is ready.
func HealthcheckAddr(ctx context.Context, addr string, files TLSFiles) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	client, scheme := files.client()
	return healthcheck(ctx, client, scheme+"://"+net.JoinHostPort(host, port)+"/readyz")
}
