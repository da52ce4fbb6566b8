package outbox

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// RelayConfig configures [NewRelay]. Lane, Pool, NATS, Stream, Source and
// SubjectPrefix are required.
type RelayConfig struct {
	Lane string
	// Pool reads and writes the lane's tables, always on the primary.
	Pool *pgxpool.Pool
	NATS *nats.Conn
	// Stream is created if it is missing and never changed. See [StreamConfig].
	Stream jetstream.StreamConfig
	// ExternalStream says that something else creates the stream: the relay waits for it, and needs no
	// permission to create it. Of Stream, only the name is then used, and the subjects if there are any.
	ExternalStream bool
	// Source is the CloudEvents source of every event, for example "/member-svc".
	Source string
	// SubjectPrefix, followed by the event's type, is the subject that the event is published on. It ends with a
	// dot.
	SubjectPrefix string
	// ReplayWindow is how far back from the last publication events are published again when the broker has lost
	// data. Default 1 hour.
	ReplayWindow time.Duration
	// Retention is how long published events are kept in their table. Default 7 days.
	Retention time.Duration
	// Spacing is the minimum time between two reads: more events then share a batch, and each costs less. A
	// backlog does not wait for it. Default 0: every event is published at once.
	Spacing time.Duration
	// Log receives when the relay leads and waits, and why. Default [slog.Default].
	Log   *slog.Logger
	Hooks Hooks
}

// laneName must match the rule of the SQL function outbox_create_lane.
var laneName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

// check returns an error that names everything that is wrong, and what to change.
func (c RelayConfig) check() error {
	var errs []error
	wrong := func(field, why string, args ...any) {
		errs = append(errs, fmt.Errorf("outbox: %s "+why, append([]any{field}, args...)...))
	}
	if !laneName.MatchString(c.Lane) {
		wrong("Lane", "is %q: it must match %s", c.Lane, laneName)
	}
	if c.Pool == nil {
		wrong("Pool", "is nil: give the pool of the database that holds the lane")
	}
	if c.NATS == nil {
		wrong("NATS", "is nil: give a connection, whether or not its server is there yet")
	}
	if c.Stream.Name == "" || strings.ContainsAny(c.Stream.Name, " \t\r\n.*>/\\") {
		wrong("Stream.Name", "is %q: a stream has a name without spaces, dots, wildcards and slashes", c.Stream.Name)
	}
	if c.Source == "" || !legalValue(c.Source) {
		wrong("Source", "is %q: give the CloudEvents source of the events, such as \"/shop\"", c.Source)
	}
	prefix, dot := strings.CutSuffix(c.SubjectPrefix, ".")
	if !dot || !matches(">", prefix) {
		wrong("SubjectPrefix",
			"is %q: it must be a subject without wildcards that ends with a dot, such as \"orders.\"",
			c.SubjectPrefix)
	} else if len(c.Stream.Subjects) > 0 && !takesPrefix(c.Stream.Subjects, c.SubjectPrefix) {
		wrong("SubjectPrefix", "is %q, which the stream's subjects %q do not cover: change one of them",
			c.SubjectPrefix, c.Stream.Subjects)
	}
	if !c.ExternalStream {
		for _, problem := range defects(c.Stream) {
			wrong("Stream", "cannot carry an outbox: %s (use StreamConfig, or set ExternalStream)", problem)
		}
		if len(c.Stream.Subjects) == 0 {
			wrong("Stream.Subjects", "is empty: list the subjects of the events, such as \"orders.>\"")
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"ReplayWindow", c.ReplayWindow}, {"Retention", c.Retention}, {"Spacing", c.Spacing}} {
		if d.value < 0 {
			wrong(d.field, "is %s: it must not be negative", d.value)
		}
	}
	return errors.Join(errs...)
}

// takesPrefix reports whether some subject that begins with prefix, which ends
// with a dot, is covered by one of the patterns.
func takesPrefix(patterns []string, prefix string) bool {
	tokens := strings.Split(strings.TrimSuffix(prefix, "."), ".")
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		p := strings.Split(pattern, ".")
		for i, token := range tokens {
			switch {
			case i >= len(p):
				return false
			case p[i] == ">":
				return true
			case p[i] != "*" && p[i] != token:
				return false
			}
		}
		return len(p) > len(tokens)
	})
}

// defects returns the reasons why a stream cannot carry an outbox, each with the setting to change.
func defects(c jetstream.StreamConfig) (problems []string) {
	for _, rule := range []struct {
		broken bool
		remedy string
	}{
		{!c.AllowAtomicPublish, "it refuses atomic batches: set allow_atomic"},
		{!c.AllowDirect, "the relay cannot read it back: set allow_direct"},
		{c.Retention != jetstream.LimitsPolicy,
			"it deletes consumed messages before the relay can verify them: create it with retention limits"},
		{c.Discard == jetstream.DiscardOld && (c.MaxMsgs > 0 || c.MaxBytes > 0),
			"it drops old messages when it is full: set discard to new"},
		{c.MaxMsgsPerSubject > 0 && (c.Discard == jetstream.DiscardOld || !c.DiscardNewPerSubject),
			"it drops old messages of a subject: set max_msgs_per_subject to -1"},
		{c.NoAck, "it acknowledges nothing: unset no_ack"},
		{c.Sealed, "it is sealed and accepts no messages: create another one"},
		{c.Mirror != nil, "it is a mirror and accepts no messages: publish into its origin"},
		{len(c.Sources) > 0, "it has sources, and only the relay may write into it: remove them"},
		{c.AllowMsgCounter, "it is a counter and accepts numbers only: create another one"},
	} {
		if rule.broken {
			problems = append(problems, rule.remedy)
		}
	}
	return problems
}
