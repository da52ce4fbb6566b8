package main

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// operateOn posts to the fault screen as a browser does that shows a page of origin.
func operateOn(t *testing.T, base, host, origin, verb, name string) (status int, location string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/component",
		strings.NewReader(url.Values{"verb": {verb}, "name": {name}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", origin)
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode, answer.Header.Get("Location")
}

func page(t *testing.T, address string) string {
	t.Helper()
	answer, err := http.Get(address) // the address is a constant of this test
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", address, answer.Status, err)
	}
	return string(text)
}

func TestFaultScreenOperatesTheStack(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	up, env := upStack(t, tmp, dir, "--faults", "--storages", "2")
	base := env["FAULTS_URL"]
	eventually(t, "the address of the screen in what is printed", func() bool {
		return strings.Contains(up.printed(t), base+"/")
	})
	if log, err := os.ReadFile(filepath.Join(dir, "log", "member.log")); err != nil ||
		!strings.Contains(string(log), "CONSOLE_DEMO_URL="+base+"/\n") {
		t.Errorf("the console does not show it: %v\n%s", err, log)
	}
	shown := page(t, base)
	for name := range status(t, dir) {
		if !strings.Contains(shown, `<th scope="row">`+name+`</th>`) {
			t.Errorf("no %s on the page", name)
		}
	}
	for _, address := range []string{env["MEMBER_URL"] + "/", env["ADMIN_URL"] + "/console/", env["MAIL_URL"] + "/"} {
		if !strings.Contains(shown, `href="`+address+`"`) {
			t.Errorf("no link to %s", address)
		}
	}
	host := strings.TrimPrefix(base, "http://")
	do := func(verb, name string) string {
		t.Helper()
		if status, to := operateOn(t, base, host, base, verb, name); status != http.StatusSeeOther || to != "/" {
			t.Errorf("%s %s: %d %s", verb, name, status, to)
		}
		return page(t, base)
	}
	for _, step := range []struct{ verb, name, state string }{
		{"kill", "nats", "killed"}, {"start", "nats", "running"}, {"pause", "storage-2", "paused"},
		{"resume", "storage-2", "running"}, {"wipe", "nats", "running"},
	} {
		shown := do(step.verb, step.name)
		if got := status(t, dir)[step.name]; string(got.State) != step.state {
			t.Errorf("after %s, %s is %s", step.verb, step.name, got.State)
		}
		if !strings.Contains(shown, `id="state-`+step.name+`" data-live><span class="badge `) ||
			!strings.Contains(shown, ">"+step.state+"</span>") {
			t.Errorf("after %s the page does not say that %s is %s", step.verb, step.name, step.state)
		}
	}
	if shown := do("kill", "storage-9"); !strings.Contains(shown, `there is no component &#34;storage-9&#34;`) {
		t.Errorf("a component that does not exist: %s", shown)
	}
	if shown := do("break", "nats"); !strings.Contains(shown, "unknown verb") {
		t.Errorf("a verb that does not exist: %s", shown)
	}
}

// Pages of other sites cannot use the fault screen, under any host name.
func TestFaultScreenIsOnlyForItsOwnPages(t *testing.T) {
	tmp := tempDir(t)
	dir := filepath.Join(tmp, "stack")
	_, env := upStack(t, tmp, dir, "--faults")
	base := env["FAULTS_URL"]
	host := strings.TrimPrefix(base, "http://")
	_, port, _ := strings.Cut(host, ":")
	for _, tc := range []struct {
		host, origin string
		want         int
	}{
		{host, "http://evil.example", http.StatusForbidden},
		{host, env["MEMBER_URL"], http.StatusForbidden},
		{"evil.example:" + port, "http://evil.example:" + port, http.StatusMisdirectedRequest},
		{"localhost:" + port, "http://localhost:" + port, http.StatusMisdirectedRequest},
	} {
		if got, _ := operateOn(t, base, tc.host, tc.origin, "kill", "nats"); got != tc.want {
			t.Errorf("host %s, origin %s: %d", tc.host, tc.origin, got)
		}
	}
	if got := status(t, dir)["nats"]; got.State != "running" {
		t.Errorf("nats is %s", got.State)
	}
	if got, _ := operateOn(t, base, host, base, "kill", "nats"); got != http.StatusSeeOther ||
		status(t, dir)["nats"].State != "killed" {
		t.Errorf("its own page: %d, nats is %s", got, status(t, dir)["nats"].State)
	}
}
