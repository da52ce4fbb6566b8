package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
)

// twin runs docker-compose.yml without containers: each service's command, environment and mounted files as
// plain processes. Host names become loopback, container ports become free ports, and mounted paths become files
// and folders of this machine. docs/compose.md lists what this cannot show.
type twin struct {
	t       *testing.T
	project *types.Project
	admin   *url.URL          // superuser of Postgres
	volumes string            // folder with one folder per named volume
	images  map[string]image  // of the services that are built, by Dockerfile
	ports   map[string]string // "service:port" in the containers → "127.0.0.1:port" here
	healthy map[string]func(ctx context.Context) error
	running map[string]*child
	done    map[string]bool // started, in the sense of depends_on
}

func TestComposeTwinSignsUp(t *testing.T) {
	w := &twin{
		t: t, project: loadCompose(t), volumes: t.TempDir(), images: map[string]image{}, ports: map[string]string{},
		healthy: map[string]func(context.Context) error{}, running: map[string]*child{}, done: map[string]bool{},
	}
	w.up()
	w.checkPublishedPorts()
	member := "http://" + w.ports["member-svc:8080"]
	signup := postJSON(t, member+"/v1/members",
		`{"username":"mina","password":"a long enough password","email":"mina@example.org"}`)
	eventually(t, time.Minute, "the signup to be ready",
		func() bool { return getJSON(t, member+signup.Location, "")["state"] == "ready" })
	list := getJSON(t, "http://"+w.ports["member-svc:8081"]+"/admin/v1/sagas", "demo-operator-token")
	if items, ok := list["items"].([]any); !ok || len(items) != 1 {
		t.Errorf("the operator sees %v, expected one saga", list)
	}
	eventually(t, time.Minute, "the welcome mail", func() bool {
		return getJSON(t, "http://"+w.ports["mailpit:8025"]+"/api/messages", "")["count"] == 1.0
	})
	stored, err := os.ReadFile(filepath.Join(w.volumes, "provider", "ledger"))
	if err != nil || bytes.Count(stored, []byte("\n")) != 1 {
		t.Errorf("the provider's ledger should have one line: %v\n%s", err, stored)
	}
	markers, err := filepath.Glob(filepath.Join(w.volumes, "objects", "storages", "members", "*", "owner"))
	if err != nil || len(markers) != 1 {
		t.Errorf("the object store should have one marker: %v, %v", err, markers)
	}
	for _, name := range []string{"storage-svc", "member-svc", "versitygw"} {
		began, grace := time.Now(), time.Duration(*w.project.Services[name].StopGracePeriod)
		if err := w.running[name].stop(); err != nil || time.Since(began) > grace {
			t.Errorf("%s took %s to stop, with %v; it may take %s", name, time.Since(began), err, grace)
		}
	}
}

// up starts every service once its dependencies are met.
func (w *twin) up() {
	w.t.Helper()
	names := slices.Sorted(slices.Values(w.project.ServiceNames()))
	for len(names) > 0 {
		waiting := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			service := w.project.Services[name]
			for _, dependency := range slices.Collect(maps.Keys(service.DependsOn)) {
				if !w.done[dependency] {
					return false
				}
			}
			w.start(service)
			w.done[name] = true
			return true
		})
		if len(waiting) == len(names) {
			w.t.Fatalf("%v wait for each other", names)
		}
		names = waiting
	}
}

// start starts a service and waits until it is healthy or, if it is a job, until it has ended.
func (w *twin) start(service types.ServiceConfig) {
	w.t.Helper()
	switch service.Name {
	case "postgres":
		w.startPostgres(service)
	case "postgres-roles":
		w.makeRoles(service)
	case "nats":
		w.startNATS(service)
	case "mailpit":
		w.startMail()
	case "versitygw":
		w.startObjectStore(service)
	default:
		w.startBuilt(service)
	}
	if service.HealthCheck != nil {
		w.awaitHealth(service)
	}
}

func (w *twin) startPostgres(service types.ServiceConfig) {
	w.t.Helper()
	postgres := start(w.t, service.Name, nil, devstack, "postgres")
	admin, err := url.Parse(postgres.awaitVariable("DATABASE_URL", 5*time.Minute))
	if err != nil {
		w.t.Fatal(err)
	}
	w.ports["postgres:5432"], w.admin = admin.Host, admin
	conn, err := w.connect("postgres")
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, argument := range service.Command {
		name, value, ok := strings.Cut(argument, "=")
		if !ok {
			continue
		}
		var is string
		if err := conn.QueryRow(w.t.Context(), "SELECT current_setting($1)", name).Scan(&is); err != nil {
			w.t.Errorf("postgres does not know %s: %v", name, err)
		}
		if value == "on" && is != "on" {
			w.t.Errorf("%s is %s here, but %s in the file", name, is, value)
		}
	}
	w.healthy[service.Name] = func(context.Context) error { return dial(admin.Host) }
}

