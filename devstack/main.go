// Devstack runs the whole stack on one machine, each component in its own process. No component outlives devstack.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `devstack runs the whole stack on this machine.

  devstack demo                     the story in a minute
  devstack up                       run the stack until Ctrl-C
  devstack status                   what runs, and where
  devstack kill|stop|start|pause|resume COMPONENT
  devstack wipe nats                delete everything that NATS has stored
  devstack postgres                 run only a private PostgreSQL
  devstack nats                     run only a NATS server
  devstack pgbouncer                run only a PgBouncer, in front of a database
  devstack smtp                     run only a mail server that shows its mails

Each command explains its flags with -h. Settings by environment variable:
  DATABASE_URL   use this PostgreSQL server (as a role that may create databases and roles) instead of starting one
  PG_BIN         the folder with the PostgreSQL programs to use
  DEVSTACK_PG    "fetch" passes over an installed PostgreSQL and fetches a private copy once
  NO_COLOR       no colours
`

// stdio holds a command's standard input, its outputs and its environment.
type stdio struct {
	in       *os.File
	out, err io.Writer
	getenv   func(string) string
	// hurry is done when the user has asked twice to end: every process that still runs is then killed.
	hurry context.Context
}

type command func(ctx context.Context, args []string, io stdio) error

// errUsage ends a command with status 2. The problem is already printed.
var errUsage = errors.New("usage")

func commands() map[string]command {
	return map[string]command{
		"demo":     runDemo,
		"up":       runUp,
		"status":   runStatus,
		"wipe":     operate("wipe"),
		"kill":     operate("kill"),
		"stop":     operate("stop"),
		"start":    operate("start"),
		"pause":    operate("pause"),
		"resume":   operate("resume"),
		"postgres": runPostgres,
		"nats":     runNATS,
		"smtp":     runSMTP,

		"pgbouncer": runPgBouncer,
	}
}

func main() {
	ctx, hurry := asked()
	err := run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, hurry: hurry})
	switch {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "devstack:", err)
		os.Exit(1)
	}
}

// asked returns two contexts: once is done at the first request to end, twice at the second.
func asked() (once, twice context.Context) {
	once, first := context.WithCancel(context.Background())
	twice, second := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		first()
		<-signals
		second()
	}()
	return once, twice
}

func run(ctx context.Context, args []string, io stdio) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Fprint(io.out, usage)
		return nil
	}
	cmd, ok := commands()[args[0]]
	if !ok {
		fmt.Fprintf(io.err, "devstack: there is no command %q\n\n%s", args[0], usage)
		return errUsage
	}
	err := cmd(ctx, args[1:], io)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}

// newFlags returns the flags of a command. synopsis is the usage text after its name.
func newFlags(name, synopsis string, io stdio) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.err)
	flags.Usage = func() {
		fmt.Fprintf(io.err, "usage: devstack %s %s\n", name, synopsis)
		flags.PrintDefaults()
	}
	return flags
}

// parse reads flags, before or after the operands, and checks the number of operands.
func parse(flags *flag.FlagSet, args []string, operands int) ([]string, error) {
	var found []string
	for {
		if err := flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, errUsage
		}
		if flags.NArg() == 0 {
			break
		}
		found = append(found, flags.Arg(0))
		args = flags.Args()[1:]
	}
	if len(found) != operands {
		flags.Usage()
		return nil, errUsage
	}
	return found, nil
}

// untilEOF returns a context that also ends when a pipe on standard input is closed: at the latest when the
// process at the other end dies. A terminal, a file or /dev/null does not show whether another process lives,
// and is not watched.
func untilEOF(ctx context.Context, in *os.File) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	info, err := in.Stat()
	if err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0 {
		go func() {
			defer cancel()
			_, _ = io.Copy(io.Discard, in)
		}()
	}
	return ctx, cancel
}
