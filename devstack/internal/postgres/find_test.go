package postgres

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// server makes a folder that looks like one with a PostgreSQL server.
func server(t *testing.T, dir string, major int) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %d.1 (Test)'\n", major)
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// place is a machine with one server of each kind, each with a different version.
type place struct {
	root    string
	env     map[string]string
	fetched int
	fails   error
}

func (p *place) finder(t *testing.T) Finder {
	return Finder{
		Getenv:  func(name string) string { return p.env[name] },
		Folders: []string{filepath.Join(p.root, "usual", "*", "bin")},
		Cache: func() (string, error) {
			dir := filepath.Join(p.root, "cache")
			return dir, os.MkdirAll(dir, 0o755)
		},
		Note: func(string) {},
		Fetch: func(_ context.Context, dir string) (string, error) {
			p.fetched++
			if p.fails != nil {
				return "", p.fails
			}
			return server(t, filepath.Join(dir, "package", "bin"), 20), nil
		},
	}
}

func TestLookupOrder(t *testing.T) {
	root := t.TempDir()
	given := server(t, filepath.Join(root, "given"), 16)
	onPath := server(t, filepath.Join(root, "path"), 17)
	server(t, filepath.Join(root, "usual", "9", "bin"), 18)
	server(t, filepath.Join(root, "usual", "10", "bin"), 19)
	server(t, filepath.Join(root, "usual", "8", "bin"), 14)
	tooOld := server(t, filepath.Join(root, "old"), 14)
	for _, c := range []struct {
		name string
		env  map[string]string
		want int
	}{
		{"PG_BIN comes first", map[string]string{"PG_BIN": given, "PATH": onPath}, 16},
		{"then PATH", map[string]string{"PATH": "/nowhere" + string(os.PathListSeparator) + onPath}, 17},
		{"PATH with a server that is too old", map[string]string{"PATH": tooOld}, 19},
		{"then the highest version of the usual folders", nil, 19},
		{"unless a fetched one is wanted", map[string]string{"PATH": onPath, "DEVSTACK_PG": "fetch"}, 20},
		{"but PG_BIN always counts", map[string]string{"PG_BIN": given, "DEVSTACK_PG": "fetch"}, 16},
	} {
		p := &place{root: root, env: c.env}
		found, err := p.finder(t).Find(t.Context())
		if err != nil || found.Major != c.want {
			t.Errorf("%s: PostgreSQL %d, error %v; want %d", c.name, found.Major, err, c.want)
		}
	}
}

func TestAServerIsFetchedOnce(t *testing.T) {
	p := &place{root: t.TempDir()}
	for range 2 {
		found, err := p.finder(t).Find(t.Context())
		if err != nil || found.Major != 20 || !strings.HasPrefix(found.Dir, filepath.Join(p.root, "cache")) {
			t.Fatalf("%+v, %v", found, err)
		}
	}
	if p.fetched != 1 {
		t.Errorf("fetched %d times", p.fetched)
	}
	left, err := filepath.Glob(filepath.Join(p.root, "cache", "fetch-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestNoServerAtAllListsTheRemedies(t *testing.T) {
	offline := errors.New("no network")
	p := &place{root: t.TempDir(), fails: offline}
	_, err := p.finder(t).Find(t.Context())
	if !errors.Is(err, offline) {
		t.Fatalf("error %v", err)
	}
	for _, remedy := range []string{"apt install postgresql", "PG_BIN", "DATABASE_URL", "npm"} {
		if !strings.Contains(err.Error(), remedy) {
			t.Errorf("the message does not mention %s:\n%v", remedy, err)
		}
	}
}

func TestAWrongPGBINIsAnError(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{filepath.Join(root, "nothing"), server(t, filepath.Join(root, "old"), 14)} {
		p := &place{root: root, env: map[string]string{"PG_BIN": dir}}
		if found, err := p.finder(t).Find(t.Context()); err == nil || !strings.Contains(err.Error(), "PG_BIN="+dir) {
			t.Errorf("%s: %+v, %v", dir, found, err)
		}
	}
}

func TestReachesOnlyThroughOpenFolders(t *testing.T) {
	stranger := Account{Name: "stranger", uid: 12345, gid: 12345, switched: true}
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.MkdirAll(filepath.Join(closed, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if !stranger.Reaches(filepath.Join(closed, "inner")) {
		t.Error("an open folder is out of reach")
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if stranger.Reaches(filepath.Join(closed, "inner")) {
		t.Error("a closed folder is in reach")
	}
	if place, err := stranger.Place(closed); err != nil || place != filepath.Join(closed, "postgres") ||
		!stranger.Reaches(place) {
		t.Errorf("the cluster goes to %s, error %v; want it in the folder, and in reach", place, err)
	}
}

func TestClustersOfDeletedStacksAreDeleted(t *testing.T) {
	base, alive := t.TempDir(), t.TempDir()
	for name, stack := range map[string]string{"kept": alive, "left": filepath.Join(alive, "gone")} {
		home := filepath.Join(base, name)
		if err := errors.Join(os.MkdirAll(filepath.Join(home, "postgres"), 0o750),
			os.WriteFile(filepath.Join(home, originName), []byte(stack), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	sweepOutside(base)
	left, err := filepath.Glob(filepath.Join(base, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "kept" {
		t.Errorf("left: %v, error %v; want only the cluster of the stack that exists", left, err)
	}
}

func TestEnvironmentDropsWhatChangesAServer(t *testing.T) {
	got := environment([]string{"PGPORT=1", "LC_MESSAGES=de", "LANG=de", "LANGUAGE=de", "HOME=/home/me"})
	if want := []string{"HOME=/home/me", "LC_ALL=C"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestUnpackMakesLinksAndStaysInside(t *testing.T) {
	links := `[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]`
	dir := t.TempDir()
	err := unpack(archive(t, "package/native/pg-symlinks.json", links, "package/native/lib/libpq.so.5.18", "code",
		"package/native/bin/postgres", "program"), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "package/native/lib/libpq.so.5")); err != nil ||
		string(got) != "code" {
		t.Errorf("through the link: %q, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "package/native/bin/postgres")); err != nil ||
		info.Mode().Perm()&0o100 == 0 {
		t.Errorf("the program cannot be run: %v, %v", info, err)
	}

	inner := filepath.Join(t.TempDir(), "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unpack(archive(t, "../outside", "x"), inner); err == nil {
		t.Error("a name outside the folder was accepted")
	}
	if _, err := os.Stat(filepath.Join(inner, "..", "outside")); !os.IsNotExist(err) {
		t.Errorf("something was written outside: %v", err)
	}
}

// archive packs files, given as alternating names and contents, as npm does.
func archive(t *testing.T, namesAndContents ...string) string {
	t.Helper()
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	tarred := tar.NewWriter(zip)
	for pair := range slices.Chunk(namesAndContents, 2) {
		if err := tarred.WriteHeader(
			&tar.Header{Name: pair[0], Size: int64(len(pair[1])), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tarred, pair[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tarred.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "packed.tgz")
	if err := os.WriteFile(path, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
