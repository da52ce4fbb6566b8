// Command gen packs the list of common passwords in an npm package for package password.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/signup-saga/signup-saga/member-svc/internal/password"
)

const (
	// reviewed is the SHA-512 of the package, in base64 as npm prints it.
	reviewed = "g2bg4skmlJG9aJqC/nWziZzgYpSe/f3rKeGobrkdFiOrfZVFqqzUgC6BUQWuX54Sua9j0Jxxt+1bf4f/Mal1Kg=="
	list     = "package/src/passwords.json"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: gen PACKAGE OUTPUT, with the package that npm pack wrote")
	}
	packed, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	if sum := sha512.Sum512(packed); base64.StdEncoding.EncodeToString(sum[:]) != reviewed {
		return fmt.Errorf("%s is not the package that was reviewed: review it, then change the hash", args[0])
	}
	passwords, err := read(packed)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", list, args[0], err)
	}
	return os.WriteFile(args[1], password.PackPublished(passwords), 0o600)
}

func read(packed []byte) (passwords []string, err error) {
	plain, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if err != nil {
			return nil, err
		}
		if header.Name == list {
			return passwords, json.NewDecoder(archive).Decode(&passwords)
		}
	}
}
