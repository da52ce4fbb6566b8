package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/signup-saga/signup-saga/devstack/internal/faultscreen"
	"github.com/signup-saga/signup-saga/devstack/internal/postgres"
	"github.com/signup-saga/signup-saga/devstack/internal/stack"
)

// bindStack binds flags to the options of a stack.
func bindStack(flags *flag.FlagSet, o *stack.Options) {
	flags.StringVar(&o.Dir, "dir", "", "keep everything in this `folder` (default: a throw-away folder)")
	flags.IntVar(&o.Members, "members", 1, "run this `number` of member services")
	flags.IntVar(&o.Storages, "storages", 1, "run this `number` of storage services")
	flags.BoolVar(&o.Faults, "faults", false, "allow faults of the storage provider")
	flags.Func("via",
		"let a service reach a dependency through `service:target=host:port`, e.g. storage:nats=127.0.0.1:4000; may "+
			"be repeated", o.AddVia)
	flags.StringVar(&o.Bin, "bin", "", "use the services built in this `folder` (default: build them)")
}

func runUp(ctx context.Context, args []string, io stdio) error {
	var options stack.Options
	flags := newFlags("up", "[flags]", io)
	bindStack(flags, &options)
	hash := flags.String("hash-cost", "real", "cost of a password hash: `real or test`")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	if (*hash != "real" && *hash != "test") || options.Members < 1 || options.Storages < 1 {
		fmt.Fprintln(io.err, "devstack up: --hash-cost must be real or test, --members and --storages at least 1")
		return errUsage
	}
	options.CheapHash = *hash == "test"
	options.Note = func(line string) { fmt.Fprintln(io.err, line) }
	return withStack(ctx, options, io, func(s *stack.Stack) error {
		fmt.Fprint(io.out, describe(s))
		<-ctx.Done()
		fmt.Fprintln(io.err, "Stopping")
		return nil
	})
}

// withStack runs a stack while use runs, and always ends it.
func withStack(ctx context.Context, options stack.Options, io stdio, use func(*stack.Stack) error) (err error) {
	options.Account, options.Getenv = postgres.CurrentAccount(), io.getenv
	home, leave, err := enter(options.Dir, options.Account)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	options.Dir = home
	if options.Bin != "" {
		if options.Bin, err = filepath.Abs(options.Bin); err != nil {
			return err
		}
	}
	s, err := stack.Start(ctx, options)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer func() { err = errors.Join(err, s.Stop(io.hurry)) }()
	if l := s.FaultScreen(); l != nil {
		end, err := faultscreen.Serve(l, s)
		if err != nil {
			return err
		}
		defer end()
	}
	return use(s)
}

// describe returns the table that up prints.
func describe(s *stack.Stack) string {
	v := s.Variables().Get
	faults := ""
	if at := v("FAULTS_URL"); at != "" {
		faults = "\n  break it   " + at + "/"
	}
	return fmt.Sprintf(`
The stack is ready. Ctrl-C ends it.
%[13]s
  page       %[1]s/
  console    %[2]s/console/
  sign up    curl -i %[1]s/v1/members -H 'Content-Type: application/json' \
               -d '{"username":"mina","password":"a long enough one"}'
  admin      curl %[2]s/admin/v1/sagas -H 'Authorization: Bearer %[3]s'
  storage    curl %[4]s/readyz
  mails      %[5]s
  psql       psql '%[6]s'
             psql '%[7]s'
  nats       nats --server %[8]s stream ls

  operator   %[3]s
  viewer     %[9]s
  storage    %[10]s   (service token)

  operate    %[12]s kill storage --dir %[11]s
  settings   %[11]s/devstack.env
  logs       %[11]s/log
`, v("MEMBER_URL"), v("ADMIN_URL"), v("ADMIN_TOKEN"), v("STORAGE_URL"), v("MAIL_URL"), v("MEMBER_DATABASE_URL"),
		v("STORAGE_DATABASE_URL"), v("NATS_URL"), v("VIEWER_TOKEN"), v("STORAGE_TOKEN"), s.Dir(), ownName(), faults)
}

// client returns a client of the running stack that the command names.
func client(flags *flag.FlagSet, dir string, io stdio) (*stack.Client, error) {
	if dir == "" {
		dir = io.getenv("DEVSTACK_DIR")
	}
	if dir == "" {
		fmt.Fprintf(io.err, "devstack %s: --dir is required: the folder that devstack up printed\n", flags.Name())
		return nil, errUsage
	}
	return stack.NewClient(dir)
}

const dirUsage = "the `folder` of the running stack (default: $DEVSTACK_DIR)"

// operate returns the command that carries out verb on one component.
func operate(verb string) command {
	return func(ctx context.Context, args []string, io stdio) error {
		flags := newFlags(verb, "COMPONENT --dir DIR", io)
		dir := flags.String("dir", "", dirUsage)
		var fault string
		if verb == "start" {
			flags.StringVar(&fault, "fault", "",
				"let a service kill itself at this `point[:nth]`; needs a stack with --faults")
		}
		operands, err := parse(flags, args, 1)
		if err != nil {
			return err
		}
		c, err := client(flags, *dir, io)
		if err != nil {
			return err
		}
		done, err := c.Do(ctx, verb, operands[0], fault)
		if err != nil {
			return err
		}
		fmt.Fprintln(io.out, done)
		return nil
	}
}

func runStatus(ctx context.Context, args []string, io stdio) error {
	flags := newFlags("status", "[--json] --dir DIR", io)
	dir := flags.String("dir", "", dirUsage)
	asJSON := flags.Bool("json", false, "print JSON")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	c, err := client(flags, *dir, io)
	if err != nil {
		return err
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		out := json.NewEncoder(io.out)
		out.SetIndent("", "  ")
		return out.Encode(status)
	}
	table := tabwriter.NewWriter(io.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tSTATE\tFOR\tPID\tURL")
	for _, one := range status.Components {
		pid := "-"
		if one.PID != 0 {
			pid = fmt.Sprint(one.PID)
		}
		since := "-"
		if !one.Since.IsZero() {
			since = time.Since(one.Since).Round(time.Second).String()
		}
		state := string(one.State)
		if one.Exit != "" {
			state += " (" + one.Exit + ")"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", one.Name, state, since, pid, one.URL)
	}
	return table.Flush()
}
