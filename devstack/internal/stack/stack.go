// Package stack runs PostgreSQL, NATS, a mail server and both services, each in its own process. Each can be
// killed, stopped, paused and started again.
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
	"github.com/signup-saga/signup-saga/devstack/internal/process"
)

const (
	postgresName = "postgres"
	natsName     = "nats"
	smtpName     = "smtp"
	faultScreen  = "fault screen"

	// startLimit is how long the first start of a component may take. restartLimit is how long the start command
	// waits for a component to be ready.
	startLimit   = time.Minute
	restartLimit = 20 * time.Second
	fetchLimit   = 10 * time.Minute
)

// Options say what to run.
type Options struct {
	// Dir holds everything that the stack writes. It must exist, and no other stack may use it.
	Dir string
	// Members and Storages are the numbers of replicas, at least 1.
	Members, Storages int
	// CheapHash makes password hashes so cheap that they take no noticeable time. Never use it for real passwords.
	CheapHash bool
	// Faults lets the storage service simulate a broken provider, and lets services end themselves at a given point.
	Faults bool
	// Via maps "service:target" to the address at which the service (member or storage) reaches the target (nats
	// or postgres). Tests use it to put a proxy between them.
	Via map[string]string
	// Bin holds built services. If it is empty, they are built from the source tree.
	Bin string
	// Account is the user that PostgreSQL runs as.
	Account postgres.Account
	// Getenv reads devstack's own settings.
	Getenv func(string) string
	// Note receives progress messages for the user, one line at a time. It must be safe for concurrent use.
	Note func(string)
}

// AddVia adds "service:target=host:port" to Via.
func (o *Options) AddVia(text string) error {
	link, addr, ok := strings.Cut(text, "=")
	service, target, _ := strings.Cut(link, ":")
	if _, _, err := net.SplitHostPort(addr); !ok || err != nil ||
		(service != "member" && service != "storage") || (target != natsName && target != postgresName) {
		return errors.New("must be member or storage, a colon, nats or postgres, and =host:port")
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
	cluster    *postgres.Cluster // nil if DATABASE_URL names a server
	admin      string            // URL of the database administrator
	databases  map[string]database
	components []*component // in the order in which they are started
	variables  Variables
	tree       string // the source that the services are built from; "" if Bin is given
	bin        string // folder of the services' programs
	control    *control
	ready      chan struct{} // closed once the stack is complete
	stopOnce   sync.Once
	stopErr    error
}

// Start starts everything and returns once every component is ready and devstack.env is written. After an error,
// nothing is left running.
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
	// Building the services takes longest and depends on nothing else.
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

// prepare makes the folders and removes what an earlier run left.
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

// findPrograms sets where the services' programs are: in the folder that the options name, or in the source tree.
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
	return process.WithLog(c.Start(ctx), s.logPath(name))
}

// FaultScreen returns the listener that is reserved for the fault screen, or nil without faults. It closes when
// the stack stops.
func (s *Stack) FaultScreen() net.Listener {
	s.settings.mu.Lock()
	defer s.settings.mu.Unlock()
	return s.settings.held[faultScreen]
}

// Variables returns how to reach the stack: the contents of devstack.env.
func (s *Stack) Variables() Variables { return s.variables }

// Dir returns the folder of the stack.
func (s *Stack) Dir() string { return s.options.Dir }

func (s *Stack) envFile() string { return filepath.Join(s.options.Dir, "devstack.env") }

// Stop ends everything: first the services, which finish the work they have begun, then what they use. Once ctx
// is done, it kills every process that still runs.
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
