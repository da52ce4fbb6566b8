package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

// generateSQL generates the data that operators read.
//
//go:embed operators.sql
var generateSQL string

// disturbSQL changes a row on each page of the table of sagas, too few rows to start autovacuum: an index-only
// count must then look up the row of every entry.
const disturbSQL = `-- name: disturb
UPDATE signup_saga SET redrives = redrives WHERE ('x' || right(id::text, 12))::bit(48)::bigint % 20 = 4`

// question is a GET that an operator makes, with a session or with a token.
type question struct {
	path  string // with its query
	shown string // its name in the result
	page  bool
}

func (q question) name() string {
	if q.page {
		return "page: " + q.shown
	}
	return "call: " + q.shown
}

// answers holds how long a question took, in one part of the row.
type answers struct {
	question
	took latencies
}

// operator calls member-svc's admin listener.
type operator struct {
	base, token, session string
	http                 *http.Client
	admin                *client.Admin
}

// rowA measures how long operators wait.
func (b *bench) rowA(ctx context.Context) (err error) {
	b.section().method = fmt.Sprintf(
		"a stack of real processes whose database holds 1,000,000 sagas, of which 50,000 need attention (40 kinds, "+
			"30,000 of one), 20,000 are provisioning and 20,000 have left; "+
			"3,000,000 rows of timeline, 100,000 of audit, 200 retries of groups, one of them running over the "+
			"30,000, 500 dead events; after a vacuum one saga in 20 was changed, one on each page. "+
			"One client asks each question %d times in a row, on the same machine, beginning with the first time it "+
			"is asked; then again while 100 members a second sign up. The limit is GET /livez, asked alike", b.visits)
	s, err := b.startStack(ctx, "operators", b.servers.postgres.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(), b.dropStack()) }()
	if err := b.generate(ctx, s); err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	o, err := newOperator(ctx, s)
	if err != nil {
		return err
	}
	retry, err := b.retryMany(ctx, o)
	if err != nil {
		return fmt.Errorf("retry of a group: %w", err)
	}
	questions, err := o.questions(ctx, retry)
	if err != nil {
		return err
	}
	alone, err := b.ask(ctx, o, questions)
	if err != nil {
		return err
	}
	b.note("   the same during 100 signups/s")
	var beside []answers
	load, cancel := context.WithCancelCause(ctx)
	asked := make(chan error, 1)
	go func() {
		var err error
		beside, err = b.ask(ctx, o, questions)
		asked <- err
		cancel(errEnough)
	}()
	_, err = openLoop(load, gentleRate, time.Hour, func(context.Context) error {
		_, err := s.signUp(ctx, false) // a signup that has begun is completed
		return err
	})
	cancel(errEnough)
	if err := errors.Join(err, <-asked); err != nil {
		return err
	}
	b.reportAnswers(alone, beside)
	return nil
}

// generate fills the database of a stack and leaves it in the state between two vacuums.
func (b *bench) generate(ctx context.Context, s *stack) error {
	began := time.Now()
	conn, err := pgx.Connect(ctx, s.database)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, generateSQL, pgx.QueryExecModeSimpleProtocol)
		return err
	})
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	if err := s.vacuum(ctx); err != nil {
		return err
	}
	_, err = s.member.Exec(ctx, disturbSQL)
	b.note("   generated in %s", time.Since(began).Round(time.Second))
	return err
}

