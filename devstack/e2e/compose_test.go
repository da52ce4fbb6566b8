package e2e

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"github.com/signup-saga/signup-saga/devstack/testenv/variables"
)

// loadCompose reads docker-compose.yml as `docker compose` does. Variables are unset unless given as NAME=value.
func loadCompose(t testing.TB, variables ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(repository, "docker-compose.yml")},
		cli.WithWorkingDirectory(repository), cli.WithEnv(variables), cli.WithDefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// everything is the variable that selects all services of the file.
const everything = "COMPOSE_PROFILES=observability"

func TestComposeServices(t *testing.T) {
	usual := []string{
		"mailpit", "member-broker", "member-migrate", "member-svc", "nats", "postgres", "postgres-roles",
		"storage-broker", "storage-migrate", "storage-svc", "versitygw",
	}
	if got := slices.Sorted(slices.Values(loadCompose(t).ServiceNames())); !slices.Equal(got, usual) {
		t.Errorf("services %v, want %v", got, usual)
	}
	project := loadCompose(t, everything)
	want := slices.Sorted(slices.Values(append(usual, "observability")))
	if got := slices.Sorted(slices.Values(project.ServiceNames())); !slices.Equal(got, want) {
		t.Fatalf("services %v, want %v", got, want)
	}
	for name, service := range project.Services {
		t.Run(name, func(t *testing.T) {
			checkImage(t, service)
			checkDependencies(t, project, service)
			checkPorts(t, service)
			checkVolumes(t, project, service)
			if service.Init == nil || !*service.Init {
				t.Error("no init: zombies stay and signals get lost")
			}
			if l := service.Logging; l == nil || l.Options["max-size"] == "" || l.Options["max-file"] == "" {
				t.Error("its log grows without bound")
			}
			oneShot := strings.HasSuffix(name, "-migrate") || name == "postgres-roles"
			if oneShot != (service.Restart == "no") || !oneShot && service.Restart != "unless-stopped" {
				t.Errorf("restart %q", service.Restart)
			}
			// A broker job has no listener to check.
			if !oneShot && !strings.HasSuffix(name, "-broker") && service.HealthCheck == nil {
				t.Error("no health check")
			}
		})
	}
}

var pinned = regexp.MustCompile(`^[\w./-]+:v?\d[\w.]*(-\w+)?$`)

func checkImage(t *testing.T, service types.ServiceConfig) {
	t.Helper()
	if service.Build == nil {
		if !pinned.MatchString(service.Image) {
			t.Errorf("image %q has no version", service.Image)
		}
		return
	}
	if _, err := os.Stat(filepath.Join(service.Build.Context, service.Build.Dockerfile)); err != nil {
		t.Errorf("build: %v", err)
	}
	for _, stage := range parseDockerfile(t,
		mustRead(t, filepath.Join(service.Build.Context, service.Build.Dockerfile))) {
		if _, tag, ok := strings.Cut(stage.BaseName, ":"); !ok || tag == "latest" {
			t.Errorf("base image %q has no tag", stage.BaseName)
		}
	}
}

func checkDependencies(t *testing.T, project *types.Project, service types.ServiceConfig) {
	t.Helper()
	for name, dependency := range service.DependsOn {
		target, ok := project.Services[name]
		if !ok {
			t.Errorf("depends on %s, which does not exist", name)
			continue
		}
		switch dependency.Condition {
		case types.ServiceConditionHealthy:
			if target.HealthCheck == nil {
				t.Errorf("waits for the health of %s, which has no health check", name)
			}
		case types.ServiceConditionCompletedSuccessfully:
			if target.Restart != "no" {
				t.Errorf("waits for the end of %s, which is restarted", name)
			}
		case types.ServiceConditionStarted:
		default:
			t.Errorf("unknown condition %q", dependency.Condition)
		}
	}
	// A signup does not need these, so the start must not need them either.
	for _, forbidden := range []string{"nats", "mailpit", "storage-svc"} {
		if _, depends := service.DependsOn[forbidden]; depends && service.Name == "member-svc" {
			t.Errorf("member-svc must start without %s", forbidden)
		}
	}
}

func checkPorts(t *testing.T, service types.ServiceConfig) {
	t.Helper()
	for _, port := range service.Ports {
		if port.HostIP != "127.0.0.1" {
			t.Errorf("port %s is published on %q", port.Published, port.HostIP)
		}
	}
	for name, value := range service.Environment {
		host, port, ok := strings.Cut(*value, ":")
		if !strings.HasSuffix(name, "_HTTP_ADDR") && !strings.HasSuffix(name, "_ADMIN_ADDR") {
			continue
		}
		published := slices.ContainsFunc(service.Ports,
			func(p types.ServicePortConfig) bool { return strconv.Itoa(int(p.Target)) == port })
		if !ok || host != "0.0.0.0" || !published {
			t.Errorf("%s=%s: expected all interfaces and a published port", name, *value)
		}
	}
}

func checkVolumes(t *testing.T, project *types.Project, service types.ServiceConfig) {
	t.Helper()
	for _, volume := range service.Volumes {
		switch volume.Type {
		case types.VolumeTypeVolume:
			if _, ok := project.Volumes[volume.Source]; !ok || volume.Source == "" {
				t.Errorf("%s is not on a named volume", volume.Target)
			}
		case types.VolumeTypeBind:
			if _, err := os.Stat(volume.Source); err != nil || !volume.ReadOnly {
				t.Errorf("%s: read-only %v, %v", volume.Target, volume.ReadOnly, err)
			}
		default:
			t.Errorf("%s is of type %s", volume.Target, volume.Type)
		}
	}
	for _, secret := range service.Secrets {
		info, err := os.Stat(project.Secrets[secret.Source].File)
		if err != nil {
			t.Errorf("secret: %v", err)
		} else if info.Mode().Perm()&0o004 == 0 {
			t.Errorf("secret %s: the image's user cannot read it", secret.Source)
		}
	}
}

