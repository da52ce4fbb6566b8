package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/signup-saga/signup-saga/devstack/testenv"
)

// waitLimit is how long a page may take to show what it should, on a busy machine.
const waitLimit = 30 * time.Second

// atExit holds functions that run after the last test, last one first.
var atExit []func() error

func TestMain(m *testing.M) {
	code := m.Run()
	for i := len(atExit) - 1; i >= 0; i-- {
		if err := atExit[i](); err != nil {
			fmt.Fprintln(os.Stderr, "browser:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// chromium starts the browser of this run and returns its context. The browser can reach only this machine.
var chromium = sync.OnceValues(func() (context.Context, error) {
	flags := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.DisableGPU,
		chromedp.WindowSize(1280, 800),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("enable-blink-features", "ComputedAccessibilityInfo"), // for find
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)
	ctx, cancel := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(flags...))
	if err := chromedp.Do(ctx); err != nil {
		cancel()
		return nil, err
	}
	atExit = append(atExit, func() error { return chromedp.Cancel(ctx) })
	return ctx, nil
})

// needChromium returns the context of the browser. Without a browser, the test is skipped, except in CI, where
// it fails.
func needChromium(t testing.TB) context.Context {
	t.Helper()
	ctx, err := chromium()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip("no Chromium or Chrome is installed")
	}
	if err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	return ctx
}

// eventually polls cond until it is true. what completes the message "gave up waiting for …".
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	testenv.Eventually(t, waitLimit, what, cond)
}
