package browser

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// tab is a page of a person of its own: it shares neither cookies nor storage with another.
type tab struct {
	*watch
	t   testing.TB
	ctx context.Context
}

// setting is what a tab may be opened with.
type setting = chromedp.Action[chromedp.Void]

// phoneWidth is that of a narrow phone, in CSS pixels.
const phoneWidth = 360

var (
	dark          = media("prefers-color-scheme", "dark")
	light         = media("prefers-color-scheme", "light")
	phone         = chromedp.EmulateViewport(phoneWidth, 740)
	desktop       = chromedp.EmulateViewport(1280, 800)
	withoutScript = command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
)

func media(name, value string) setting {
	features := []*emulation.MediaFeature{{Name: name, Value: value}}
	return command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
}

// command is an action whose result does not matter.
func command[P, R any](cmd cdp.Command[P, R], params P) setting {
	return chromedp.Func(func(ctx context.Context, to *chromedp.Target) error {
		_, err := cdp.Call(ctx, to, cmd, params)
		return err
	})
}

// open opens a tab that ends with the test, and fails the test if anything in it went wrong.
func open(t testing.TB, settings ...setting) *tab {
	t.Helper()
	p := &tab{watch: &watch{}, t: t}
	ctx, cancel := chromedp.NewContext(needChromium(t), chromedp.WithNewBrowserContext(), chromedp.WithListener(p.event))
	t.Cleanup(cancel)
	p.ctx = ctx
	// The tab lives as long as the context of its first action.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	p.do(command(audits.Enable, cdp.Empty{}))
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

// do runs actions that have to work at once.
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

// await polls until cond is true. A page that is just being replaced is asked again.
func (p *tab) await(what string, cond func(ctx context.Context) (bool, error)) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, waitLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond(ctx)
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

// until waits until an expression of JavaScript is true. It is evaluated by the debugger, which no policy of the page hinders.
func (p *tab) until(expression string) {
	p.t.Helper()
	p.await(expression, func(ctx context.Context) (bool, error) {
		return chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
	})
}

// sees waits for texts that a person can read.
func (p *tab) sees(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		p.until(fmt.Sprintf("document.body?.innerText.includes(%q)", text))
	}
}

// text is what a person can read now.
func (p *tab) text() string { return p.script("document.body?.innerText ?? ''") }

// script returns the text that an expression of JavaScript yields.
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

// find returns the elements with this role and name, as a screen reader knows them.
func (p *tab) find(ctx context.Context, role, name string) ([]*accessibility.Node, error) {
	document, err := chromedp.Call(ctx, dom.GetDocument, dom.GetDocumentParams{})
	if err != nil {
		return nil, err
	}
	found, err := chromedp.Call(ctx, accessibility.QueryAXTree, accessibility.QueryAXTreeParams{
		BackendNodeID: document.Root.BackendNodeID, Role: role, AccessibleName: name,
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found.Nodes, func(n *accessibility.Node) bool { return n.Ignored }), nil
}

// node waits for an element with this role and name, and returns the first.
func (p *tab) node(role, name string) *accessibility.Node {
	p.t.Helper()
	var node *accessibility.Node
	p.await("the "+role+" "+name, func(ctx context.Context) (bool, error) {
		found, err := p.find(ctx, role, name)
		if len(found) > 0 {
			node = found[0]
		}
		return node != nil, err
	})
	return node
}

// has tells how many elements there are with this role and name.
func (p *tab) has(role, name string) int {
	p.t.Helper()
	found, err := p.find(p.ctx, role, name)
	if err != nil {
		p.t.Fatal(err)
	}
	return len(found)
}

// click clicks the first element with this role and name, as soon as there is one.
func (p *tab) click(role, name string) {
	p.t.Helper()
	var x, y float64
	p.await("the place of the "+role+" "+name, func(ctx context.Context) (bool, error) {
		found, err := p.find(ctx, role, name)
		if err != nil || len(found) == 0 {
			return false, err
		}
		id := found[0].BackendDOMNodeID
		if _, err := chromedp.Call(ctx, dom.ScrollIntoViewIfNeeded, dom.ScrollIntoViewIfNeededParams{BackendNodeID: id}); err != nil {
			return false, err
		}
		shape, err := chromedp.Call(ctx, dom.GetContentQuads, dom.GetContentQuadsParams{BackendNodeID: id})
		if err != nil || len(shape.Quads) == 0 {
			return false, err
		}
		corners := shape.Quads[0]
		x, y = (corners[0]+corners[4])/2, (corners[1]+corners[5])/2
		return true, nil
	})
	p.do(chromedp.MouseClickXY(x, y))
}

// fill replaces what is in a field.
func (p *tab) fill(name, text string) {
	p.t.Helper()
	id := p.node("textbox", name).BackendDOMNodeID
	p.do(
		command(dom.Focus, dom.FocusParams{BackendNodeID: id}),
		command(input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeRawKeyDown, Commands: []string{"selectAll"}}),
		command(input.InsertText, input.InsertTextParams{Text: text}),
	)
}

// holds waits until a field has a value.
func (p *tab) holds(name, want string) {
	p.t.Helper()
	p.await(fmt.Sprintf("the field %s to hold %q", name, want), func(ctx context.Context) (bool, error) {
		found, err := p.find(ctx, "textbox", name)
		return len(found) > 0 && saying(found[0].Value) == want, err
	})
}

// described waits until a field is marked as wrong and says why, with this in its words.
func (p *tab) described(name, part string) {
	p.t.Helper()
	p.await(fmt.Sprintf("the field %s to say %q", name, part), func(ctx context.Context) (bool, error) {
		found, err := p.find(ctx, "textbox", name)
		if err != nil || len(found) == 0 {
			return false, err
		}
		wrong := slices.ContainsFunc(found[0].Properties, func(property *accessibility.Property) bool {
			return property.Name == accessibility.PropertyNameInvalid && saying(property.Value) == "true"
		})
		return wrong && strings.Contains(saying(found[0].Description), part), nil
	})
}

// saying is the text of a value of the accessibility tree.
func saying(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	text, err := strconv.Unquote(string(v.Value))
	if err != nil {
		return string(v.Value)
	}
	return text
}

// press presses keys, one after the other.
func (p *tab) press(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}
