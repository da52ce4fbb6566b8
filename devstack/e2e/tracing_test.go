package e2e

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/signup-saga/signup-saga/devstack/e2e/oracle"
)

// collector receives spans by OTLP over HTTP and keeps them.
type collector struct {
	*httptest.Server
	t testing.TB

	mu    sync.Mutex
	spans []span
	raw   bytes.Buffer // everything, as received
}

type span struct {
	*tracepb.Span
	service, process string
}

func (s span) id() string     { return hex.EncodeToString(s.SpanId) }
func (s span) parent() string { return hex.EncodeToString(s.ParentSpanId) }
func (s span) trace() string  { return hex.EncodeToString(s.TraceId) }

// attribute returns the value of an attribute as text, or "" if it is not set.
func (s span) attribute(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return cmp.Or(a.Value.GetStringValue(), fmt.Sprint(a.Value.GetIntValue()))
		}
	}
	return ""
}

func startCollector(t testing.TB) *collector {
	t.Helper()
	c := &collector{t: t}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// variables make the services export to the collector with a short delay.
func (c *collector) variables() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_BSP_SCHEDULE_DELAY=100"}
}

// ServeHTTP implements http.Handler.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var data tracepb.TracesData // has the fields of the export request
	if err == nil {
		err = proto.Unmarshal(body, &data)
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" {
		c.t.Errorf("collector: %s %s: %v", r.Method, r.URL, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(body)
	for _, resource := range data.ResourceSpans {
		process := span{Span: &tracepb.Span{Attributes: resource.Resource.Attributes}}
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, span{s, process.attribute("service.name"), process.attribute("process.pid")})
			}
		}
	}
}

// find returns the spans of a trace with the given name and parent, ordered by time. "" matches any name or parent.
func (c *collector) find(trace, name, parent string) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []span
	for _, s := range c.spans {
		if s.trace() == trace && (name == "" || s.Name == name) && (parent == "" || s.parent() == parent) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano) })
	return found
}

// await waits for a span of that kind and returns it. The test fails if there are several.
func (c *collector) await(trace, name, parent string) span {
	c.t.Helper()
	var found []span
	eventually(c.t, 20*time.Second, fmt.Sprintf("%s in trace %s below %q", name, trace, parent), func() bool {
		found = c.find(trace, name, parent)
		return len(found) > 0
	})
	if len(found) > 1 {
		c.t.Fatalf("%d spans are called %s below %q", len(found), name, parent)
	}
	return found[0]
}

// tree renders a trace as a tree.
func (c *collector) tree(trace string) string {
	var b strings.Builder
	var draw func(parent string, depth int)
	all := c.find(trace, "", "")
	draw = func(parent string, depth int) {
		for _, s := range all {
			if s.parent() != parent {
				continue
			}
			failed := cmp.Or(s.attribute("error.type"), s.attribute("saga.state"))
			name := strings.Repeat("  ", depth) + s.Name
			fmt.Fprintf(&b, "%-62s %-11s %8.1f ms after %8.1f ms  %s\n", name, s.service,
				float64(s.EndTimeUnixNano-s.StartTimeUnixNano)/1e6,
				float64(s.StartTimeUnixNano-all[0].StartTimeUnixNano)/1e6, failed)
			draw(s.id(), depth+1)
		}
	}
	draw("", 0)
	return b.String()
}

const (
	provision   = "signup.essential.storage.provision"
	provisioned = "signup.essential.storage.provisioned"
)

// TestOneTraceOfASignup follows a signup through both services, a failed attempt, and back, by its trace alone.
// Then it follows a rejected signup that an operator retries.
func TestOneTraceOfASignup(t *testing.T) {
	c := startCollector(t)
	s := startStack(t, slices.Concat(c.variables(), noTimers,
		[]string{"LOG_LEVEL=debug", "BACKOFF_CAP=5s"}))
	s.provider("flaky")
	const stranger = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00" // with the sampled flag unset
	id := s.tracedSignup("first", stranger)
	eventually(t, healLimit, "an attempt that fails", func() bool {
		return s.count("STORAGE_DATABASE_URL", "SELECT count(*) FROM storage WHERE attempts > 0") == 1
	})
	s.provider("none")
	trace := s.sagaTrace(id, "ready")
	if strings.Contains(stranger, trace) {
		t.Error("the client has chosen the trace")
	}

	request := c.await(trace, "POST /v1/members", "")
	if len(request.ParentSpanId) != 0 || len(request.Links) != 1 ||
		!strings.Contains(stranger, hex.EncodeToString(request.Links[0].TraceId)) {
		t.Errorf("the request's span is below %q, with links %v", request.parent(), request.Links)
	}
	if request.attribute("http.response.status_code") != "201" || request.attribute("http.route") != "/v1/members" {
		t.Errorf("the request's span has %v", request.Attributes)
	}
	c.await(trace, "lookUpSignup", request.id())
	c.await(trace, "insertMember", request.id())
	c.await(trace, "publish "+provision, request.id())
	command := c.await(trace, "process "+provision, request.id())
	c.await(trace, "insertStorages", command.id())
	c.await(trace, "publish "+provisioned, "")
	attempts := c.find(trace, "attempt", command.id())
	if len(attempts) < 2 {
		t.Fatalf("%d attempts below the command, expected those that failed and the last one:\n%s", len(attempts),
			c.tree(trace))
	}
	for i, a := range attempts {
		last := i == len(attempts)-1
		call := c.await(trace, "provider create", a.id())
		if failed := a.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; failed == last ||
			failed != (call.attribute("error.type") == "transient") ||
			a.attribute("storage.attempt") != fmt.Sprint(i+1) {
			t.Errorf("attempt %d: %v", i+1, a)
		}
	}
	last := attempts[len(attempts)-1]
	c.await(trace, "publish "+provisioned, last.id())
	reply := c.await(trace, "process "+provisioned, last.id())
	closed := c.await(trace, "saga provisioned", reply.id())
	if closed.attribute("saga.state") != "ready" || closed.attribute("saga.id") != id {
		t.Errorf("the saga's span has %v", closed.Attributes)
	}
	for _, hop := range []struct {
		span
		by string
	}{{request, "member-svc"}, {command, "storage-svc"}, {last, "storage-svc"}, {reply, "member-svc"},
		{closed, "member-svc"}} {
		if hop.service != hop.by || hop.process == "" {
			t.Errorf("%s is by %s, process %q", hop.Name, hop.service, hop.process)
		}
	}
	t.Logf("trace %s:\n%s", trace, c.tree(trace))
	s.logged("storage", trace)
	s.retryIsAnotherTrace(c)
}

