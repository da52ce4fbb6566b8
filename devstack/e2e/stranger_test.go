package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const (
	outboxModule  = "github.com/signup-saga/signup-saga/outbox"
	outboxVersion = "v0.1.0" // the version that the adapters require
)

// strangersEnv returns an environment with a Go module proxy that serves the tree: what an outsider gets once
// these modules are tagged. Other modules come from this machine's usual sources.
func strangersEnv(t *testing.T, modules ...string) (env []string) {
	t.Helper()
	dir := t.TempDir()
	for _, path := range modules {
		source := filepath.Join(repository, strings.TrimPrefix(path, "github.com/signup-saga/signup-saga/"))
		versions := filepath.Join(dir, path, "@v")
		if err := os.MkdirAll(versions, 0o755); err != nil {
			t.Fatal(err)
		}
		packed, err := os.Create(filepath.Join(versions, outboxVersion+".zip"))
		if err != nil {
			t.Fatal(err)
		}
		if err := zip.CreateFromDir(packed, module.Version{Path: path, Version: outboxVersion}, source); err != nil {
			t.Fatal(err)
		}
		if err := packed.Close(); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"list":                  outboxVersion + "\n",
			outboxVersion + ".info": `{"Version":"` + outboxVersion + `"}`,
			outboxVersion + ".mod":  mustRead(t, filepath.Join(source, "go.mod")),
		} {
			if err := os.WriteFile(filepath.Join(versions, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	others, err := exec.CommandContext(t.Context(), "go", "env", "GOPROXY", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	goproxy, downloaded, _ := strings.Cut(strings.TrimSpace(string(others)), "\n")
	// The test has its own cache, because v0.1.0 differs in each run. This machine's downloads serve as a proxy.
	// With these flags, Go finds other modules compiled although they are in another folder.
	return append(os.Environ(), "GOWORK=off", "GOFLAGS=-modcacherw -trimpath", "CGO_ENABLED=0",
		"GONOSUMDB=github.com/signup-saga",
		"GOMODCACHE="+filepath.Join(dir, "cache"),
		"GOPROXY=file://"+dir+",file://"+filepath.Join(downloaded, "cache", "download")+","+goproxy)
}

// sh runs a script as an outsider would, and fails at the first command that fails.
func sh(t *testing.T, dir string, env []string, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euxo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A module that requires only the outbox can be tidied and built, and the quick start of its README works as printed.
func TestStrangerUsesTheOutbox(t *testing.T) {
	t.Parallel()
	readme := mustRead(t, filepath.Join(repository, "outbox", "README.md"))
	block := func(language string) string {
		_, rest, _ := strings.Cut(readme, "```"+language+"\n")
		text, _, found := strings.Cut(rest, "```\n")
		if !found {
			t.Fatalf("the README has no %s", language)
		}
		return text
	}
	env := append(os.Environ(), "DATABASE_URL=")
	database := start(t, "devstack postgres", env, devstack, "postgres").awaitVariable("DATABASE_URL", startLimit)
	broker := start(t, "devstack nats", env, devstack, "nats", "--dir", t.TempDir(), "--addr", freeAddress(t)).
		awaitVariable("NATS_URL", startLimit)

	shop := t.TempDir()
	env = append(strangersEnv(t, outboxModule), "DATABASE_URL="+database, "NATS_URL="+broker)
	sh(t, shop, env, block("sh"))
	if err := os.WriteFile(filepath.Join(shop, "main.go"), []byte(block("go")), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, shop, env, "go mod tidy && go build -o shop . && go test "+outboxModule+"/outboxtest")
	requires, sums := mustRead(t, filepath.Join(shop, "go.mod")), mustRead(t, filepath.Join(shop, "go.sum"))
	ours := regexp.MustCompile(`signup-saga/\S+ v\S+`).FindAllString(requires, -1)
	if len(ours) != 1 || strings.Contains(requires, "replace") || strings.Contains(sums, "devstack") {
		t.Errorf("the stranger's go.mod should require the outbox alone:\n%s", requires)
	}

	nc, err := nats.Connect(broker)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	paid, err := nc.SubscribeSync("orders.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	run := start(t, "shop", env, filepath.Join(shop, "shop"))
	m, err := paid.NextMsg(startLimit)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "orders.paid" || string(m.Data) != `{"order": 7}` || m.Header.Get("ce-subject") != "order-7" {
		t.Errorf("%s %v %s", m.Subject, m.Header, m.Data)
	}
	if err := run.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-run.done
	if run.err != nil {
		t.Errorf("the quick start ended with %v", run.err)
	}
}

// The adapters need no replace directive either.
func TestStrangerUsesTheAdapters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(`package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"

	"`+outboxModule+`"
	"`+outboxModule+`/outboxotel"
	"`+outboxModule+`/outboxprom"
)

func main() {
	m, err := outboxprom.New("essential", nil, prometheus.NewRegistry())
	if err != nil {
		panic(err)
	}
	_ = m.Hooks(outboxotel.Hooks(otel.GetTracerProvider(), outbox.Hooks{}))
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, dir, strangersEnv(t, outboxModule, outboxModule+"/outboxotel", outboxModule+"/outboxprom"),
		"go mod init shop && go mod tidy && go build -o shop . && ./shop")
}
