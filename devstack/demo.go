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
	// These do nothing unless a step was interrupted.
	if err == nil {
		screen.Cancel()
	}
	screen.Fail()
	if ctx.Err() != nil {
		screen.Print("\n  The demo has ended. Everything that it started is stopped.")
	}
	return err
}

// whatNext returns what the user can try after the demo.
func whatNext(s *stack.Stack) string {
	v := s.Variables().Get
	return fmt.Sprintf(`
  It stays up until Ctrl-C. Go on in a browser:

    break it   %[1]s/    and see who can still sign up
    sign up    %[2]s/
    console    %[3]s/console/
               operator %[4]s
               viewer   %[5]s
    mailbox    %[6]s/

  or in another terminal:

    . %[7]s/devstack.env
    curl -i $MEMBER_URL/v1/members -H 'Content-Type: application/json' \
      -d '{"username":"mina","password":"correct horse battery"}'
    %[8]s kill nats --dir %[7]s

  Instead of nats: storage, smtp, postgres. Instead of kill: start, or wipe nats.

  Logs: %[7]s/log
`,
		v("FAULTS_URL"), v("MEMBER_URL"), v("ADMIN_URL"), v("ADMIN_TOKEN"), v("VIEWER_TOKEN"), v("MAIL_URL"), s.Dir(),
		ownName())
}

// ownName returns how to call this program again from the same folder.
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
