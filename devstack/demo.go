package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/signup-saga/signup-saga/devstack/internal/demo"
	"github.com/signup-saga/signup-saga/devstack/internal/stack"
)

func runDemo(ctx context.Context, args []string, io stdio) error {
	options := stack.Options{Members: 1, Storages: 1, Faults: true}
	flags := newFlags("demo", "[--dir DIR] [--bin DIR]", io)
	flags.StringVar(&options.Dir, "dir", "", "keep everything in this `folder` (default: a throw-away folder)")
	flags.StringVar(&options.Bin, "bin", "", "use the services built in this `folder` (default: build them)")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	screen := demo.NewScreen(io.out, io.getenv)
	options.Note = screen.Note
	screen.Print("\n  Signup Saga: nothing outside the member database can make a signup fail\n")
	screen.Begin("PostgreSQL, NATS, a mail server and two services start")
	err := withStack(ctx, options, io, func(s *stack.Stack) error {
		screen.Done("ready after %.1f s", screen.Elapsed().Seconds())
		if err := demo.Run(ctx, s, screen); err != nil {
			return unlessEnded(ctx, errors.Join(err, s.Deaths(), errors.New("--dir DIR keeps all logs in DIR/log")))
		}
		if io.getenv("ONCE") == "1" || !demo.IsTerminal(io.out) {
			return nil
		}
		screen.Print("%s", whatNext(s))
		<-ctx.Done()
		return nil
	})
	screen.Fail() // does nothing unless a step was cut short
	return err
}

// whatNext is what a person may try when the story is over.
func whatNext(s *stack.Stack) string {
	v := s.Variables().Get
	return fmt.Sprintf(`
  It stays up until Ctrl-C. In another terminal:

    . %[1]s/devstack.env
    curl -i $MEMBER_URL/v1/members -H 'Content-Type: application/json' \
      -d '{"username":"mina","password":"correct horse battery"}'
    curl -s $ADMIN_URL/admin/v1/sagas -H "Authorization: Bearer $ADMIN_TOKEN"
    %[3]s kill nats --dir %[1]s     # or storage, smtp, postgres; then: start
    %[3]s wipe nats --dir %[1]s     # lose every message on purpose

  Mails: %[2]s    Logs: %[1]s/log
`, s.Dir(), v("MAIL_URL"), ownName())
}

// ownName is how this program can be called again from the same folder.
func ownName() string {
	path, err := os.Executable()
	if err != nil || strings.Contains(path, "go-build") {
		return "go run ./devstack" // go run deletes what it has built
	}
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if short, err := filepath.Rel(here, path); err == nil && !strings.HasPrefix(short, "..") {
		return "./" + short
	}
	return path
}
