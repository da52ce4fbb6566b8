package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Account is the user that the server runs as. PostgreSQL refuses to run as root.
type Account struct {
	// Name appears in messages.
	Name     string
	uid, gid uint32
	switched bool // the account differs from the user that devstack runs as
}

// CurrentAccount returns the user that devstack runs as, or an unprivileged one if that is root.
func CurrentAccount() Account {
	if os.Getuid() != 0 {
		return Account{Name: strconv.Itoa(os.Getuid()), uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return Account{Name: name, uid: uint32(uid), gid: uint32(gid), switched: true}
		}
	}
	const overflow = 65534 // the id that Linux shows for an unknown owner
	return Account{Name: strconv.Itoa(overflow), uid: overflow, gid: overflow, switched: true}
}

// own makes the account own a file or folder. The account must not be able to write the folder that holds it.
func (a Account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// disown undoes own, also of an earlier version of devstack, and sets the mode.
func (a Account) disown(path string, mode fs.FileMode) error {
	if !a.switched {
		return nil
	}
	return errors.Join(os.Chown(path, os.Getuid(), os.Getgid()), os.Chmod(path, mode))
}

// as makes cmd run as the account.
func (a Account) as(cmd *exec.Cmd) {
	if a.switched {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
	}
}

// Reaches reports whether the account may enter dir and every folder above it. A folder that does not exist yet
// counts as enterable.
func (a Account) Reaches(dir string) bool {
	if !a.switched {
		return true
	}
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && !a.enters(info) {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func (a Account) enters(info os.FileInfo) bool {
	const owner, group, other = 0o100, 0o010, 0o001
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && stat.Uid == a.uid:
		return info.Mode()&owner != 0
	case ok && stat.Gid == a.gid:
		return info.Mode()&group != 0
	default:
		return info.Mode()&other != 0
	}
}

// TempDir returns the folder for temporary directories: the usual one, or /tmp if the account cannot enter that.
func (a Account) TempDir() string {
	if dir := os.TempDir(); a.Reaches(dir) {
		return dir
	}
	return "/tmp"
}

// cacheDir makes the folder that keeps a downloaded server, in a place that the account can read.
func (a Account) cacheDir() (string, error) {
	temporary := filepath.Join(a.TempDir(), "signup-saga-cache-"+strconv.Itoa(os.Getuid()))
	lasting := "/var/cache/signup-saga"
	if !a.switched {
		lasting = temporary
		if dir, err := os.UserCacheDir(); err == nil {
			lasting = filepath.Join(dir, "signup-saga")
		}
	}
	if makeOurs(lasting) == nil && a.Reaches(lasting) {
		return lasting, nil
	}
	return temporary, makeOurs(temporary)
}

// makeOurs makes a folder that no other user may write, because programs in it are executed. In a world-writable
// place like /tmp, the path may already be another user's folder, or a link.
func makeOurs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // the server runs as another user
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	const othersWrite = 0o022
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Getuid() || info.Mode()&othersWrite != 0 {
		return fmt.Errorf("%s is a link, belongs to another user, or may be written by others: delete it", dir)
	}
	return nil
}

// Place returns the folder for the cluster of a stack in dir, which must exist. It is a folder in dir if the
// account can get there. If dir itself is closed to the account, Place opens dir for passing through; its files
// stay as private as they are. If a folder above dir is closed, the cluster is kept below /var/lib, and
// dir/postgres is a link to it. Place then also deletes such clusters of stacks that have been deleted.
func (a Account) Place(dir string) (string, error) {
	inside := filepath.Join(dir, "postgres")
	if a.Reaches(dir) {
		return inside, nil
	}
	if a.Reaches(filepath.Dir(dir)) {
		info, err := os.Stat(dir)
		if err != nil {
			return "", err
		}
		return inside, os.Chmod(dir, info.Mode().Perm()|0o001)
	}
	sweepOutside(outsideDir)
	name := sha256.Sum256([]byte(dir))
	home := filepath.Join(outsideDir, hex.EncodeToString(name[:8]))
	outside := filepath.Join(home, "postgres")
	if err := os.MkdirAll(outside, 0o755); err != nil { // the account has to reach it
		return "", err
	}
	if err := os.WriteFile(filepath.Join(home, originName), []byte(dir), 0o600); err != nil {
		return "", err
	}
	if err := os.Symlink(outside, inside); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return outside, nil
}

const (
	// outsideDir holds the clusters of stacks in folders that their account cannot reach.
	outsideDir = "/var/lib/signup-saga"
	// originName is the file beside such a cluster that holds the path of its stack's folder.
	originName = "stack"
)

// sweepOutside deletes the clusters below base whose stack's folder no longer exists. Errors are ignored, so
// that no leftover prevents a start.
func sweepOutside(base string) {
	origins, err := filepath.Glob(filepath.Join(base, "*", originName))
	if err != nil {
		return
	}
	for _, origin := range origins {
		stack, err := os.ReadFile(origin)
		if err != nil {
			continue
		}
		if _, err := os.Lstat(string(stack)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if home := filepath.Dir(origin); Vacate(home) {
			_ = os.RemoveAll(home)
		}
	}
}
