package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"
)

var dockerfiles = []string{"deploy/member-svc.Dockerfile", "deploy/storage-svc.Dockerfile"}

// anyImage resolves every base image without a registry.
type anyImage struct{}

func (anyImage) ResolveImageConfig(
	_ context.Context, ref string, _ sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/usr/local/go/bin:/usr/bin:/bin"}, "User": "65532",
			"WorkingDir": "/"},
	})
	return ref, digest.FromBytes(config), config, err
}

func (anyImage) ResolveSourceMetadata(
	_ context.Context, _ *pb.SourceOp, _ sourceresolver.Opt,
) (*sourceresolver.MetaResponse, error) {
	return nil, fmt.Errorf("no source is resolved here")
}

// BuildKit's own front end compiles each Dockerfile into a build without a warning.
func TestDockerfilesCompile(t *testing.T) {
	for _, name := range dockerfiles {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text := mustRead(t, filepath.Join(repository, name))
			result, err := dockerfile2llb.Dockerfile2LLB(t.Context(), []byte(text), dockerfile2llb.ConvertOpt{
				MetaResolver: anyImage{},
				Warn: func(rule, description, _, message string, _ []parser.Range) {
					t.Errorf("%s: %s (%s)", rule, message, description)
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if user := result.Image.Config.User; user != "65532:65532" {
				t.Errorf("the image runs as %q", user)
			}
			if len(result.Image.Config.Entrypoint) == 0 || len(result.Image.Config.Cmd) == 0 {
				t.Error("the image does not say what it runs")
			}
		})
	}
}

// rehearsal executes a Dockerfile on this machine. A folder acts as the build stage's root and holds only what
// the Dockerfile copies from the build context.
type rehearsal struct {
	root    string // acts as /
	workdir string // in the image
	env     []string
}

// image is the result of a rehearsed Dockerfile.
type image struct {
	entrypoint []string
	command    []string
	// files maps each path in the image to the file on this machine that would be there.
	files map[string]string
	// owners maps paths to the owner that their COPY sets.
	owners map[string]string
}

func parseDockerfile(t testing.TB, text string) []instructions.Stage {
	t.Helper()
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	stages, _, err := instructions.Parse(parsed.AST,
		linter.New(&linter.Config{Warn: func(string, string, string, string, []parser.Range) {}}))
	if err != nil {
		t.Fatal(err)
	}
	return stages
}

// rehearse runs a Dockerfile's two stages.
func rehearse(t testing.TB, name string) image {
	t.Helper()
	stages := parseDockerfile(t, mustRead(t, filepath.Join(repository, name)))
	if len(stages) != 2 {
		t.Fatalf("%s has %d stages, expected build and run", name, len(stages))
	}
	r := &rehearsal{root: t.TempDir(), workdir: "/", env: os.Environ()}
	for _, command := range stages[0].Commands {
		switch c := command.(type) {
		case *instructions.EnvCommand:
			for _, pair := range c.Env {
				r.env = append(r.env, pair.Key+"="+pair.Value)
			}
		case *instructions.WorkdirCommand:
			r.workdir = resolve(r.workdir, c.Path)
			if err := os.MkdirAll(r.host(r.workdir), 0o755); err != nil {
				t.Fatal(err)
			}
		case *instructions.CopyCommand:
			for _, source := range c.SourcePaths {
				r.copyFromContext(t, source, resolve(r.workdir, c.DestPath))
			}
		case *instructions.RunCommand:
			r.run(t, c)
		default:
			t.Fatalf("%s: the rehearsal does not know %s", name, command.Name())
		}
	}
	return r.finalStage(t, stages[1])
}

func (r *rehearsal) host(inImage string) string {
	return filepath.Join(r.root, filepath.FromSlash(inImage))
}

// resolve returns the absolute path in the image of p, relative to folder.
func resolve(folder, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(folder, p)
}

func (r *rehearsal) run(t testing.TB, c *instructions.RunCommand) {
	t.Helper()
	if err := c.Expand(func(word string) (string, error) { return word, nil }); err != nil { // parses the mounts
		t.Fatal(err)
	}
	for _, mount := range instructions.GetMounts(c) {
		if mount.Type != instructions.MountTypeCache ||
			!slices.Contains([]string{"/go/pkg/mod", "/root/.cache/go-build"}, mount.Target) {
			t.Errorf("mount %s %s: expected the caches of Go only", mount.Type, mount.Target)
		}
	}
	// Absolute paths are below the stage's root.
	line := strings.ReplaceAll(strings.Join(c.CmdLine, " "), " /", " "+r.root+"/")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Dir, cmd.Env = r.host(r.workdir), r.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("RUN %s: %v\n%s", line, err, out)
	}
}

func (r *rehearsal) copyFromContext(t testing.TB, source, destination string) {
	t.Helper()
	ignored, err := ignorefile.ReadAll(strings.NewReader(mustRead(t, filepath.Join(repository, ".dockerignore"))))
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(ignored)
	if err != nil {
		t.Fatal(err)
	}
	copied := 0
	err = filepath.WalkDir(filepath.Join(repository, source), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inContext, err := filepath.Rel(repository, file)
		if err != nil {
			return err
		}
		if skip, err := matcher.MatchesOrParentMatches(inContext); skip || err != nil {
			return err
		}
		rest, err := filepath.Rel(filepath.Join(repository, source), file)
		if err != nil {
			return err
		}
		copied++
		return copyFile(file, filepath.Join(r.host(destination), rest))
	})
	if err != nil {
		t.Fatalf("COPY %s: %v", source, err)
	}
	if copied == 0 {
		t.Fatalf("COPY %s: nothing is left of it after .dockerignore", source)
	}
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644) // a copy of a public source file
}

func (r *rehearsal) finalStage(t testing.TB, stage instructions.Stage) image {
	t.Helper()
	made := image{files: map[string]string{}, owners: map[string]string{}}
	for _, command := range stage.Commands {
		switch c := command.(type) {
		case *instructions.CopyCommand:
			for _, source := range c.SourcePaths {
				if c.From != "build" {
					t.Errorf("COPY %s from %q: expected from the build stage", source, c.From)
				}
				if _, err := os.Stat(r.host(source)); err != nil {
					t.Errorf("COPY: %v", err)
				}
				made.files[c.DestPath], made.owners[c.DestPath] = r.host(source), c.Chown
			}
		case *instructions.EntrypointCommand:
			made.entrypoint = c.CmdLine
		case *instructions.CmdCommand:
			made.command = c.CmdLine
		}
	}
	return made
}

// Each image builds from only what it copies. The program that it starts is in it and links to nothing outside.
func TestImagesBuildFromWhatTheyCopy(t *testing.T) {
	for _, name := range dockerfiles {
		t.Run(filepath.Base(name), func(t *testing.T) {
			made := rehearse(t, name)
			program := made.files[made.entrypoint[0]]
			if program == "" {
				t.Fatalf("nothing is copied to %s, which the image starts", made.entrypoint[0])
			}
			content, err := os.ReadFile(program)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(content, []byte("/ld-linux")) {
				t.Error("the program wants a dynamic linker, which the image has not")
			}
			out, err := exec.CommandContext(t.Context(), program, "no-such-command").CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("healthcheck")) {
				t.Errorf("the program does not list its commands: %v\n%s", err, out)
			}
		})
	}
}
