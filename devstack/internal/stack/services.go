package stack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
)

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// self returns a program that is a command of this same executable.
func self(args ...string) (program, error) {
	path, err := os.Executable()
	return program{path: path, args: args}, err
}

func (s *Stack) planNATS() error {
	number, err := s.settings.port(natsName, 4222)
	if err != nil {
		return err
	}
	addr := loopback(number)
	run, err := self("nats", "--dir", s.natsDir(), "--addr", addr)
	if err != nil {
		return err
	}
	s.add(s.newComponent(natsName, "nats://"+addr, run, greetsWithJetStream(addr), natsName))
	return nil
}

func (s *Stack) planSMTP() error {
	number, err := s.settings.port(smtpName, 1025)
	if err != nil {
		return err
	}
	page, err := s.settings.port("mail", 8025)
	if err != nil {
		return err
	}
	run, err := self("smtp", "--addr", loopback(number), "--http", loopback(page))
	if err != nil {
		return err
	}
	url := "http://" + loopback(page)
	s.add(s.newComponent(smtpName, url, run, answersOK(url+"/api/messages"), smtpName, "mail"))
	return nil
}

// replica returns the name of the n-th replica of a service, counted from 1: member, member-2, member-3 …
func replica(name string, n int) string {
	if n == 1 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, n)
}

func (s *Stack) planMembers() error {
	database, err := s.databaseURL("member")
	if err != nil {
		return err
	}
	for n := range s.options.Members {
		name := replica("member", n+1)
		public, err := s.settings.port(name, 8080)
		if err != nil {
			return err
		}
		admin, err := s.settings.port(name+" admin", 8081)
		if err != nil {
			return err
		}
		env := append(s.memberEnv(),
			"MEMBER_HTTP_ADDR="+loopback(public),
			"MEMBER_ADMIN_ADDR="+loopback(admin),
			"MEMBER_DATABASE_URL="+database)
		run := program{path: filepath.Join(s.bin, "member-svc"), args: []string{"serve"}, env: env}
		s.add(s.newComponent(name, "http://"+loopback(public), run, answersOK("http://"+loopback(admin)+"/readyz"),
			name, name+" admin"))
	}
	return nil
}

// holdStoragePorts reserves the storage services' ports, before the settings of the member services are made.
func (s *Stack) holdStoragePorts() error {
	for n := range s.options.Storages {
		if _, err := s.settings.port(replica("storage", n+1), 8090); err != nil {
			return err
		}
	}
	return nil
}

// holdFaultScreen reserves the fault screen's port, before the settings of the member services are made.
func (s *Stack) holdFaultScreen() error {
	if !s.options.Faults {
		return nil
	}
	_, err := s.settings.port(faultScreen, 8060)
	return err
}

func (s *Stack) planStorages() error {
	database, err := s.databaseURL("storage")
	if err != nil {
		return err
	}
	for n := range s.options.Storages {
		name := replica("storage", n+1)
		number := s.settings.Ports[name]
		env := append(s.storageEnv(),
			"STORAGE_HTTP_ADDR="+loopback(number),
			"STORAGE_DATABASE_URL="+database)
		run := program{path: filepath.Join(s.bin, "storage-svc"), args: []string{"serve"}, env: env}
		url := "http://" + loopback(number)
		s.add(s.newComponent(name, url, run, answersOK(url+"/readyz"), name))
	}
	return nil
}

// commonEnv returns the environment of both services. Variables that are not set here can be set by devstack's
// caller.
func (s *Stack) commonEnv() []string {
	drain := s.options.Getenv("DRAIN_DELAY")
	if drain == "" {
		drain = "500ms" // no load balancer has to notice that a replica drains
	}
	env := []string{"NATS_REPLICAS=1", "DRAIN_DELAY=" + drain, "NO_COLOR=1"}
	if s.options.Faults {
		env = append(env, "FAULTS=on")
	}
	return env
}

// reach returns the address at which a service reaches NATS or Postgres.
func (s *Stack) reach(service, target string) string {
	if via := s.options.Via[service+":"+target]; via != "" {
		return via
	}
	return loopback(s.settings.Ports[target])
}

// databaseURL returns the URL with which a service reaches its database, as the app.
func (s *Stack) databaseURL(service string) (string, error) {
	u, err := url.Parse(s.databases[service].app)
	if err != nil {
		return "", err
	}
	if via := s.options.Via[service+":"+postgresName]; via != "" {
		u.Host = via
	}
	return u.String(), nil
}

