package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/devstack/testenv"
	"github.com/signup-saga/signup-saga/service"
)

func TestMain(m *testing.M) { testenv.Main(m) }

type testConfig struct {
	service.Common
	URL    string `env:"TEST_URL,required" help:"where"`
	Secret string `env:"TEST_SECRET,required"`
	Count  int    `env:"TEST_COUNT" envDefault:"3"`
}

func (c testConfig) Validate(check *service.Checks) {
	check.Require(len(c.Secret) >= 8, "TEST_SECRET: too short")
	check.Require(c.Count >= 1, "TEST_COUNT: must be at least 1")
}

func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestLoadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var cfg testConfig
	err := service.LoadConfig(environment(map[string]string{
		"TEST_URL": "x", "TEST_SECRET_FILE": file, "TEST_COUNT": "", "DRAIN_DELAY": "1ms",
	}), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Secret != "from a file" || cfg.Count != 3 || cfg.DrainDelay != time.Millisecond || cfg.NATSReplicas != 1 {
		t.Errorf("got %+v", cfg)
	}
}

func TestLoadConfigListsEveryProblemAndNoValue(t *testing.T) {
	err := service.LoadConfig(environment(map[string]string{
		"TEST_SECRET_FILE": "/nonexistent", "TEST_COUNT": "hunter2", "DRAIN_DELAY": "-1s", "LOG_FORMAT": "hunter2",
		"DRAIN_TIMEOUT": "20",
	}), &testConfig{})
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	for _, want := range []string{
		"TEST_URL: required", "TEST_SECRET_FILE: ", "TEST_COUNT: must be a whole number",
		"DRAIN_DELAY: ", "LOG_FORMAT: ", "DRAIN_TIMEOUT: must be a time with its unit, as in 500ms",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	for _, unwanted := range []string{"hunter2", "too short", "at least 1"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%q in:\n%s", unwanted, text)
		}
	}
}

func TestConfigDoc(t *testing.T) {
	doc := service.ConfigDoc(&testConfig{})
	last := doc[len(doc)-3]
	if doc[0].Name != "NATS_URL" || doc[0].Default != "nats://127.0.0.1:4222" ||
		last != (service.ConfigVar{Name: "TEST_URL", Required: true, Help: "where"}) {
		t.Errorf("got %+v", doc)
	}
}

type hidden struct {
	Value string `env:"TEST_HIDDEN" envDefault:"x"`
}

// Fields of an unexported embedded struct would silently stay empty.
func TestLoadConfigRefusesUnsettableFields(t *testing.T) {
	var cfg struct{ hidden }
	if err := service.LoadConfig(environment(nil), &cfg); err == nil {
		t.Error("accepted")
	}
}