// retryIsAnotherTrace makes an operator retry a rejected signup.
func (s *stack) retryIsAnotherTrace(c *collector) {
	t := s.t
	t.Helper()
	s.provider("reject")
	id := s.tracedSignup("second", "")
	first := s.sagaTrace(id, "needs_attention")
	s.logged("member", first)
	s.provider("none")
	path := "/admin/v1/sagas/{saga_id}/retry"
	if a := s.call(http.MethodPost, s.env["ADMIN_URL"]+strings.ReplaceAll(path, "{saga_id}", id), s.env["ADMIN_TOKEN"],
		`{"reason":"test"}`); a.Status != http.StatusAccepted {
		t.Fatalf("retry: %+v", a)
	}
	second := s.sagaTrace(id, "ready")
	request := c.await(second, "POST "+path, "")
	retried := c.await(second, "saga retried", request.id())
	if second == first || len(request.ParentSpanId) != 0 || len(retried.Links) != 1 ||
		hex.EncodeToString(retried.Links[0].TraceId) != first {
		t.Errorf("the retry has trace %s and links %v; the signup has trace %s", second, retried.Links, first)
	}
	command := c.await(second, "process "+provision, retried.id())
	attempt := c.await(second, "attempt", command.id())
	reply := c.await(second, "process "+provisioned, attempt.id())
	c.await(second, "saga provisioned", reply.id())
	if n := len(c.find(first, "process "+provision, "")); n != 1 || len(c.find(first, "saga rejected", "")) != 1 {
		t.Errorf("the first trace has %d commands:\n%s", n, c.tree(first))
	}
	t.Logf("trace %s, linked to %s:\n%s", second, first, c.tree(second))
}

// tracedSignup signs a person up and returns the saga's id.
func (s *stack) tracedSignup(name, traceParent string) string {
	s.t.Helper()
	a, err := request(http.DefaultClient, http.MethodPost, s.env["MEMBER_URL"]+"/v1/members",
		fmt.Sprintf(`{"username":%q,"password":"a long enough one"}`, name),
		map[string]string{"Traceparent": traceParent})
	if err != nil || a.Status != http.StatusCreated {
		s.t.Fatalf("signup: %+v %v", a, err)
	}
	list := s.call(http.MethodGet, s.env["ADMIN_URL"]+"/admin/v1/sagas?username="+name, s.env["VIEWER_TOKEN"], "")
	items, _ := list.Body["items"].([]any)
	if len(items) != 1 {
		s.t.Fatalf("sagas of %s: %+v", name, list)
	}
	saga, _ := items[0].(map[string]any)
	return fmt.Sprint(saga["saga_id"])
}

// sagaTrace waits until a saga has that state, and returns its trace id.
func (s *stack) sagaTrace(id, state string) (trace string) {
	s.t.Helper()
	eventually(s.t, healLimit, "the saga to be "+state, func() bool {
		saga := s.call(http.MethodGet, s.env["ADMIN_URL"]+"/admin/v1/sagas/"+id, s.env["VIEWER_TOKEN"], "")
		trace, _ = saga.Body["trace_id"].(string)
		return saga.Body["state"] == state
	})
	return trace
}

// logged fails the test unless a component's log names the trace.
func (s *stack) logged(component, trace string) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "log", component+"*"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no log of %s: %v", component, err)
	}
	eventually(s.t, 10*time.Second, "a line of "+component+" in trace "+trace, func() bool {
		return slices.ContainsFunc(files,
			func(f string) bool { return strings.Contains(mustRead(s.t, f), "trace_id="+trace) })
	})
}

// holdsNoCanaries searches everything that was ever exported.
func (c *collector) holdsNoCanaries() {
	c.t.Helper()
	eventually(c.t, 20*time.Second, "spans of the withdrawals", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.ContainsFunc(c.spans, func(s span) bool {
			return s.Name == "DELETE /v1/members/me" && s.attribute("http.response.status_code") == "202"
		})
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := bytes.Index(c.raw.Bytes(), []byte(oracle.Canary)); i >= 0 {
		c.t.Errorf("a span holds a canary: %q", c.raw.Bytes()[max(0, i-200):min(c.raw.Len(), i+100)])
	}
	c.t.Logf("%d spans, %d bytes searched", len(c.spans), c.raw.Len())
}
