//go:build screenshots

package browser

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"
)

// pictures is the folder from which the documentation includes pictures.
const pictures = "../../../docs/img"

// TestScreenshots writes pictures of the pages, in both themes, from a busy system.
func TestScreenshots(t *testing.T) {
	s := needSystem(t)
	for i := range 150 {
		s.awaitState(t, s.signUp(t, resident(i)), "ready")
	}
	s.setProvider(t, "reject")
	var last string // fails once more after a retry
	for i := range 24 {
		last = resident(150 + i)
		signup := s.signUp(t, last)
		s.awaitState(t, signup, "needs_attention")
		if i == 23 {
			retry := s.env["ADMIN_URL"] + "/admin/v1/sagas/" + s.saga(t, last) + "/retry"
			s.call(t, http.MethodPost, retry, s.env["ADMIN_TOKEN"],
				`{"reason":"The provider says that it works again"}`)
			s.awaitState(t, signup, "needs_attention")
		}
	}
	s.spread(t, last)

	p := open(t)
	p.visit(s.env["MEMBER_URL"])
	p.fill("Username", "mina")
	p.picture("signup")
	s.provider(t, "outage")
	p.fillIn("mina", password)
	p.sees("It takes longer than usual")
	p.picture("progress")

	p.logIn(s, "ADMIN_TOKEN")
	p.sees("24 signups", "away")
	p.picture("overview")
	p.visit(s.console("failures"))
	p.node("heading", "24 signups rejected")
	p.picture("failures")
	p.visit(s.console("sagas/" + s.saga(t, last)))
	p.node("heading", last+" needs attention")
	p.picture("saga")

	s.setProvider(t, "none")
	p.visit(s.console("failures"))
	p.click("link", "Retry this group…")
	p.fill("Reason", "The provider has raised our quota")
	p.fill("Signups per second, at most", "2")
	p.click("button", "Retry 24 signups")
	p.until("document.querySelector('progress')?.value > 8")
	p.picture("operation")
	p.sees("finished")

	p.visit(s.env["FAULTS_URL"])
	p.click("button", "Kill smtp")
	p.sees("The mail server is down")
	p.click("button", "Sign up 10 people")
	p.sees("10 of 10 signups")
	p.picture("faults")
	p.click("button", "Start smtp")
	p.sees("Everything runs")
}

// spread backdates the signups and failures of the last seconds within the last hour, except those of the member but.
func (s *system) spread(t *testing.T, but string) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), s.env["MEMBER_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	const earlier = `
UPDATE signup_saga s SET created_at = created_at - minutes * interval '1 minute'
FROM (SELECT id, abs(hashint4(row_number() OVER (ORDER BY created_at, id)::int)) % 58 AS minutes FROM signup_saga) past
WHERE past.id = s.id AND s.id <> $1`
	if _, err := db.Exec(t.Context(), earlier, s.saga(t, but)); err != nil {
		t.Fatal(err)
	}
	const failed = `
UPDATE saga_failure f SET created_at = created_at - minutes * interval '1 minute',
    updated_at = updated_at - minutes * interval '1 minute'
FROM (SELECT id, 4 + 0.03 * power(row_number() OVER (ORDER BY created_at, id), 2) AS minutes FROM saga_failure) past
WHERE past.id = f.id AND f.id <> $1`
	if _, err := db.Exec(t.Context(), failed, s.saga(t, but)); err != nil {
		t.Fatal(err)
	}
}

// resident returns a realistic username.
func resident(i int) string {
	first := []string{"mina", "jonas", "amara", "tomek", "ines", "farid", "lotte", "kenji", "sofia", "bram", "noor",
		"pavel"}
	return fmt.Sprintf("%s.%d", first[i%len(first)], 1960+i%50+i/50)
}

// picture writes pictures of the tab, light and dark.
func (p *tab) picture(name string) {
	p.t.Helper()
	for theme, look := range map[string]setting{"light": light, "dark": dark} {
		p.do(look)
		shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			p.t.Fatal(err)
		}
		all, err := png.Decode(bytes.NewReader(shot))
		if err != nil {
			p.t.Fatal(err)
		}
		var small bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, fewerColours(all)); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(pictures, name+"-"+theme+".png"), small.Bytes(), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	p.do(light)
}

// fewerColours keeps the 256 most frequent colours, which halves the file. The other colours are shades at the
// edges of letters.
func fewerColours(all image.Image) image.Image {
	area := all.Bounds()
	count := map[color.Color]int{}
	for y := range area.Dy() {
		for x := range area.Dx() {
			count[all.At(x, y)]++
		}
	}
	palette := color.Palette(
		slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] }))
	few := image.NewPaletted(area, palette[:min(len(palette), 256)])
	nearest := map[color.Color]uint8{}
	for c := range count {
		nearest[c] = uint8(few.Palette.Index(c))
	}
	for y := range area.Dy() {
		for x := range area.Dx() {
			few.SetColorIndex(x, y, nearest[all.At(x, y)])
		}
	}
	return few
}
