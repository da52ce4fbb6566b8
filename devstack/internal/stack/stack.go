// Package stack runs PostgreSQL, NATS, a mail server and both services, each as a process of its own, and lets them be
// killed, stopped, paused and started again one by one.
package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signup-saga/signup-saga/devstack/internal/postgres"
)

const (
	postgresName = "postgres"
	natsName     = "nats"
	smtpName     = "smtp"
	faultScreen  = "fault screen"

	// startLimit bounds the first start of a component, restartLimit how long the start command waits for it to be
	// ready.
	startLimit   = time.Minute
	restartLimit = 20 * time.Second
	fetchLimit   = 10 * time.Minute
)

// Options say what to run.
type Options struct {
	// Dir holds everything the stack writes. It exists, and no other stack uses it.
	Dir string
	// Members and Storages are the numbers of replicas, at least 1.
	Members, Storages int
	// CheapHash makes password hashes so cheap that they cost no time. Never use it for real passwords.
	CheapHash bool
	// Faults lets the storage service play a broken provider, and services end themselves where they are told to.
	Faults bool
	// Via maps "service:target" to the address through which the service member or storage reaches the target nats or
	// postgres, for a test that stands between them.
	Via map[string]string
	// Bin holds built services. Empty means that they are built from the tree.
	Bin string
	// Account runs PostgreSQL.
	Account postgres.Account
	// Getenv reads devstack's own settings.
	Getenv func(string) string
	// Note receives what a person in front of the screen should know, a line at a time, from several goroutines.
	Note func(string)
}

// AddVia adds "service:target=host:port" to Via.
func (o *Options) AddVia(text string) error {
	link, addr, ok := strings.Cut(text, "=")
	service, target, _ := strings.Cut(link, ":")
	if _, _, err := net.SplitHostPort(addr); !ok || err != nil ||
		(service != "member" && service != "storage") || (target != natsName && target != postgresName) {
		return errors.New("want member or storage, a colon, nats or postgres, and =host:port")
	}
	if o.Via == nil {
		o.Via = map[string]string{}
	}
	o.Via[link] = addr
	return nil
}

// Stack is a running stack. Its methods are safe for concurrent use.
type Stack struct {
	options    Options
	settings   *settings
	cluster    *postgres.Cluster // nil when DATABASE_URL names a server
	admin      string            // URL of the database administrator
	databases  map[string]database
	components []*component // in the order in which they are started
	variables  Variables
	tree       string // the source that the services are built from; "" when they are given
	bin        string // folder of the services' programs
	control    *control
	ready      chan struct{} // closed once the stack is complete
	stopOnce   sync.Once
	stopErr    error
}