// A named volume gets its owner from a folder of the image. It must be the user that the image runs as.
func TestComposeVolumesAreWritable(t *testing.T) {
	for _, service := range loadCompose(t).Services {
		if service.Build == nil {
			continue
		}
		made := rehearse(t, service.Build.Dockerfile)
		for _, volume := range service.Volumes {
			if volume.Type == types.VolumeTypeVolume && made.owners[volume.Target] != "65532:65532" {
				t.Errorf("%s: %s belongs to %q in the image", service.Name, volume.Target, made.owners[volume.Target])
			}
		}
	}
}

func TestComposeKeepsWhatPostgresPromises(t *testing.T) {
	command := loadCompose(t).Services["postgres"].Command
	for _, setting := range []string{"fsync=on", "synchronous_commit=on", "full_page_writes=on"} {
		if !slices.Contains(command, setting) {
			t.Errorf("postgres is not started with %s", setting)
		}
	}
}

// The object store has the version against which the provider's conformance suite runs.
func TestComposeRunsTheTestedObjectStore(t *testing.T) {
	_, version, _ := strings.Cut(loadCompose(t).Services["versitygw"].Image, ":")
	if !strings.Contains(mustRead(t, filepath.Join(repository, "Makefile")),
		"github.com/versity/versitygw/cmd/versitygw@"+version+"\n") {
		t.Errorf("the Makefile does not build versitygw %s", version)
	}
}

// Every variable that the file sets for a service is one that the service reads, and the service's drain fits
// into its grace period.
func TestComposeSetsExistingVariables(t *testing.T) {
	for name, service := range loadCompose(t).Services {
		name = strings.NewReplacer("-migrate", "-svc", "-broker", "-svc").Replace(name)
		if name != "member-svc" && name != "storage-svc" {
			continue
		}
		known, err := variables.Read(repository, name)
		if err != nil {
			t.Fatal(err)
		}
		for variable := range service.Environment {
			// OpenTelemetry's SDK reads these
			if _, ok := known[variable]; !ok && !strings.HasPrefix(variable, "OTEL_") {
				t.Errorf("%s does not know %s", name, variable)
			}
		}
		var drain time.Duration
		for _, part := range []string{"DRAIN_DELAY", "DRAIN_TIMEOUT"} {
			d, err := time.ParseDuration(*service.Environment[part])
			if err != nil {
				t.Errorf("%s: %v", part, err)
			}
			drain += d
		}
		if grace := time.Duration(*service.StopGracePeriod); grace <= drain {
			t.Errorf("%s is killed after %s, but may drain for %s", name, grace, drain)
		}
	}
}

var interpolated = regexp.MustCompile(`\$\{(\w+)(:-[^}]*)?\}`)

// Every variable of the file has a default, and every published port can be moved.
func TestComposeVariables(t *testing.T) {
	text := mustRead(t, filepath.Join(repository, "docker-compose.yml"))
	for _, found := range interpolated.FindAllStringSubmatch(text, -1) {
		if found[2] == "" {
			t.Errorf("%s has no default", found[1])
		}
	}
	moved := loadCompose(t, everything, "GRAFANA_PORT=1008", "POSTGRES_PORT=1001", "NATS_PORT=1002",
		"MAILPIT_PORT=1003", "MEMBER_PORT=1004", "ADMIN_PORT=1005", "STORAGE_PORT=1006", "S3_PORT=1007")
	for _, service := range moved.Services {
		for _, port := range service.Ports {
			if !strings.HasPrefix(port.Published, "100") {
				t.Errorf("port %s of %s does not follow a variable", port.Published, service.Name)
			}
		}
	}
}

// Prometheus finds both services where they serve their metrics, under the job names that the alerts use.
func TestComposeScrapesTheServices(t *testing.T) {
	var config struct {
		Scrape []struct {
			Job    string                       `yaml:"job_name"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
		Rules []string `yaml:"rule_files"`
	}
	project := loadCompose(t, everything)
	mounted := map[string]string{}
	for _, volume := range project.Services["observability"].Volumes {
		mounted[filepath.Base(volume.Target)] = volume.Source
	}
	if err := yaml.Unmarshal([]byte(mustRead(t, mounted["prometheus.yaml"])), &config); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, scrape := range config.Scrape {
		found[scrape.Job] = strings.Join(scrape.Static[0].Targets, " ")
	}
	want := map[string]string{}
	for name, variable := range map[string]string{"member-svc": "MEMBER_ADMIN_ADDR",
		"storage-svc": "STORAGE_HTTP_ADDR"} {
		want[name] = strings.Replace(*project.Services[name].Environment[variable], "0.0.0.0", name, 1)
	}
	if !maps.Equal(found, want) {
		t.Errorf("Prometheus scrapes %v, expected %v", found, want)
	}
	if !slices.Equal(config.Rules, []string{"alerts.yaml"}) || mounted["alerts.yaml"] == "" {
		t.Errorf("Prometheus loads %v, mounted are %v", config.Rules, mounted)
	}
}
