package service

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// fault kills the process, as kill -9 would, when it reaches a named point for the nth time. Everything that a
// service does outside Postgres happens between two statements, so the points are the named statements and the
// steps of the relays:
//
//	before.NAME, after.NAME                before a statement is sent, after it succeeded;
//	                                       a batch goes by the name of its first statement
//	before.commit.NAME, after.commit.NAME  the commit of the transaction whose first statement is NAME
//	relay.LANE.STEP                        see [outbox.Hooks]: read, publish, …
//
// A nil fault does nothing. It is safe for concurrent use.
type fault struct {
	point string
	left  atomic.Int64 // visits that remain until the process is killed
	log   *slog.Logger
}

var faultPoint = regexp.MustCompile(`^[A-Za-z0-9.]+(:[1-9][0-9]{0,8})?$`)

// newFault returns nil unless a point was named.
func newFault(c Common, log *slog.Logger) *fault {
	if c.Fault == "" {
		return nil
	}
	point, nth, _ := strings.Cut(c.Fault, ":")
	n, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		n = 1
	}
	f := &fault{point: point, log: log}
	f.left.Store(n)
	return f
}

// at kills the process if this is the configured point and its nth visit; then it does not return.
func (f *fault) at(point string) {
	if f == nil || point != f.point || f.left.Add(-1) != 0 {
		return
	}
	f.log.Warn("fault: this process ends here", "point", point)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// relay returns the hook that a lane's relay calls at each of its steps; nil if f is nil.
func (f *fault) relay(lane string) func(step string) error {
	if f == nil {
		return nil
	}
	return func(step string) error {
		f.at("relay." + lane + "." + step)
		return nil
	}
}

type faultKey struct{}

func (f *fault) started(ctx context.Context, conn *pgx.Conn, sql string) context.Context {
	const first = "fault: first statement of the transaction"
	session := conn.PgConn().CustomData()
	name := statementName(sql)
	switch {
	case strings.HasPrefix(strings.ToLower(sql), "begin"):
		delete(session, first)
	case sql == "commit":
		name = fmt.Sprint("commit.", session[first])
	case session[first] == nil && name != "":
		session[first] = name
	}
	f.at("before." + name)
	return context.WithValue(ctx, faultKey{}, name)
}

func (f *fault) ended(ctx context.Context, err error) {
	if name, ok := ctx.Value(faultKey{}).(string); ok && err == nil {
		f.at("after." + name)
	}
}

// statementName returns the name that follows "-- name: ", or "" if there is none.
func statementName(sql string) string {
	rest, ok := strings.CutPrefix(sql, "-- name: ")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(name)
}
