package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// guard is a part of the code on which a promise rests, with the mutation that removes it and the test that must turn red then.
type guard struct {
	promise  string
	file     string // in the repository
	old, new string // the mutation; old occurs once
	pkg      string // module and package of the test
	test     string
}

var guards = []guard{
	{"a batch names the sequence that it expects", "outbox/stream.go",
		"msgs[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(expected, 10))", "_ = strconv.FormatUint(expected, 10)",
		"outbox .", "TestPausedLeaderCannotPublishWhatAnotherPublished"},
	{"only the author of a checkpoint writes the next", "outbox/checkpoint.go",
		"WHERE n = $1 AND ($8::uuid IS NULL OR leader = $8::uuid)", "WHERE n = $1 AND ($8::uuid IS NULL OR true)",
		"outbox .", "TestCheckpointNeedsItsPredecessorFromTheSameRelay"},
	{"a wiped or rolled-back broker is noticed", "outbox/relay.go",
		"case p.moved || !id.Equal(p.streamID) || last < p.streamSeq:", "case p.moved:",
		"outbox .", "TestRolledBackBrokerGetsWhatItLost"},
	{"ids that were jumped over are remembered", "outbox/position.go",
		"if r.ID > p.hi+1 {", "if false {",
		"outbox .", "TestAdvance"},
	{"a gap is forgotten only when its owner has ended", "outbox/position.go",
		"rest.stamp != 0 && r.xmin >= rest.stamp", "rest.stamp != 0",
		"outbox .", "TestAdvance"},
	{"a lane has one stream and one source", "outbox/wait.go",
		"case ofStream != stream || ofSource != source:", "case false:",
		"outbox .", "TestLaneRemembersItsStreamAndSource"},
	{"a leader gives up a lane that moves", "outbox/session.go",
		"if err := s.cp.claim(ctx, s.Stream.Name, s.Source); err != nil {", "if err := error(nil); err != nil {",
		"outbox .", "TestLeaderGivesUpALaneThatMoves"},
	{"a stream that loses events is not published into", "outbox/stream.go",
		"if len(problems) > 0 {", "if false {",
		"outbox .", "TestUnfitStreamIsWaitedFor"},
	{"a dead event that arrives late is dead no more", "outbox/relay.go",
		"dead = append(dead, deadNoMore(rows)...)", "_ = rows",
		"outbox .", "TestDeadEventThatArrivesLateIsDeadNoMore"},
	{"a replayed event is not dead as well", "outbox/checkpoint.go",
		"d USING cp WHERE", "d USING cp WHERE false AND",
		"outbox .", "TestReplayedDeadEventIsDeadNoMore"},
	{"nothing is buffered while NATS is away", "outbox/session.go",
		"if !s.NATS.IsConnected() {", "if false {",
		"outbox .", "TestNATSIsAway"},

	{"nothing is acknowledged to a broker that lost its data", "service/consume.go",
		"if !info.Created.Equal(created) {", "if info.Created.Before(created) {",
		"service .", "TestConsumeDoesNotAcknowledgeAcrossAWipe"},
	{"who stops gives back what he was sent", "service/consume.go",
		"_ = m.Nak() }", "}",
		"service .", "TestStoppedConsumerHoldsNothingBack"},
	{"a removed token and an old certificate are of no use", "service/reload.go",
		"if slices.EqualFunc(now, r.seen, sameFile) {", "if slices.EqualFunc(now, r.seen, sameFile) || len(now) > 0 {",
		"service .", "TestTokensAreReplacedWhileTheyAreUsed"},
	{"a bad file leaves the last good one in force", "service/reload.go",
		"if err != nil {\n\t\tr.log.Error", "if false {\n\t\tr.log.Error",
		"service .", "TestCertificateIsReplacedWhileItServes"},
	{"wrong tokens are limited", "service/guard.go",
		"if wait := g.wait(address); wait > 0 {", "if wait := g.wait(address); wait < 0 {",
		"service .", "TestWrongTokensAreLimited"},
	{"a token expires", "service/tokens.go",
		"case reason == \"\" && found.expired():", "case false:",
		"service .", "TestTokensExpire"},
	{"an ended session is of no use", "service/sessions.go",
		"if err != nil || ended {", "if err != nil {",
		"service .", "TestEndedSessionIsOfNoUse"},
	{"a secret is not printed", "service/secret.go",
		"u.User == nil && strings.Contains(part, \"@\")", "false",
		"service .", "TestSecretShowsWhereItPointsToAtMost"},
	{"a suspended process loses its locks", "service/postgres.go",
		"SET LOCAL idle_in_transaction_session_timeout", "SET LOCAL statement_timeout",
		"service .", "TestTransactorGivesUpLocksOfTheSuspended"},

	{"a demoted server's connections go all at once", "service/pool.go",
		"\t\tpool.Reset()\n\t}\n\treturn true", "\t}\n\treturn true",
		"service .", "TestReadOnlyConnectionsAreDestroyed"},
	{"readiness asks for a writable server", "service/pool.go",
		"if err == nil && readOnly {", "if false {",
		"service .", "TestReadOnlyConnectionsAreDestroyed"},
	{"a hanging server does not hold up the end", "service/pool.go",
		"ctx, cancel := context.WithTimeout(ctx, closeLimit)", "ctx, cancel := context.WithTimeout(ctx, 20*closeLimit)",
		"service .", "TestClosePoolIsBounded"},
	{"a step of the stop that hangs is left behind", "service/run.go",
		"case <-time.After(lastWord):", "case <-make(chan int):",
		"service .", "TestStopLeavesBehindWhatHangs"},
	{"what Postgres undid is done again", "service/sqlstate.go",
		"|| !repeatable(err)", "|| true",
		"service .", "TestTransactionsAreRepeated"},
	{"an unknown outcome is not repeated", "service/sqlstate.go",
		"return errors.As(err, &pg) && classify(pg) == undone", "return errors.As(err, &pg) && classify(pg) != defect",
		"service .", "TestRepeatIsBounded"},

	{"a transition happens to the version it was decided on", "member-svc/internal/store/apply.go",
		"s.id = ANY ($1) AND s.version = n.was`,", "s.id = ANY ($1) AND n.was > 0`,",
		"member-svc ./internal/store", "TestWithdrawalRacesEverything"},
	{"a commit whose answer was lost is looked up", "member-svc/internal/signup/signup.go",
		"case known.Exists:", "case false:",
		"member-svc ./internal/signup", "TestAmbiguousCommit"},
	{"one's own account is never taken", "member-svc/internal/signup/signup.go",
		"if answer, err := s.settled(ctx, a, known); err != nil || answer.Body != nil {\n" +
			"\t\treturn answer, err\n\t}\n\treturn Answer{}, failure", "return Answer{}, ErrTaken",
		"member-svc ./internal/signup", "TestTwinsOfOneKeyMakeOneMember"},
	{"a fingerprint leaves the password out", "member-svc/internal/signup/fingerprint.go",
		"r.Password = \"\"", "_ = r.Password",
		"member-svc ./internal/signup", "TestFingerprintHasNoPassword"},
	{"a replay has to know the password", "member-svc/internal/signup/fingerprint.go",
		"return same, err", "return same || err == nil, err",
		"member-svc ./internal/signup", "TestFingerprintHasNoPassword"},
	{"keys go with the member", "member-svc/internal/store/leave.go",
		"DELETE FROM idempotency_key WHERE member_id = $1", "DELETE FROM idempotency_key WHERE member_id = $1 AND false",
		"member-svc ./internal/store", "TestWithdrawalErasesTheMember"},
	{"the audit is only added to", "member-svc/internal/store/migrations/00009_secrets.sql",
		"BEFORE UPDATE OR DELETE OR TRUNCATE ON admin_audit", "BEFORE TRUNCATE ON admin_audit",
		"member-svc ./internal/store", "TestAuditIsOnlyAddedTo"},
	{"a name that nobody has costs a hash too", "member-svc/internal/signup/hash.go",
		"stored, err := parsePHC(cmp.Or(hash, h.decoy))", "if hash == \"\" {\n\t\treturn false, \"\", nil\n\t}\n\tstored, err := parsePHC(cmp.Or(hash, h.decoy))",
		"member-svc ./internal/account", "TestUnknownNamesCostTheSame"},
	{"a renewed hash replaces the one that was checked", "member-svc/internal/store/session.go",
		"WHERE id = $1 AND password_hash = $2\"", "WHERE id = $1 AND $2 <> $3\"",
		"member-svc ./internal/store", "TestRenewHash"},
	{"a change of the password ends other sessions", "member-svc/internal/store/sessions.go",
		"AND EXISTS (SELECT FROM member WHERE id = $1 AND password_hash = $2)", "AND $2 = ''",
		"member-svc ./internal/account", "TestPasswordIsChanged"},
	{"a hash keeps to the budget of memory", "member-svc/internal/signup/turns.go",
		"if w.kib > t.kib {", "if false {",
		"member-svc ./internal/signup", "TestTurnsKeepToTheBudgetOfMemory"},
	{"guessers do not use up what is set aside for the member", "member-svc/internal/api/limit.go",
		"t.reserve.AllowFrom(a, name)", "t.byName.Allow(name)",
		"member-svc .", "TestGuessersDoNotLockTheMemberOut"},
	{"who asked for the fewest turns comes first", "member-svc/internal/signup/turns.go",
		"w.rank < line[first].rank ||", "",
		"member-svc ./internal/signup", "TestTurnsAreFair"},
	{"a full line refuses who asked for most turns", "member-svc/internal/signup/turns.go",
		"if w.rank > t.lines[u][last].rank {", "if i == len(t.lines[u])-1 {",
		"member-svc ./internal/signup", "TestALongLineServesTheNewest"},
	{"limits hold for networks too", "service/networks.go",
		"for _, w := range widths[a.Is6()] {", "for _, w := range widths[a.Is6()][:1] {",
		"service .", "TestLimiterCountsNetworks"},
	{"one address has a quarter of the places", "service/places.go",
		"h.share = (p.total + 3) / 4", "h.share = p.total",
		"service .", "TestConnectionsAreCapped"},
	{"an idle connection makes room for a newcomer", "service/places.go",
		"return nil, Granted\n\t}\n", "return nil, Granted\n\t}\n\treturn nil, Full\n",
		"service .", "TestIdleConnectionsMakeRoom"},
	{"a request in flight is no idle connection", "service/server.go",
		"place.SetBusy(true)", "place.SetBusy(false)",
		"service .", "TestIdleConnectionsMakeRoom"},
	{"a stream that nobody reads is dropped", "service/events.go",
		"time.Now().Add(pace.Write)", "time.Time{}",
		"member-svc ./internal/live", "TestStuckReaderIsDropped"},
	{"a drain ends streams", "service/events.go",
		"<-Draining(r.Context())", "<-func(<-chan struct{}) chan struct{} { return nil }(Draining(r.Context()))",
		"member-svc ./internal/live", "TestStreamsEndWhenTheServerDrains"},
	{"a rejection counts for its own generation only", "member-svc/internal/saga/decide.go",
		"case e.Kind == Rejected && e.Generation == s.Generation && (s.State.Open()", "case e.Kind == Rejected && (s.State.Open()",
		"member-svc ./internal/saga", "TestTransitions"},
	{"who leaves does not become ready any more", "member-svc/internal/saga/decide.go",
		"e.Kind == Provisioned && (s.State == Provisioning || s.State == NeedsAttention):", "e.Kind == Provisioned:",
		"member-svc ./internal/saga", "TestEveryReachableSagaKeepsTheRules"},
	{"a reply that was never commanded changes nothing", "member-svc/internal/saga/decide.go",
		"case step < 0, e.Generation > s.Generation:", "case step < 0:",
		"member-svc ./internal/saga", "TestEveryReachableSagaKeepsTheRules"},
	{"a counter at its end comes back", "member-svc/internal/saga/decide.go",
		"s = s.bounded()", "",
		"member-svc ./internal/store", "TestPoisonedSagaGoesOn"},
	{"what the database refuses is skipped", "member-svc/internal/store/apply.go",
		"; !Defective(err) {\n\t\treturn results, nil, err", "; true {\n\t\treturn results, nil, err",
		"member-svc ./internal/store", "TestRefusedSagaIsSkipped"},
	{"a retry that fails holds up no other", "member-svc/internal/store/retrystep.go",
		"if err != nil && found && ctx.Err() == nil {", "if false {",
		"member-svc ./internal/store", "TestFailingRetryHoldsUpNoOther"},
	{"a reply is for its member's saga", "member-svc/internal/store/apply.go",
		"if !ok || c.MemberID != \"\" && c.MemberID != r.MemberID {", "if !ok {",
		"member-svc ./internal/store", "TestReplyIsForItsMembersSaga"},
	{"a number of a message has bounds", "contract/bounds.go",
		"if n < least || n > most {", "if n < least {",
		"contract .", "TestEveryFieldHasBounds"},
	{"a type belongs to its subject", "contract/event.go",
		"case known && subject != route.Subject():", "case false:",
		"contract .", "TestEnvelopeHasBoundsAndAWay"},
	{"only what came as a command is answered", "storage-svc/internal/provision/handler.go",
		" && !errors.Is(reason, contract.ErrForeign) {", " {",
		"storage-svc ./internal/provision", "TestPoisonIsAnsweredAndNeighboursPass"},
	{"a removal is never overtaken", "storage-svc/internal/provision/storage.go",
		"|| s.Desired == Present && c.Desired == Absent ||", "||",
		"storage-svc ./internal/provision", "TestDecide"},
	{"only what was published is asked for again", "member-svc/internal/store/apply.go",
		"(s.commanded_at < coalesce($1::timestamptz, 'infinity')", "($1::timestamptz IS NULL OR true",
		"member-svc ./internal/store", "TestRedriveOnlyWhatWasPublished"},
	{"repeated commands keep to one budget", "member-svc/internal/store/apply.go",
		"refilled_at)) - $2)`,", "refilled_at)) - 0 * $2)`,",
		"member-svc ./internal/store", "TestRedriveKeepsToTheBudget"},
	{"a timeline is bounded", "member-svc/internal/store/apply.go",
		"WHERE e.saga_id = l.saga_id) < 200", "WHERE e.saga_id = l.saga_id) < 200000",
		"member-svc ./internal/store", "TestTimelineIsBounded"},
	{"who leaves is forgotten", "member-svc/internal/store/leave.go",
		"DELETE FROM session WHERE member_id = $1", "DELETE FROM session WHERE member_id = $1 AND false",
		"member-svc ./internal/store", "TestWithdrawalErasesTheMember"},
	{"a suspicion is looked at twice before anything is done", "service/drift/drift.go",
		"return r.look(ctx, key)", "_, err := r.Mend(ctx, a, b, kind, detail)\n\t\treturn err",
		"member-svc ./internal/reconcile", "TestBothSidesAreReadAgain"},
	{"a mail in hand is nobody else's", "member-svc/internal/welcome/welcome.go",
		"now() + make_interval(secs => $5), copies", "now() - make_interval(secs => $5), copies",
		"member-svc ./internal/welcome", "TestMailInHandIsNobodyElses"},
	{"a text without an answer is a copy", "member-svc/internal/welcome/failure.go",
		"case f.stage == stageEnd && !definite:", "case false:",
		"member-svc ./internal/welcome", "TestEndInDoubt"},
	{"copies are rare", "member-svc/internal/welcome/welcome.go",
		"max(doubtWait, m.retryAfter(l.Attempts+1))", "m.retryAfter(l.Attempts+1)",
		"member-svc ./internal/welcome", "TestEndInDoubt"},
	{"an outage of the mail server costs no mail", "member-svc/internal/welcome/welcome.go",
		"next.attempts, next.wait = 0, spread(brokenWait)", "next.wait = spread(brokenWait)",
		"member-svc ./internal/welcome", "TestAnswers"},
	{"an address has one mail a day", "member-svc/internal/welcome/welcome.go",
		"WHERE a.member_id = excluded.member_id OR a.used_at", "WHERE true OR a.used_at",
		"member-svc ./internal/welcome", "TestOneMailPerAddressAndDay"},
	{"the mail server's password needs TLS", "member-svc/internal/welcome/smtp.go",
		"!secured && !loopback(conn.RemoteAddr())", "false && !secured && !loopback(conn.RemoteAddr())",
		"member-svc ./internal/welcome", "TestPasswordIsNotSentInTheClear"},
	{"what the mail server says holds no address", "member-svc/internal/welcome/failure.go",
		"f.text = withoutAddress(f.text, to)", "_ = withoutAddress(f.text, to)",
		"member-svc ./internal/welcome", "TestAnswers"},
	{"nobody sees what cannot be seen in an address", "member-svc/internal/email/email.go",
		"|| strings.ContainsFunc(address, unusable)", "",
		"member-svc ./internal/email", "TestBadAddresses"},
	{"an idle pass is no recovery", "service/loop.go",
		"case !idle:", "default:",
		"service .", "TestIdlePassIsNoRecovery"},

	{"an equal generation is answered, not done again", "storage-svc/internal/provision/storage.go",
		"return c.Generation > s.Generation ||", "return c.Generation >= s.Generation ||",
		"storage-svc ./internal/provision", "TestDecide"},
	{"absent is final", "storage-svc/internal/provision/storage.go",
		"if s.Desired == Absent && c.Desired == Present && !overtaken {", "if false {",
		"storage-svc ./internal/provision", "TestDecide"},
	{"a result is for the version that was claimed", "storage-svc/internal/store/store.go",
		"version = was AND lease_token = token", "lease_token = token",
		"storage-svc ./internal/store", "TestStaleResultsAreRefused"},
	{"a result is the leaseholder's", "storage-svc/internal/store/store.go",
		"version = was AND lease_token = token", "version = was",
		"storage-svc ./internal/store", "TestStaleResultsAreRefused"},
	{"an outage burns no attempts", "storage-svc/internal/provision/attempt.go",
		"if f.Class == ClassOutage {", "if false {",
		"storage-svc ./internal/store", "TestOutageBurnsNoAttempts"},
	{"one probe at a time asks whether the provider is back", "storage-svc/internal/provision/gate.go",
		"GateHalfOpen, &token, g.Now.Add(lease)", "GateHalfOpen, &token, g.Now.Add(0*lease)",
		"storage-svc ./internal/provision", "TestLongOutage"},
	{"the recovery begins slowly", "storage-svc/internal/provision/gate.go",
		"return max(full*math.Exp2(-missing), min(full, 1))", "return max(full, math.Exp2(-missing))",
		"storage-svc ./internal/provision", "TestLongOutage"},
	{"a permit is used once", "storage-svc/internal/provision/gate.go",
		"= permits-float64(calls), g.Now,", "= permits, g.Now,",
		"storage-svc ./internal/provision", "TestRateOfAllReplicas"},
	{"poison is answered", "storage-svc/internal/store/apply.go",
		"if d.Reply != nil {", "if false {",
		"storage-svc ./internal/store", "TestDeadLetterAndReplyInOneTransaction"},
	{"a tombstone admits nobody", "storage-svc/internal/provider/marker.go",
		"case m.Tombstone:\n\t\treturn &provision.Failure", "case false:\n\t\treturn &provision.Failure",
		"storage-svc ./internal/provider", "TestFSConforms"},
	{"of two creators one succeeds", "storage-svc/internal/provider/volume.go",
		"return v.Link(tmp, owner)", "return v.Rename(tmp, owner)",
		"storage-svc ./internal/provider", "TestFSLateClaimChangesNothing"},
	{"only the right place is worked on", "storage-svc/internal/provider/identity.go",
		"case want.ID != have:", "case false:",
		"storage-svc ./internal/provider", "TestFSVolumeGoesAwayWhileItRuns"},
	{"a bucket is the right one after a listing too", "storage-svc/internal/provider/s3_list.go",
		"if err := p.verify(ctx); err != nil {", "if err := error(nil); err != nil {",
		"storage-svc ./internal/provider", "TestS3BucketIsReplacedWhileItRuns"},
	{"another reason of an outage is told", "storage-svc/internal/store/gate.go",
		"return a.Fingerprint == b.Fingerprint", "return true",
		"storage-svc ./internal/store", "TestOutageSaysWhy"},
	{"who waits says why the provider is away", "member-svc/internal/api/admin.go",
		"if r.State.Open() && provider.Error != nil {", "if false {",
		"member-svc ./internal/console", "TestSagaThatWaitsSaysWhyTheProviderIsAway"},
	{"an upgrade without the volume is refused", "storage-svc/internal/provider/identity.go",
		"if err == nil && empty {", "if err != nil && empty {",
		"storage-svc ./internal/provider", "TestIdentifyRefusesWhatIsMissing"},
	{"no link leads out of the provider's directory", "storage-svc/internal/provider/volume.go",
		"return v.OpenFile(name,", "return os.OpenFile(path.Join(v.Name(), name),",
		"storage-svc ./internal/provider", "TestFSTemporaryDirectory"},
	{"the directory of temporary files is made again", "storage-svc/internal/provider/volume.go",
		"if errors.Is(err, fs.ErrNotExist) { // somebody", "if false { // somebody",
		"storage-svc ./internal/provider", "TestFSTemporaryDirectory"},
	{"S3 creates on the condition that nothing is there", "storage-svc/internal/provider/s3.go",
		`options.SetMatchETagExcept("*")`, "_ = options",
		"storage-svc ./internal/provider", "TestS3Conforms"},
}

