package service_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestDecodeJSONIsStrict(t *testing.T) {
	type body struct {
		Name string `json:"name"`
		N    int    `json:"n"`
	}
	for name, c := range map[string]struct {
		contentType, body, code, pointer string
		status                           int
	}{
		"good":         {"application/json; charset=utf-8", `{"name":"x","n":1} `, "", "", 200},
		"unknown":      {"application/json", `{"nom":"secret"}`, "invalid_json", "/nom", 400},
		"case":         {"application/json", `{"Name":"secret"}`, "invalid_json", "/Name", 400},
		"duplicate":    {"application/json", `{"name":"secret","name":"y"}`, "invalid_json", "/name", 400},
		"second value": {"application/json", `{"name":"x"} {}`, "invalid_json", "", 400},
		"UTF-8":        {"application/json", "{\"name\":\"\xff\"}", "invalid_json", "/name", 400},
		"wrong type":   {"application/json", `{"n":"secret"}`, "invalid_json", "/n", 400},
		"empty":        {"application/json", ``, "invalid_json", "", 400},
		"large, bad":   {"application/json", strings.Repeat("x", 9000), "body_too_large", "", 413},
		"too large":    {"application/json", `{"name":"` + strings.Repeat("x", 9000) + `"}`, "body_too_large", "", 413},
		"form":         {"application/x-www-form-urlencoded", `name=x`, "unsupported_media_type", "", 415},
		"no type":      {"", `{}`, "unsupported_media_type", "", 415},
	} {
		t.Run(name, func(t *testing.T) {
			handler := service.Adapt(discard(), nil, func(w http.ResponseWriter, r *http.Request) error {
				return service.DecodeJSON(w, r, &body{})
			})
			r := httptest.NewRequest("POST", "/", strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.contentType)
			w := httptest.NewRecorder()
			handler(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.code) ||
				!strings.Contains(w.Body.String(), c.pointer) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("the value is repeated: %s", w.Body)
			}
			if c.status != 200 && w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("content type %q", w.Header().Get("Content-Type"))
			}
		})
	}
}

func TestAdaptMapsErrors(t *testing.T) {
	errBusy := errors.New("busy")
	mapErr := func(err error) *wire.Problem {
		if !errors.Is(err, errBusy) {
			return nil
		}
		p := service.NewProblem(503, "busy", "")
		p.RetryAfter = 1200 * time.Millisecond
		return p
	}
	for name, c := range map[string]struct {
		h          service.Handler
		status     int
		retryAfter string
		logged     int
	}{
		"mapped":   {func(http.ResponseWriter, *http.Request) error { return errBusy }, 503, "2", 0},
		"unmapped": {func(http.ResponseWriter, *http.Request) error { return errors.New("hidden") }, 500, "", 1},
		"panic":    {func(http.ResponseWriter, *http.Request) error { panic("hidden") }, 500, "", 1},
		"fine": {func(w http.ResponseWriter, _ *http.Request) error { return service.WriteJSON(w, 201, 1) }, 201,
			"", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			w := httptest.NewRecorder()
			service.Adapt(service.NewLogger(&log, "json", "info"), mapErr, c.h)(w,
				httptest.NewRequest("GET", "/v1/x/capability", nil))
			if w.Code != c.status || w.Header().Get("Retry-After") != c.retryAfter ||
				strings.Contains(w.Body.String(), "hidden") {
				t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
			}
			if n := strings.Count(log.String(), "\n"); n != c.logged || strings.Contains(log.String(), "capability") {
				t.Errorf("%d lines, want %d: %s", n, c.logged, log.String())
			}
		})
	}
}

func hash(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }

func status(h http.Handler, token string) int {
	r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
	r.Header.Set("Authorization", "Bearer "+token)
	h.ServeHTTP(w, r)
	return w.Code
}

func TestTokens(t *testing.T) {
	ann, vic := hash("token of ann"), hash("token of vic")
	tokens, err := service.ParseTokens("# comment\n\nann:operator:" + ann + "\nvic:viewer:" + vic)
	if err != nil {
		t.Fatal(err)
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, role := service.Actor(r.Context())
		w.Header().Set("Actor", name+" "+role)
	})
	for _, c := range []struct {
		role, authorization string
		status              int
		actor               string
	}{
		{service.RoleViewer, "Bearer token of vic", 200, "vic viewer"},
		{service.RoleViewer, "bearer token of ann", 200, "ann operator"},
		{service.RoleOperator, "Bearer token of ann", 200, "ann operator"},
		{service.RoleOperator, "Bearer token of vic", 403, ""},
		{service.RoleOperator, "Bearer " + ann, 401, ""},
		{service.RoleViewer, "Basic token of ann", 401, ""},
		{service.RoleViewer, "Bearer ", 401, ""},
		{service.RoleViewer, "", 401, ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", c.authorization)
		w := httptest.NewRecorder()
		tokens.Require(c.role)(ok).ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get("Actor") != c.actor ||
			(w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%+v: %d %v", c, w.Code, w.Header())
		}
	}
}

func TestHealth(t *testing.T) {
	var failing error
	h := service.NewHealth(map[string]func(context.Context) error{"db": func(context.Context) error { return failing }})
	server := httptest.NewServer(http.HandlerFunc(h.ReadyHandler))
	defer server.Close()
	if err := service.HealthcheckAddr(t.Context(), server.Listener.Addr().String(), service.TLSFiles{}); err != nil {
		t.Error(err)
	}
	failing = errors.New("down")
	if err := service.HealthcheckAddr(t.Context(), server.Listener.Addr().String(), service.TLSFiles{}); err == nil {
		t.Error("ready with a failing check")
	}
	w := httptest.NewRecorder()
	h.ReadyHandler(w, httptest.NewRequest("GET", "/readyz?verbose", nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), `"db":"down"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	failing = nil
	h.SetDraining()
	if err := service.HealthcheckAddr(t.Context(), server.Listener.Addr().String(), service.TLSFiles{}); err == nil {
		t.Error("ready while draining")
	}
}