func (s *Stack) memberEnv() []string {
	env := append(s.commonEnv(),
		"NATS_URL=nats://"+s.reach("member", natsName),
		"ADMIN_TOKENS_FILE="+s.tokensFile(),
		"IDEMPOTENCY_SECRET="+s.settings.secret("idempotency"),
		"SMTP_ADDR="+loopback(s.settings.Ports[smtpName]),
		"STORAGE_URL=http://"+loopback(s.settings.Ports["storage"]),
		"STORAGE_CLIENT_TOKEN="+s.settings.secret("storage token"),
		"SIGNUP_RATE_PER_MINUTE=1000000", "SESSION_RATE_PER_MINUTE=1000000") // all clients have the same address
	if s.options.Faults {
		env = append(env, "CONSOLE_DEMO_URL=http://"+loopback(s.settings.Ports[faultScreen])+"/")
	}
	if s.options.CheapHash {
		env = append(env, "HASH_MEMORY_KIB=64", "HASH_TIME=1")
	}
	return env
}

func (s *Stack) storageEnv() []string {
	return append(s.commonEnv(),
		"NATS_URL=nats://"+s.reach("storage", natsName),
		"STORAGE_TOKEN="+s.settings.secret("storage token"),
		"PROVIDER_DIR="+s.providerDir(),
		"PROVIDER_LEDGER="+s.ledgerFile())
}

func (s *Stack) natsDir() string     { return filepath.Join(s.options.Dir, "nats") }
func (s *Stack) providerDir() string { return filepath.Join(s.options.Dir, "provider") }
func (s *Stack) ledgerFile() string  { return filepath.Join(s.options.Dir, "provider-ledger.jsonl") }
func (s *Stack) tokensFile() string  { return filepath.Join(s.options.Dir, "admin-tokens") }

// writeAdminTokens writes the digests of the two admin tokens that member-svc accepts.
func (s *Stack) writeAdminTokens() error {
	var lines string
	for _, role := range []string{"operator", "viewer"} {
		digest := sha256.Sum256([]byte(s.settings.secret(role + " token")))
		lines += fmt.Sprintf("devstack-%s:%s:%s\n", role, role, hex.EncodeToString(digest[:]))
	}
	return writeFile(s.tokensFile(), []byte(lines))
}

// migrate migrates both databases.
func (s *Stack) migrate(ctx context.Context) error {
	s.options.Note("Migrating the databases")
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range services {
		group.Go(func() error { return s.migrateOne(ctx, name) })
	}
	return group.Wait()
}

func (s *Stack) migrateOne(ctx context.Context, name string) error {
	env, variable, planned := s.memberEnv(), "MEMBER_DATABASE_URL=", s.databases["member"]
	if name == "storage-svc" {
		env, variable, planned = s.storageEnv(), "STORAGE_DATABASE_URL=", s.databases["storage"]
	}
	env = append(env, variable+planned.migrator)
	p := program{path: filepath.Join(s.bin, name), args: []string{"migrate"}, env: env}
	if out, err := process.Run(ctx, p.command(s.options.Dir)); err != nil {
		return fmt.Errorf("%s migrate: %w\n%s", name, err, out)
	}
	return nil
}

// planVariables sets the variables that say how to reach the stack.
func (s *Stack) planVariables() {
	url := func(port string) string { return "http://" + loopback(s.settings.Ports[port]) }
	s.variables = Variables{
		{"MEMBER_URL", url("member")},
		{"ADMIN_URL", url("member admin")},
		{"STORAGE_URL", url("storage")},
		{"NATS_URL", "nats://" + loopback(s.settings.Ports[natsName])},
		{"MEMBER_DATABASE_URL", s.databases["member"].app},
		{"STORAGE_DATABASE_URL", s.databases["storage"].app},
		{"ADMIN_TOKEN", s.settings.secret("operator token")},
		{"VIEWER_TOKEN", s.settings.secret("viewer token")},
		{"STORAGE_TOKEN", s.settings.secret("storage token")},
		{"PROVIDER_DIR", s.providerDir()},
		{"PROVIDER_LEDGER", s.ledgerFile()},
		{"NATS_DIR", s.natsDir()},
		{"MAIL_URL", url("mail")},
		{"DEVSTACK_DIR", s.options.Dir},
	}
	if s.options.Faults {
		s.variables = append(s.variables, Variable{"FAULTS_URL", url(faultScreen)})
	}
	for n := 2; n <= s.options.Members; n++ {
		name := replica("member", n)
		s.variables = append(s.variables,
			Variable{fmt.Sprintf("MEMBER_URL_%d", n), url(name)},
			Variable{fmt.Sprintf("ADMIN_URL_%d", n), url(name + " admin")})
	}
	for n := 2; n <= s.options.Storages; n++ {
		s.variables = append(s.variables, Variable{fmt.Sprintf("STORAGE_URL_%d", n), url(replica("storage", n))})
	}
}