// newOperator logs an operator in.
func newOperator(ctx context.Context, s *stack) (*operator, error) {
	o := &operator{base: s.settings["ADMIN_URL"], token: s.settings["ADMIN_TOKEN"], http: &http.Client{
		Transport:     s.http.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	o.admin = client.NewAdmin(o.base, o.token, o.http)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.base+"/console/login",
		strings.NewReader(url.Values{"token": {o.token}}.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := o.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	for _, c := range response.Cookies() {
		o.session = c.Name + "=" + c.Value
	}
	if response.StatusCode != http.StatusSeeOther || o.session == "" {
		return nil, fmt.Errorf("login: %s", response.Status)
	}
	return o, nil
}

// retryMany starts a group retry of the largest group, measures how long that takes, and returns the id of the
// retry that is left running.
func (b *bench) retryMany(ctx context.Context, o *operator) (id string, err error) {
	failures, err := o.admin.Failures(ctx, 1)
	if err != nil {
		return "", err
	}
	if failures.Failures != 50_000 || failures.Groups != 40 || failures.Items[0].Count != 30_000 {
		return "", fmt.Errorf("%d failures in %d groups, %d in the largest", failures.Failures, failures.Groups,
			failures.Items[0].Count)
	}
	group := wire.NewGroupRetry{Filter: map[string]string{"error": failures.Items[0].Fingerprint}, Reason: "measured",
		Rate: 10, StopAfter: 100_000}
	var counted, begun series
	for range b.reps {
		began := time.Now()
		if _, err := o.admin.CountGroup(ctx, group); err != nil {
			return "", err
		}
		counted = append(counted, milliseconds(time.Since(began)))
		if id != "" {
			if _, err := o.admin.CancelGroupRetry(ctx, id, "measured"); err != nil {
				return "", err
			}
		}
		began = time.Now()
		retry, err := o.admin.RetryGroup(ctx, group)
		if err != nil {
			return "", err
		}
		begun, id = append(begun, milliseconds(time.Since(began))), retry.ID
	}
	b.report(line{what: "dry run of a retry of 30,000", unit: "ms", value: counted})
	b.report(line{what: "starting it, which selects the sagas", unit: "ms", value: begun})
	return id, nil
}

// questions returns all pages and lists that operators can read, each list with every filter. The first question
// is the limit.
func (o *operator) questions(ctx context.Context, retry string) ([]question, error) {
	failures, err := o.admin.Failures(ctx, 50)
	if err != nil {
		return nil, err
	}
	common, rare := failures.Items[0], failures.Items[len(failures.Items)-1]
	since, until := time.Now().UTC().Add(-30*time.Hour).Format(time.RFC3339),
		time.Now().UTC().Add(-20*time.Hour).Format(time.RFC3339)
	middle, err := o.admin.Sagas(ctx, client.SagaFilter{CreatedBefore: time.Now().Add(-20 * time.Hour)},
		client.PageOf{Limit: 1})
	if err != nil {
		return nil, err
	}
	audit, err := o.admin.Audit(ctx, client.AuditFilter{Actor: "operator5"}, client.PageOf{})
	if err != nil {
		return nil, err
	}
	saga := common.Sample.SagaID
	lists := []question{
		{shown: "overview", path: "overview"},
		{shown: "failures", path: "failures"},
		{shown: "sagas", path: "sagas"},
		{shown: "sagas, far down", path: "sagas?cursor=" + url.QueryEscape(string(middle.NextCursor))},
		{shown: "sagas, a common error", path: "sagas?error=" + common.Fingerprint},
		{shown: "sagas, a rare error", path: "sagas?error=" + rare.Fingerprint},
		{shown: "sagas, an error and a rare state", path: "sagas?error=" + rare.Fingerprint +
			"&state=withdraw_needs_attention"},
		{shown: "sagas, a range of time", path: "sagas?created_after=" + since + "&created_before=" + until},
		{shown: "sagas, a range, state, plan and delayed", path: "sagas?created_after=" + since + "&created_before=" +
			until + "&state=provisioning&plan=pro&delayed=true"},
		{shown: "a saga", path: "sagas/" + saga},
		{shown: "retries", path: "retries"},
		{shown: "the running retry", path: "retries/" + retry},
		{shown: "dead events", path: "dead"},
		{shown: "audit", path: "audit"},
		{shown: "audit, far down", path: "audit?cursor=1000"},
		{shown: "audit of a saga", path: "audit?saga_id=" + *audit.Items[0].SagaID},
	}
	for _, filter := range []string{"state=provisioning", "state=ready", "state=needs_attention", "state=withdrawing",
		"state=withdraw_needs_attention", "state=withdrawn",
		"plan=plus", "plan=pro", "delayed=true", "delayed=false", "username=user500000", "member_id=" + saga} {
		lists = append(lists, question{shown: "sagas, " + filter, path: "sagas?" + filter})
	}
	for _, filter := range []string{"actor=operator5", "action=withdraw", "actor=operator5&action=retried"} {
		lists = append(lists, question{shown: "audit, " + filter, path: "audit?" + filter})
	}
	all := []question{{shown: "GET /livez", path: "/livez"}}
	for _, q := range lists {
		api := q.path
		if api == "dead" {
			api = "outbox/dead"
		}
		page := q.path
		if page == "overview" {
			page = ""
		}
		all = append(all, question{shown: q.shown, path: "/admin/v1/" + api},
			question{shown: q.shown, path: "/console/" + page, page: true})
	}
	return append(all, question{shown: "a new retry of 30,000", path: "/console/retries/new?error=" +
		common.Fingerprint, page: true}), nil
}

// ask asks each question b.visits times.
func (b *bench) ask(ctx context.Context, o *operator, questions []question) (all []answers, err error) {
	for _, q := range questions {
		a := answers{question: q}
		for range b.visits {
			took, err := o.get(ctx, q)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", q.path, err)
			}
			a.took = append(a.took, took)
		}
		all = append(all, a)
	}
	return all, nil
}

// get asks a question and reads the whole response.
func (o *operator) get(ctx context.Context, q question) (time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.base+q.path, nil)
	if err != nil {
		return 0, err
	}
	if q.page {
		r.Header.Set("Cookie", o.session)
	} else {
		r.Header.Set("Authorization", "Bearer "+o.token)
	}
	began := time.Now()
	response, err := o.http.Do(r)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(response.Body)
	took := time.Since(began)
	err = errors.Join(err, response.Body.Close())
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", response.Status, body)
	}
	return took, err
}

// reportAnswers reports the slowest questions, and all in a table.
func (b *bench) reportAnswers(alone, beside []answers) {
	const bound = 100
	var table strings.Builder
	table.WriteString(
		"In milliseconds, alone and during 100 signups/s:\n\n| | p50 | p99 | max | beside: p50 | p99 | max " +
			"|\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, part := range []struct {
		load string
		all  []answers
	}{{"", alone}, {", beside 100 signups/s", beside}} {
		slowest := slices.MaxFunc(part.all, func(a, b answers) int { return cmp.Compare(a.p99(), b.p99()) })
		b.report(line{what: fmt.Sprintf("p99 of the slowest (%s)%s; limit: GET /livez", slowest.name(), part.load),
			unit:  "ms",
			limit: series{part.all[0].p99()}, value: series{slowest.p99()}, goal: atMost(bound).ofValue()})
	}
	for i, a := range alone {
		fmt.Fprintf(&table, "| %s | %s | %s |\n", a.name(), a.cells(), beside[i].cells())
	}
	b.section().notes = append(b.section().notes, strings.TrimSuffix(table.String(), "\n"))
}

func (a answers) p99() float64 { _, p99 := a.took.percentiles(); return p99 }

func (a answers) cells() string {
	p50, p99 := a.took.percentiles()
	return fmt.Sprintf("%s | %s | %s", number(p50), number(p99), number(milliseconds(slices.Max(a.took))))
}
