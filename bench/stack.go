package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	ledgerfile "github.com/signup-saga/signup-saga/devstack/testenv/ledger"
)

// stack is the whole product: both services, one replica each, as processes of devstack, with devstack's fs
// provider and password hashes that cost nothing.
type stack struct {
	*server
	devstack, dir   string
	database        string            // URL of the member database for the administrator
	settings        map[string]string // devstack.env
	member, storage *pgxpool.Pool     // the databases of the services
	watching        *pgxpool.Pool     // the member database, only for the watcher
	http            *http.Client
	members         *client.Public
	ready           *watcher
	stopWatching    func() error
	accepted        atomic.Int64 // signups that were answered with 201
}

// startStack runs the product on the Postgres server at database and on its own NATS server. flags may override
// the usual flags of devstack.
func (b *bench) startStack(ctx context.Context, name, database string, flags ...string) (s *stack, err error) {
	s = &stack{devstack: b.servers.devstack, dir: filepath.Join(b.servers.dir, name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return s, err
	}
	u, err := url.Parse(database)
	if err != nil {
		return s, err
	}
	u.Path = "/member"
	s.database = u.String()
	cmd := exec.Command(s.devstack,
		append([]string{"up", "--dir", s.dir, "--bin", b.bin, "--hash-cost", "test"}, flags...)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), "DATABASE_URL="+database, "RECONCILE_INTERVAL=24h"), b.out
	if s.server, err = launch(ctx, "  settings   ", cmd); err != nil {
		return s, err
	}
	text, err := os.ReadFile(s.url)
	if err != nil {
		return s, err
	}
	s.settings = map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		s.settings[name] = strings.Trim(value, "'")
	}
	if s.member, err = newPool(ctx, s.settings["MEMBER_DATABASE_URL"], 4); err != nil {
		return s, err
	}
	if s.storage, err = newPool(ctx, s.settings["STORAGE_DATABASE_URL"], 2); err != nil {
		return s, err
	}
	s.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}, Timeout: 30 * time.Second}
	s.members = client.NewPublic(s.settings["MEMBER_URL"], s.http)
	if s.watching, err = newWatchPool(ctx, s.database); err != nil {
		return s, err
	}
	s.ready, s.stopWatching = watchSagas(ctx, s.watching)
	return s, nil
}

func (s *stack) close() error {
	var errs []error
	if s.stopWatching != nil {
		errs = append(errs, s.stopWatching())
		s.http.CloseIdleConnections()
	}
	for _, p := range []*pgxpool.Pool{s.member, s.storage, s.watching} {
		if p != nil {
			p.Close()
		}
	}
	return errors.Join(append(errs, s.server.close())...)
}

// stackParties returns this process, Postgres, and the processes of the stack by devstack's component names.
func (b *bench) stackParties(ctx context.Context, s *stack) ([]party, error) {
	components, err := s.components(ctx)
	return append(b.parties()[:2], components...), err
}

// components returns the processes of the stack, by devstack's names.
func (s *stack) components(ctx context.Context) ([]party, error) {
	out, err := exec.CommandContext(ctx, s.devstack, "status", "--json", "--dir", s.dir).Output()
	if err != nil {
		return nil, fmt.Errorf("devstack status: %w", err)
	}
	var status struct {
		Components []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return nil, err
	}
	var parties []party
	for _, c := range status.Components {
		parties = append(parties, party{c.Name, c.PID})
	}
	return parties, nil
}

// signUp signs a member up over HTTP and waits until the client knows that the signup is ready: when the commit
// is visible, which one watcher of the database polls for on behalf of all clients, and if get is true, also by
// a GET of the signup.
func (s *stack) signUp(ctx context.Context, get bool) (j journey, err error) {
	body := somebody()
	j.sent = time.Now()
	signup, err := s.members.SignUp(ctx, body, "")
	if err != nil {
		return j, err
	}
	s.accepted.Add(1)
	j.signup, j.answered = signup.SignupID, time.Now()
	if err = s.ready.wait(ctx, j.signup); err == nil && get {
		signup, err = s.members.Signup(ctx, j.signup)
		if err == nil && signup.State != wire.Ready {
			err = fmt.Errorf("the client sees %q after the commit of ready", signup.State)
		}
	}
	j.seen = time.Now()
	return j, err
}

// stop stops a component.
func (s *stack) stop(ctx context.Context, component string) error {
	out, err := exec.CommandContext(ctx, s.devstack, "stop", component, "--dir", s.dir).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("devstack stop %s: %w: %s", component, err, out)
	}
	return err
}

// somebody returns a new member.
func somebody() wire.NewMember {
	return wire.NewMember{Username: strings.ToLower(rand.Text()), Password: "a long enough one"}
}

// audit fails unless each accepted signup is ready in both databases, its storage was created once, and there
// are no others.
func (s *stack) audit(ctx context.Context) error {
	n := int(s.accepted.Load())
	var sagas, ready, storages int
	if err := s.member.QueryRow(ctx,
		"-- name: countSagas\nSELECT count(*), count(*) FILTER (WHERE state = 'ready') FROM signup_saga").Scan(&sagas,
		&ready); err != nil {
		return err
	}
	if err := s.storage.QueryRow(ctx,
		"-- name: countStorages\nSELECT count(*) FROM storage WHERE status = 'ready'").Scan(&storages); err != nil {
		return err
	}
	created, doubled, err := readCreations(s.settings["PROVIDER_LEDGER"])
	if err != nil {
		return err
	}
	if sagas != n || ready != n || storages != n || created != n || doubled != 0 {
		return fmt.Errorf(
			"of %d accepted signups there are %d, ready %d, with storage %d, created %d, created twice %d", n, sagas,
			ready, storages, created, doubled)
	}
	return nil
}

// readCreations returns how many members of a provider's ledger have one creation, and how many have more.
func readCreations(path string) (members, doubled int, err error) {
	created, err := ledgerfile.Creations(path)
	for _, n := range created {
		if n > 1 {
			doubled++
		}
	}
	return len(created), doubled, err
}
