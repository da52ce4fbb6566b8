package browser

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// tab is a browser tab of one person: it shares neither cookies nor storage with other tabs.
type tab struct {
	*watch
	t   testing.TB
	ctx context.Context
}

// setting is an option for opening a tab.
type setting = chromedp.Action[chromedp.Void]

// phoneWidth is the width of a narrow phone, in CSS pixels.
const phoneWidth = 360

var (
	dark          = media("prefers-color-scheme", "dark")
	light         = media("prefers-color-scheme", "light")
	phone         = chromedp.EmulateViewport(phoneWidth, 740)
	desktop       = chromedp.EmulateViewport(1280, 800)
	withoutScript = command(emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true})
)

func media(name, value string) setting {
	features := []*emulation.MediaFeature{{Name: name, Value: value}}
	return command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
}

// command returns an action whose result is ignored.
func command[P, R any](cmd cdp.Command[P, R], params P) setting {
	return chromedp.Func(func(ctx context.Context, to *chromedp.Target) error {
		_, err := cdp.Call(ctx, to, cmd, params)
		return err
	})
}

// open opens a tab that closes at the end of the test, and fails the test if anything went wrong in the tab.
func open(t testing.TB, settings ...setting) *tab {
	t.Helper()
	p := &tab{watch: &watch{}, t: t}
	ctx, cancel := chromedp.NewContext(needChromium(t), chromedp.WithNewBrowserContext(),
		chromedp.WithListener(p.event))
	t.Cleanup(cancel)
	p.ctx = ctx
	// The tab lives as long as the context of its first action.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	p.do(command(audits.Enable, cdp.Empty{}), desktop)
	p.do(settings...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s shows:\n%s", p.script("location.href"), p.text())
		}
		for _, problem := range p.verdict() {
			t.Error(problem)
		}
	})
	return p
}

// do runs actions that must succeed at once.
func (p *tab) do(actions ...setting) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, waitLimit)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// visit loads a page.
func (p *tab) visit(address string) {
	p.t.Helper()
	p.do(chromedp.Navigate(address))
}

// await polls cond until it is true. It asks again if the page is being replaced.
func (p *tab) await(what string, cond func(ctx context.Context) (bool, error)) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, waitLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		// The browser does not answer calls about a document that it discards meanwhile.
		asking, done := context.WithTimeout(ctx, time.Second)
		ok, err := cond(asking)
		done()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("gave up waiting for %s after %s: %v", what, waitLimit, err)
		}
	}
}

// until waits until a JavaScript expression is true.
func (p *tab) until(expression string) {
	p.t.Helper()
	p.becomes(expression, expression)
}

// becomes waits until a JavaScript expression is true. The debugger evaluates the expression, so the page's
// policy does not block it. what describes the condition in errors.
func (p *tab) becomes(what, expression string) {
	p.t.Helper()
	p.await(what, func(ctx context.Context) (bool, error) {
		return chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
	})
}

// sees waits until texts are visible.
func (p *tab) sees(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		p.becomes(fmt.Sprintf("%q", text), fmt.Sprintf("document.body?.innerText.includes(%q)", text))
	}
}

// text returns the page's visible text.
func (p *tab) text() string { return p.script("document.body?.innerText ?? ''") }

// script returns the text that a JavaScript expression evaluates to.
func (p *tab) script(expression string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, waitLimit)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](expression))
	if err != nil {
		p.t.Errorf("%s: %v", expression, err)
	}
	return text
}

// find returns an expression for the visible elements with this role and name, as a screen reader sees them. The
// browser computes both, which is slow, so the expression first filters for elements that may have the name.
// DevTools' own query crashes a page that is being left.
func find(role, name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("h1, h2, a, button, input, textarea, table")].filter(e =>
		(e.ariaLabel || e.labels?.length || e.textContent.replace(/\s+/g, " ").includes(%[2]q)) &&
		e.computedRole === %[1]q && e.computedName === %[2]q && e.checkVisibility())`, role, name)
}

// node waits for an element with this role and name.
func (p *tab) node(role, name string) {
	p.t.Helper()
	p.becomes("the "+role+" "+name, find(role, name)+".length > 0")
}

// has reports whether an element with this role and name exists.
func (p *tab) has(role, name string) bool {
	p.t.Helper()
	return p.script("String("+find(role, name)+".length)") != "0"
}

// click clicks the first element with this role and name, as soon as it exists.
func (p *tab) click(role, name string) {
	p.t.Helper()
	var at []float64
	p.await("the "+role+" "+name, func(ctx context.Context) (_ bool, err error) {
		at, err = chromedp.Run(ctx, chromedp.Evaluate[[]float64](find(role, name)+`.slice(0, 1).flatMap(e => {
			e.scrollIntoView({block: "center", behavior: "instant"});
			const box = e.getClientRects()[0];
			return [box.left + box.width / 2, box.top + box.height / 2];
		})`))
		return len(at) == 2, err
	})
	p.do(chromedp.MouseClickXY(at[0], at[1]))
}

// fill replaces the text of a field.
func (p *tab) fill(name, text string) {
	p.t.Helper()
	field := find("textbox", name) + "[0]"
	p.becomes("the field "+name,
		fmt.Sprintf("(e => { e.focus(); e.select(); return document.activeElement === e })(%s)", field))
	p.do(command(input.InsertText, input.InsertTextParams{Text: text}))
	p.holds(name, text)
}

// holds waits until a field has a value.
func (p *tab) holds(name, want string) {
	p.t.Helper()
	p.becomes(fmt.Sprintf("%q in the field %s", want, name),
		fmt.Sprintf("%s[0].value === %q", find("textbox", name), want))
}

// described waits until a field is marked as invalid and its description contains part.
func (p *tab) described(name, part string) {
	p.t.Helper()
	p.becomes(fmt.Sprintf("%q at the field %s", part, name),
		fmt.Sprintf(
			`(e => e.ariaInvalid === "true" && e.ariaDescribedByElements.some(d => d.innerText.includes(%q)))(%s[0])`,
			part, find("textbox", name)))
}

// press presses keys, one after the other.
func (p *tab) press(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}
