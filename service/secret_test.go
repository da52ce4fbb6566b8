package service_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signup-saga/signup-saga/service"
)

func TestSecretShowsWhereItPointsToAtMost(t *testing.T) {
	for value, want := range map[string]string{
		"":             "",
		"hunter2":      "[redacted]",
		"whsec_hunter": "[redacted]",
		"postgres://app:hunter2@db:5432/member?sslpassword=hunter2": "postgres://db:5432/member",
		"host=db user=app password=hunter2":                         "[redacted]",
		"nats://app:hunter2@a:4222,tls://app:hunter2@b:4222":        "nats://a:4222,tls://b:4222",
		"nats://hunter2@a:4222":                                     "nats://a:4222",
		"https://hooks.example.org/hunter2":                         "https://hooks.example.org",
		"postgres://app:2/hunter2@db/member":                        "[redacted]",
		"postgres://app:2?hunter2@db/member":                        "[redacted]",
		"postgres://app:2#hunter2@db/member":                        "[redacted]",
		"nats://app:2,hunter2@a:4222":                               "[redacted]",
		"postgres://app:hunter 2@db/member":                         "[redacted]",
		"postgres://app:hun/ter2@db/member":                         "[redacted]",
		"hunter2://x":                                               "[redacted]",
	} {
		s := service.NewSecret(value)
		if s.String() != want || s.Reveal() != value {
			t.Errorf("%q shows %q, want %q", value, s.String(), want)
		}
		var text bytes.Buffer
		held := struct{ S service.Secret }{s}
		fmt.Fprintf(&text, "%s %v %+v %#v %q %v", s, s, held, held, s, &held)
		service.NewLogger(&text, "json", "info").Info("x", "secret", s, "held", held)
		encoded, err := json.Marshal(held)
		if err != nil {
			t.Fatal(err)
		}
		if text.Write(encoded); strings.Contains(text.String(), "ter2") {
			t.Errorf("%q is printed: %s", value, &text)
		}
	}
}

func TestLogConfigShowsEverythingButSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "url")
	write(t, file, "postgres://app:hunter2@db/member\n")
	var cfg struct {
		service.Common
		URL   service.Secret `env:"TEST_URL"`
		Token service.Secret `env:"TEST_TOKEN"`
		Unset service.Secret `env:"TEST_UNSET"`
	}
	if err := service.LoadConfig(environment(map[string]string{"TEST_URL_FILE": file, "TEST_TOKEN": "hunter2"}),
		&cfg); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	service.LogConfig(service.NewLogger(&text, "text", "info"), &cfg)
	for _, want := range []string{"TEST_URL=postgres://db/member", "TEST_TOKEN=[redacted]", `TEST_UNSET=""`,
		"DRAIN_DELAY=5s", "NATS_URL=nats://127.0.0.1:4222"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %s in %s", want, &text)
		}
	}
	if strings.Contains(text.String(), "hunter2") || strings.Count(text.String(), "\n") != 1 {
		t.Errorf("got %s", &text)
	}

	write(t, file, "postgres://other:hunter3@db/member\n")
	if got := cfg.URL.Current(); got != "postgres://other:hunter3@db/member" {
		t.Errorf("the file is not followed: %s", got)
	}
	write(t, file, "\n")
	if got := cfg.URL.Current(); got != cfg.URL.Reveal() {
		t.Errorf("an empty file is used: %q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := cfg.URL.Current(); got != "postgres://app:hunter2@db/member" {
		t.Errorf("without its file: %q", got)
	}
}

func TestSecretComesFromOnePlace(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	write(t, file, "\n")
	for _, c := range []struct {
		vars map[string]string
		want string
	}{
		{map[string]string{"TEST_TOKEN": "hunter2", "TEST_TOKEN_FILE": file}, "TEST_TOKEN: set twice"},
		{map[string]string{"TEST_TOKEN_FILE": file}, "TEST_TOKEN_FILE: the file is empty"},
	} {
		var cfg struct {
			Token service.Secret `env:"TEST_TOKEN,required"`
		}
		err := service.LoadConfig(environment(c.vars), &cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v", c.vars, err)
		}
	}
}

// write replaces a file in one step, as mounted secrets are replaced.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// A file that the service's user may not read is the first mistake with mounted secrets.
func TestUnreadableFilesSayWhoMustReadThem(t *testing.T) {
	refused := &fs.PathError{Op: "open", Path: "/run/secrets/admin-tokens", Err: fs.ErrPermission}
	err := service.Unreadable(refused)
	if !errors.Is(err, refused) || !strings.Contains(err.Error(), fmt.Sprintf("uid %d", os.Getuid())) {
		t.Errorf("err = %v", err)
	}
	err = service.Unreadable(fs.ErrNotExist)
	if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "uid") {
		t.Errorf("err = %v", err)
	}
}