// Start starts everything and returns once every component is ready and devstack.env is written. After an error nothing
// runs.
func Start(ctx context.Context, options Options) (*Stack, error) {
	kept, err := loadSettings(options.Dir)
	if err != nil {
		return nil, err
	}
	s := &Stack{options: options, settings: kept, databases: map[string]database{}, ready: make(chan struct{})}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	if err := s.prepare(); err != nil {
		return err
	}
	if err := s.plan(ctx); err != nil {
		return err
	}
	// The services take the longest to build, and need nothing for it.
	group, together := errgroup.WithContext(ctx)
	group.Go(func() error { return s.build(together) })
	group.Go(func() error { return s.startDatabases(together) })
	for _, name := range []string{natsName, smtpName} {
		group.Go(func() error { return s.startComponent(together, name, startLimit) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.startServices(ctx); err != nil {
		return err
	}
	close(s.ready)
	return writeFile(s.envFile(), s.variables.file())
}

// prepare makes the folders and takes away what an earlier run left.
func (s *Stack) prepare() error {
	if err := os.Remove(s.envFile()); err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, name := range []string{"log", "nats", "provider"} {
		if err := os.MkdirAll(filepath.Join(s.options.Dir, name), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// plan decides on all ports, secrets and components before anything is started.
func (s *Stack) plan(ctx context.Context) error {
	if err := s.planPostgres(ctx); err != nil {
		return err
	}
	for _, name := range []string{"member", "storage"} {
		planned, err := newDatabase(s.admin, name, s.settings.secret)
		if err != nil {
			return err
		}
		s.databases[name] = planned
	}
	for _, add := range []func() error{
		s.findPrograms, s.planNATS, s.planSMTP, s.holdStoragePorts, s.holdFaultScreen,
		s.planMembers, s.planStorages, s.writeAdminTokens,
	} {
		if err := add(); err != nil {
			return err
		}
	}
	s.planVariables()
	if err := s.settings.save(); err != nil {
		return err
	}
	control, err := listen(s)
	s.control = control
	return err
}

func (s *Stack) planPostgres(ctx context.Context) error {
	if s.admin = s.options.Getenv("DATABASE_URL"); s.admin != "" {
		return nil
	}
	number, err := s.settings.port(postgresName, 15432)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	binaries, err := postgres.NewFinder(s.options.Account, s.options.Getenv, s.options.Note).Find(ctx)
	if err != nil {
		return err
	}
	dir, err := s.options.Account.Place(s.options.Dir)
	if err != nil {
		return err
	}
	s.cluster, err = postgres.Open(ctx, postgres.Config{
		Dir: dir, Port: number, Binaries: binaries, Account: s.options.Account,
		Log: func() (*os.File, error) { return s.openLog(postgresName) },
	})
	if err != nil {
		return err
	}
	s.admin = s.cluster.URL("postgres")
	s.add(s.watch(&component{Daemon: s.cluster.Daemon, url: fmt.Sprintf("127.0.0.1:%d", number),
		listens: []string{postgresName}}))
	return nil
}

func (s *Stack) add(c *component) { s.components = append(s.components, c) }

// findPrograms decides where the services' programs are: where the options say, or in the tree.
func (s *Stack) findPrograms() (err error) {
	if s.bin = s.options.Bin; s.bin != "" {
		return nil
	}
	s.tree, err = source()
	s.bin = filepath.Join(s.tree, "bin")
	return err
}

func (s *Stack) build(ctx context.Context) error {
	if s.tree == "" {
		return nil
	}
	s.options.Note("Building the services")
	return build(ctx, s.tree)
}

func (s *Stack) startDatabases(ctx context.Context) error {
	if s.cluster != nil {
		if err := s.startComponent(ctx, postgresName, startLimit); err != nil {
			return err
		}
	}
	for _, d := range s.databases {
		if err := d.create(ctx, s.admin, s.settings.secret); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) startServices(ctx context.Context) error {
	s.options.Note("Starting the services")
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range s.components {
		group.Go(func() error { return s.startComponent(ctx, c.Name, startLimit) })
	}
	return group.Wait()
}

func (s *Stack) startComponent(ctx context.Context, name string, limit time.Duration) error {
	c, err := s.component(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.explain(name, c.Start(ctx))
}

// FaultScreen returns the listener that is held for the page on which a person breaks the stack, nil without faults. It
// ends with the stack.
func (s *Stack) FaultScreen() net.Listener {
	s.settings.mu.Lock()
	defer s.settings.mu.Unlock()
	return s.settings.held[faultScreen]
}

// Variables returns how to reach the stack: what devstack.env holds.
func (s *Stack) Variables() Variables { return s.variables }

// Dir returns the folder of the stack.
func (s *Stack) Dir() string { return s.options.Dir }

func (s *Stack) envFile() string { return filepath.Join(s.options.Dir, "devstack.env") }

// Stop ends everything: the services, which finish what they have begun, then what they use. When ctx is done, what
// still runs is killed.
func (s *Stack) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() { s.stopErr = s.stop(ctx) })
	return s.stopErr
}

func (s *Stack) stop(ctx context.Context) error {
	errs := []error{s.control.close()}
	if err := os.Remove(s.envFile()); err != nil && !os.IsNotExist(err) {
		errs = append(errs, err)
	}
	errs = append(errs,
		s.stopAll(ctx, func(c *component) bool { return !c.infrastructure() }),
		s.stopAll(ctx, func(c *component) bool { return c.infrastructure() && c.Name != postgresName }))
	if s.cluster != nil {
		errs = append(errs, s.cluster.Close(ctx))
	}
	s.settings.releaseAll()
	return errors.Join(errs...)
}

func (s *Stack) stopAll(ctx context.Context, which func(*component) bool) error {
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, c := range s.components {
		if !which(c) {
			continue
		}
		wait.Go(func() {
			err := c.Stop(ctx)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (c *component) infrastructure() bool {
	return !strings.HasPrefix(c.Name, "member") && !strings.HasPrefix(c.Name, "storage")
}