// Each guard is needed: without it, a test turns red. The tree itself is left alone; the compiler is shown another file.
func TestEveryGuardIsNeeded(t *testing.T) {
	for _, g := range guards {
		t.Run(strings.ReplaceAll(g.promise, " ", "_"), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(repository, g.file)
			source := mustRead(t, file)
			if n := strings.Count(source, g.old); n != 1 {
				t.Fatalf("%s has %d times\n%s", g.file, n, g.old)
			}
			module, pkg, _ := strings.Cut(g.pkg, " ")
			out, err := withFile(t, file, strings.Replace(source, g.old, g.new, 1), filepath.Join(repository, module),
				"test", "-count=1", "-timeout=3m", "-run", "^"+g.test+"$", pkg)
			red := regexp.MustCompile(`--- FAIL: ` + g.test + `\b|test timed out`).MatchString(out)
			if err == nil || !red {
				t.Errorf("%s stays green without it (%v):\n%s", g.test, err, tail(out))
			}
		})
	}
}

// withFile runs a go command in a module, which finds this content in the file.
func withFile(t *testing.T, file, content, module string, args ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {file: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{mutant: []byte(content), overlay: text} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{args[0], "-overlay", overlay}, args[1:]...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOWORK=off", "DEVSTACK_BIN="+devstack)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
