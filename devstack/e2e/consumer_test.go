package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The program of docs/adding-a-consumer.md works with just the users that its diff adds. It sees a signup that
// was made before it started.
func TestAddingAConsumer(t *testing.T) {
	t.Parallel()
	blocks := map[string]string{}
	guide := mustRead(t, filepath.Join(repository, "docs", "adding-a-consumer.md"))
	for _, b := range regexp.MustCompile("(?ms)^```(go|diff)\n(.*?)^```").FindAllStringSubmatch(guide, -1) {
		blocks[b[1]] = b[2]
	}
	tree, dir := copyTree(t), t.TempDir()
	applyDiff(t, tree, blocks["diff"])
	source, greeter := filepath.Join(dir, "main.go"), filepath.Join(dir, "greeter")
	if err := os.WriteFile(source, []byte(blocks["go"]), 0o600); err != nil {
		t.Fatal(err)
	}
	in(t, repository, "go", "build", "-o", greeter, source)

	f := startFortressOf(t, tree, "member", "storage", "greeter")
	f.tree, f.services = repository, []string{"member", "storage"} // the services are those of this tree
	f.migrate()
	f.serve("storage")
	f.serve("member")
	run := func(role string, args ...string) *child {
		env := []string{"SSL_CERT_FILE=" + f.ca.File, "NATS_URL=" + f.natsAs("greeter_"+role, "canaryNATS")}
		return start(t, "greeter "+role, env, greeter, args...)
	}
	f.awaitState(f.signUp("greeted"), "ready")
	made := run("migrator", "migrate")
	if <-made.done; made.err != nil {
		t.Fatalf("greeter migrate: %v\n%s", made.err, made.printed)
	}
	member, _ := f.sagas()["greeted"]["member_id"].(string)
	reader := run("app")
	eventually(t, time.Minute, "the event", func() bool {
		return strings.Contains(reader.printed.String(), `: {"member_id":"`+member+`"`)
	})
	_, auditor := record(t, f)
	f.taken(auditor, "MEMBER_NONESSENTIAL", "greeter")
}