func (w *twin) connect(database string) (*pgx.Conn, error) {
	u := *w.admin
	u.Path = "/" + database
	return pgx.Connect(context.Background(), u.String())
}

// makeRoles runs the job's script as psql does. It runs it twice, because each start of the containers runs it again.
func (w *twin) makeRoles(service types.ServiceConfig) {
	w.t.Helper()
	file, ok := strings.CutPrefix(service.Command[len(service.Command)-1], "--file=")
	if !ok || service.Command[0] != "psql" {
		w.t.Fatalf("%s runs %v", service.Name, service.Command)
	}
	script := mustRead(w.t, w.source(service, file))
	getenv := func(name string) string {
		if value := service.Environment[name]; value != nil {
			return *value
		}
		return ""
	}
	for range 2 {
		if err := psql(w.t.Context(), script, getenv, w.connect); err != nil {
			w.t.Fatalf("the script of %s: %v", service.Name, err)
		}
	}
}

func (w *twin) startNATS(service types.ServiceConfig) {
	w.t.Helper()
	for name, value := range service.Environment {
		w.t.Setenv(name, *value)
	}
	options, err := server.ProcessConfigFile(w.source(service, service.Command[1]))
	if err != nil {
		w.t.Fatal(err)
	}
	if !options.JetStream || !options.SyncAlways {
		w.t.Errorf("JetStream %v, sync always %v: both must be on", options.JetStream, options.SyncAlways)
	}
	options.StoreDir = w.path(service, options.StoreDir)
	options.Host, options.Port = w.listen(service.Name, options.Port)
	options.HTTPHost, options.HTTPPort = w.listen(service.Name, options.HTTPPort)
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Start()
	w.t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
}

func (w *twin) startMail() {
	w.t.Helper()
	smtp := start(w.t, "mailpit", nil, devstack, "smtp", "--addr", w.address("mailpit", "1025"), "--http",
		w.address("mailpit", "8025"))
	smtp.awaitVariable("MAIL_URL", 10*time.Second)
	w.healthy["mailpit"] = func(context.Context) error { return dial(w.address("mailpit", "1025")) }
}

func (w *twin) startObjectStore(service types.ServiceConfig) {
	w.t.Helper()
	program := os.Getenv("VERSITYGW_BIN")
	if program == "" {
		w.t.Fatal("VERSITYGW_BIN must name the program versitygw; make verify builds it")
	}
	command := slices.Clone(service.Command)
	for i, argument := range command {
		if everywhere.MatchString(argument) {
			command[i] = w.translate(service, argument)
		}
	}
	last := len(command) - 1
	command[last] = w.path(service, command[last])
	w.running[service.Name] = start(w.t, service.Name, w.environment(service), program, command...)
}

