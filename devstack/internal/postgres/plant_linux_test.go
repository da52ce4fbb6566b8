package postgres

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// open returns a folder that other users may enter.
func open(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// Links that the server's account placed are not followed, and the account cannot place any later. Without root
// there is only one account, and only the links are tested.
func TestNoLinkOfTheAccountIsFollowed(t *testing.T) {
	account, root := CurrentAccount(), open(t)
	precious := filepath.Join(root, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := Config{Dir: filepath.Join(root, "pg"), Account: account,
		Binaries: Binaries{Dir: server(t, filepath.Join(root, "bin"), 18), Major: 18}}
	err := errors.Join(os.Mkdir(config.Dir, 0o700), os.Symlink(precious, filepath.Join(config.Dir, "password.new")),
		os.Symlink(root, filepath.Join(config.Dir, "data")), account.own(config.Dir))
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(precious); err != nil || string(content) != "precious" {
		t.Errorf("the linked file holds %q, %v", content, err)
	}
	us := uint32(os.Getuid())
	owners := map[string]uint32{
		precious: us, config.Dir: us, cluster.passwordFile(): us, cluster.data(): account.uid,
	}
	for path, want := range owners {
		if got := ownerOf(t, path); got != want {
			t.Errorf("%s belongs to %d, want %d", path, got, want)
		}
	}
	touch := exec.Command("touch", filepath.Join(config.Dir, "password.new"))
	if account.as(touch); account.switched && touch.Run() == nil {
		t.Error("the account may still plant files")
	}
	if info, err := os.Stat(cluster.passwordFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info, err)
	}

	err = errors.Join(os.WriteFile(filepath.Join(cluster.data(), "PG_VERSION"), []byte("18"), 0o600),
		os.Remove(cluster.passwordFile()), os.Symlink(precious, cluster.passwordFile()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config); err == nil {
		t.Error("a link is read as the password file")
	}
}

// The account owns the socket's folder, but not the temporary folder around it, which holds the lock.
func TestAccountCannotReplaceTheLockBesideItsSocket(t *testing.T) {
	account, root := CurrentAccount(), open(t)
	cluster, err := Open(t.Context(), Config{Dir: filepath.Join(root, strings.Repeat("l", socketPathLimit)),
		Binaries: Binaries{Dir: server(t, filepath.Join(root, "bin"), 18)}, Account: account})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.scratch.Remove() })
	if ownerOf(t, cluster.scratch.Path) != uint32(os.Getuid()) || ownerOf(t, cluster.sockets) != account.uid {
		t.Error("the wrong folder was given away")
	}
}

// A program's version is probed as the account that would run it.
func TestVersionIsProbedAsTheAccount(t *testing.T) {
	account, root := CurrentAccount(), open(t)
	script := "#!/bin/sh\necho \"postgres (PostgreSQL) $(( 100000 + $(id -u) ))\"\n"
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	found, err := (Finder{Account: account}).inspect(t.Context(), root)
	if err != nil || found.Major != 100000+int(account.uid) {
		t.Errorf("ran as %d, %v; want %d", found.Major-100000, err, account.uid)
	}
}

// A folder for programs is refused if another user could put programs there.
func TestCacheOfAnotherUserIsRefused(t *testing.T) {
	root := t.TempDir()
	link, shared, fine := filepath.Join(root, "link"), filepath.Join(root, "shared"), filepath.Join(root, "fine")
	if err := errors.Join(os.Symlink(root, link), os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777)); err != nil {
		t.Fatal(err)
	}
	if err := makeOurs(fine); err != nil {
		t.Error(err)
	}
	refused := []string{link, shared}
	if account := CurrentAccount(); account.switched {
		foreign := filepath.Join(root, "foreign")
		if err := errors.Join(os.Mkdir(foreign, 0o755), account.own(foreign)); err != nil {
			t.Fatal(err)
		}
		refused = append(refused, foreign)
	}
	for _, dir := range refused {
		if makeOurs(dir) == nil {
			t.Errorf("%s is used", dir)
		}
	}
}

// A pid file that is a pipe does not hang devstack. A pid file that names another user's shared memory does not
// make devstack remove that memory.
func TestPidFileIsNotTrusted(t *testing.T) {
	data := t.TempDir()
	pid := filepath.Join(data, "postmaster.pid")
	if err := unix.Mkfifo(pid, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := pidFile(data, 1); got != -1 {
		t.Errorf("a pipe holds %d", got)
	}
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Fatal(err)
	}
	removeUnusedSegment(id, uint32(os.Getuid())+1)
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil {
		t.Errorf("the segment of another user: %v", err)
	}
	removeUnusedSegment(id, uint32(os.Getuid()))
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err == nil {
		t.Error("the own segment is still there")
	}
}
