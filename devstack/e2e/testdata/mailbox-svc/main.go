// Mailbox-svc gives each member a mailbox. It is the smallest participant that follows the rules: it has no
// provider, and its replies are its only events. Unlike storage-svc, it has no attempts with back-off, circuit
// breaker, dead letters or faults.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/contract"
	"github.com/signup-saga/signup-saga/outbox"
	"github.com/signup-saga/signup-saga/service"
)

//go:embed migrations/*.sql
var migrations embed.FS

var program = service.Program{
	Name: "mailbox-svc", Producer: contract.Mailbox, Migrations: service.MigrationSets(migrations, "mailbox_version"),
	Consumers: []service.ConsumerConfig{{
		Stream: contract.Stream(contract.Member, contract.Essential), Durable: "mailbox-svc",
		Subjects: contract.Commands(contract.Mailbox), Batch: 100,
	}},
}

// MigrateConfig is the configuration of migrate.
type MigrateConfig struct {
	service.Common
	DatabaseURL service.Secret `env:"MAILBOX_DATABASE_URL,required" help:"the Mailbox database; migrate needs its owner"`
}

// ProbeConfig is the configuration of healthcheck.
type ProbeConfig struct {
	service.TLSFiles
	Addr string `env:"MAILBOX_HTTP_ADDR" envDefault:"127.0.0.1:8095" help:"internal listener"`
}

type config struct {
	MigrateConfig
	ProbeConfig
	Token service.Secret `env:"MAILBOX_TOKEN,required" help:"bearer token of the internal listener"`
}

func main() { service.Main(run) }

func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	return service.Dispatch(ctx, args, getenv, stdout, map[string]service.Command{
		"serve": service.With(serve),
		"migrate": service.With(func(ctx context.Context, c MigrateConfig, stdout io.Writer) error {
			return program.Migrate(ctx, c.DatabaseURL, c.Common, c.Logger(stdout))
		}),
		"broker": service.With(program.KeepBroker),
		"healthcheck": service.With(func(ctx context.Context, c ProbeConfig, _ io.Writer) error {
			return service.HealthcheckAddr(ctx, c.Addr, c.TLSFiles)
		}),
	})
}

// serve connects the parts, commands in and replies out, and runs them.
func serve(ctx context.Context, c config, stdout io.Writer) error {
	return program.Serve(ctx, c.DatabaseURL, c.Common, c.Logger(stdout), func(b *service.Base) error {
		tokens, err := service.OperatorTokens("service", c.Token.Reveal())
		if err != nil {
			return fmt.Errorf("MAILBOX_TOKEN: %w", err)
		}
		certificate, err := c.ServerTLS(b.Log)
		if err != nil {
			return err
		}
		mailboxes := &mailboxes{pool: b.Pool, wake: b.Wake, log: b.Log}
		b.Consume(program.Consumers[0], mailboxes.handle)
		return b.Listen(service.ServerConfig{
			Name: "internal", Addr: c.Addr, TLS: certificate, Handler: mailboxes.handler(tokens, b.Health),
		})
	})
}

type mailboxes struct {
	pool *pgxpool.Pool
	wake func()
	log  *slog.Logger
}

// mailbox holds the fields of a command.
type mailbox struct {
	MemberID, SagaID string
	Generation       int64
	Desired          string // present or absent
}

// handle carries out a batch of commands and replies to each, in one transaction. A crash before the commit
// leaves nothing behind. After a crash that follows the commit, the commands are delivered and replied to again.
func (m *mailboxes) handle(ctx context.Context, batch []service.Message) error {
	return outbox.InTx(ctx, service.Transactor{Pool: m.pool}, m.wake, func(tx pgx.Tx) error {
		for _, message := range batch {
			e, wanted, err := parse(message)
			if err != nil { // no reply: the saga's timer re-drives the step
				m.log.Warn("malformed command skipped", "subject", message.Subject, "error", err)
				continue
			}
			removed, err := obey(ctx, tx, wanted)
			if err != nil {
				return err
			}
			reply, err := answer(e, wanted, removed)
			if err != nil {
				return err
			}
			if err := outbox.Append(ctx, tx, reply); err != nil {
				return err
			}
		}
		return nil
	})
}

func parse(message service.Message) (contract.Event, mailbox, error) {
	e, err := contract.Receive(message.Subject, message.Headers, message.Body)
	if err != nil {
		return e, mailbox{}, err
	}
	var c contract.StorageCommand
	if err := e.DataTo(&c); err != nil {
		return e, mailbox{}, err
	}
	desired, known := map[contract.Type]string{
		contract.MailboxProvision: "present", contract.MailboxDeprovision: "absent",
	}[e.Type]
	if !known {
		return e, mailbox{}, fmt.Errorf("%w: %s is not a mailbox command", contract.ErrMalformed, e.Type)
	}
	return e, mailbox{c.MemberID, c.SagaID, c.Generation, desired}, nil
}

// obey brings the row to the desired state, and reports whether the mailbox was removed for good. A removal is obeyed
// whatever its generation, and an absent mailbox stays absent. Every other command finds its desired state in place.
func obey(ctx context.Context, tx pgx.Tx, c mailbox) (removed bool, err error) {
	err = tx.QueryRow(ctx, `-- name: obey
INSERT INTO mailbox AS m (member_id, saga_id, generation, desired) VALUES ($1, $2, $3, $4)
ON CONFLICT (member_id) DO UPDATE SET generation = greatest(m.generation, $3), updated_at = now(),
    desired = CASE WHEN $4 = 'absent' THEN 'absent' ELSE m.desired END
RETURNING desired = 'absent'`, c.MemberID, c.SagaID, c.Generation, c.Desired).Scan(&removed)
	return removed, err
}

// answer returns the reply that states what is true, in the generation of the command.
func answer(e contract.Event, c mailbox, removed bool) (outbox.Event, error) {
	typ, reply := contract.MailboxProvisioned, contract.StorageReply{
		MemberID: c.MemberID, SagaID: c.SagaID, Generation: c.Generation, Attempt: 1,
	}
	switch {
	case c.Desired == "absent":
		typ = contract.MailboxDeprovisioned
	case removed:
		typ = contract.MailboxRejected
		reply.Error = &contract.StorageError{
			Class: "rejected", Message: "the mailbox was removed for good", Fingerprint: "rejected:removed",
		}
	}
	data, err := contract.Encode(reply)
	id, failed := uuid.NewV7()
	return outbox.Event{
		Lane: string(contract.Essential), ID: id.String(), Key: c.MemberID, Type: string(typ), Payload: data,
		Headers: contract.Event{SagaID: c.SagaID, Generation: c.Generation, TraceParent: e.TraceParent}.Headers(),
	}, errors.Join(err, failed)
}
