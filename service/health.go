package service

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const checkTimeout = time.Second

// Health answers probes. Liveness depends on nothing: restarting a process does not bring back a database.
// Readiness runs every check, and is off while the process drains. Safe for concurrent use.
type Health struct {
	checks   map[string]func(ctx context.Context) error
	draining atomic.Bool
}

// NewHealth returns a Health with these checks by name. Include only what the service needs to answer a
// request.
func NewHealth(checks map[string]func(ctx context.Context) error) *Health {
	return &Health{checks: checks}
}

// SetDraining turns readiness off for good.
func (h *Health) SetDraining() { h.draining.Store(true) }

// LiveHandler answers 200 as long as the process can answer at all.
func (h *Health) LiveHandler(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n")
}

// ReadyHandler answers 200 or 503 and, with the query ?verbose, lists the checks.
func (h *Health) ReadyHandler(w http.ResponseWriter, r *http.Request) {
	results := h.run(r.Context())
	status, answer := http.StatusOK, map[string]any{"status": "ready"}
	for _, result := range results {
		if result != "ok" {
			status, answer["status"] = http.StatusServiceUnavailable, "not ready"
		}
	}
	if r.URL.Query().Has("verbose") {
		answer["checks"] = results
	}
	w.Header().Set("Cache-Control", "no-store")
	_ = WriteJSON(w, status, answer) // a map of strings always encodes
}

func (h *Health) run(ctx context.Context) map[string]string {
	if h.draining.Load() {
		return map[string]string{"draining": "stopping"}
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := make(map[string]string, len(h.checks))
	for name, check := range h.checks {
		wg.Go(func() {
			result := "ok"
			if err := check(ctx); err != nil {
				result = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			results[name] = result
		})
	}
	wg.Wait()
	return results
}

// healthcheck returns nil if url answers 200 within 2 s.
func healthcheck(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("healthcheck: %s answered %s", url, resp.Status)
	}
	return nil
}