func (w *twin) startBuilt(service types.ServiceConfig) {
	w.t.Helper()
	made, ok := w.images[service.Build.Dockerfile]
	if !ok {
		made = rehearse(w.t, service.Build.Dockerfile)
		w.images[service.Build.Dockerfile] = made
	}
	program := made.files[made.entrypoint[0]]
	command := service.Command
	if len(command) == 0 {
		command = made.command
	}
	env := w.environment(service)
	c := start(w.t, service.Name, env, program, command...)
	w.running[service.Name] = c
	if service.Restart == "no" {
		select {
		case <-c.done:
		case <-time.After(time.Minute):
			w.t.Fatalf("%s did not end", service.Name)
		}
		if c.err != nil {
			w.t.Fatalf("%s: %v\n%s", service.Name, c.err, tail(c.printed.String()))
		}
		return
	}
	if service.HealthCheck == nil {
		return
	}
	w.healthy[service.Name] = func(ctx context.Context) error {
		check := exec.CommandContext(ctx, program, service.HealthCheck.Test[2:]...)
		check.Env = env
		if out, err := check.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

// environment translates a service's environment for this machine.
func (w *twin) environment(service types.ServiceConfig) []string {
	env := []string{}
	for name, value := range service.Environment {
		env = append(env, name+"="+w.translate(service, *value))
	}
	return env
}

var (
	everywhere = regexp.MustCompile(`^0\.0\.0\.0:(\d+)$`)
	hostPort   = regexp.MustCompile(`(^|[/@])([a-z-]+):(\d+)\b`)
)

func (w *twin) translate(service types.ServiceConfig, value string) string {
	if strings.HasPrefix(value, "/") {
		return w.path(service, value)
	}
	if found := everywhere.FindStringSubmatch(value); found != nil {
		return w.address(service.Name, found[1])
	}
	return hostPort.ReplaceAllStringFunc(value, func(match string) string {
		found := hostPort.FindStringSubmatch(match)
		if _, ok := w.project.Services[found[2]]; !ok {
			return match
		}
		return found[1] + w.address(found[2], found[3])
	})
}

// address returns the address on this machine of a container's port.
func (w *twin) address(service, port string) string {
	key := service + ":" + port
	if w.ports[key] == "" {
		w.ports[key] = freeAddress(w.t)
	}
	return w.ports[key]
}

func (w *twin) listen(service string, port int) (host string, here int) {
	host, text, err := net.SplitHostPort(w.address(service, strconv.Itoa(port)))
	if err != nil {
		w.t.Fatal(err)
	}
	if here, err = strconv.Atoi(text); err != nil {
		w.t.Fatal(err)
	}
	return host, here
}

// path returns the path on this machine of a container's path: a volume, a mounted file or a secret.
func (w *twin) path(service types.ServiceConfig, inContainer string) string {
	for _, secret := range service.Secrets {
		if inContainer == path.Join("/run/secrets", secret.Source) {
			return w.project.Secrets[secret.Source].File
		}
	}
	for _, volume := range service.Volumes {
		rest, ok := strings.CutPrefix(inContainer, volume.Target)
		if ok && volume.Type == types.VolumeTypeVolume && (rest == "" || rest[0] == '/') {
			folder := filepath.Join(w.volumes, volume.Source)
			if err := os.MkdirAll(folder, 0o755); err != nil {
				w.t.Fatal(err)
			}
			return filepath.Join(folder, rest)
		}
	}
	w.t.Fatalf("%s: %s is not mounted", service.Name, inContainer)
	return ""
}

// source returns the file of the repository that is mounted at a path.
func (w *twin) source(service types.ServiceConfig, target string) string {
	for _, volume := range service.Volumes {
		if volume.Target == target {
			return volume.Source
		}
	}
	w.t.Fatalf("%s: nothing is mounted at %s", service.Name, target)
	return ""
}

// awaitHealth runs a service's health check as often as the compose file says.
func (w *twin) awaitHealth(service types.ServiceConfig) {
	w.t.Helper()
	check := w.healthy[service.Name]
	test := service.HealthCheck.Test
	switch {
	case test[0] != "CMD":
		w.t.Fatalf("%s: the health check needs a shell", service.Name)
	case test[1] == "wget":
		address, err := url.Parse(test[len(test)-1])
		if err != nil {
			w.t.Fatal(err)
		}
		address.Host = w.address(service.Name, address.Port())
		check = func(context.Context) error { return answersOK(address.String()) }
	case check == nil:
		w.t.Fatalf("%s: unknown health check %v", service.Name, test)
	}
	limit := time.Duration(*service.HealthCheck.Interval)*time.Duration(*service.HealthCheck.Retries) + 30*time.Second
	var last error
	deadline := time.Now().Add(limit)
	eventually(w.t, limit+time.Second, service.Name+" to be healthy", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*service.HealthCheck.Timeout))
		defer cancel()
		if last = check(ctx); last != nil && time.Now().After(deadline) {
			w.t.Fatalf("%s is not healthy: %v", service.Name, last)
		}
		return last == nil
	})
}

// checkPublishedPorts checks that every published port accepts connections.
func (w *twin) checkPublishedPorts() {
	for _, service := range w.project.Services {
		for _, port := range service.Ports {
			address, ok := w.ports[fmt.Sprintf("%s:%d", service.Name, port.Target)]
			if !ok {
				w.t.Errorf("%s publishes port %d, of which nothing else speaks", service.Name, port.Target)
			} else if err := dial(address); err != nil {
				w.t.Errorf("%s publishes port %d: %v", service.Name, port.Target, err)
			}
		}
	}
}

func dial(address string) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

func answersOK(address string) error {
	resp, err := http.Get(address) // the address is a constant of this test
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func freeAddress(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
}

// created is the answer to a signup.
type created struct {
	Location string
	Body     map[string]any
}

func postJSON(t testing.TB, address, body string) created {
	t.Helper()
	resp, err := http.Post(address, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := created{Location: resp.Header.Get("Location")}
	if err := json.NewDecoder(resp.Body).Decode(&answer.Body); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST %s: %s %v %v", address, resp.Status, answer.Body, err)
	}
	return answer
}

func getJSON(t testing.TB, address, token string) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v %v", address, resp.Status, answer, err)
	}
	return answer
}
