package contract

import (
	"slices"
	"strings"
)

// Lane says what may happen to an event that cannot be delivered. Callers never
// choose a lane: [Table] does.
type Lane string

const (
	// Essential work is retried until it is done, definitely rejected, or taken
	// over by an operator.
	Essential Lane = "essential"
	// NonEssential work has bounded attempts and age. It may be late, or
	// dropped with a counter, and never delays essential work.
	NonEssential Lane = "nonessential"
)

// Lanes lists both lanes, essential first.
func Lanes() []Lane { return []Lane{Essential, NonEssential} }

// Service names a producer of events.
type Service string

const (
	// Member is the source of truth about members, and drives the saga.
	Member Service = "member"
	// Storage provisions members' storage.
	Storage Service = "storage"
)

// Type is a CloudEvents type, for example "storage.provision".
type Type string

const (
	// StorageProvision commands that the member's storage exist. Data: [StorageCommand].
	StorageProvision Type = "storage.provision"
	// StorageDeprovision commands that the member's storage not exist, for good. Data: [StorageCommand].
	StorageDeprovision Type = "storage.deprovision"
	// StorageProvisioned replies that the storage exists. Data: [StorageReply].
	StorageProvisioned Type = "storage.provisioned"
	// StorageRejected replies that the command was definitely refused. Data: [StorageReply].
	StorageRejected Type = "storage.rejected"
	// StorageDeprovisioned replies that nothing is left of the storage. Data: [StorageReply].
	StorageDeprovisioned Type = "storage.deprovisioned"
	// MemberSignedUp reports that somebody has become a member. Data: [SignedUp].
	MemberSignedUp Type = "member.signed-up"
	// StorageAttemptFailed reports a failed attempt that will be repeated. Data: [StorageReply].
	StorageAttemptFailed Type = "storage.attempt-failed"
	// StorageProviderChanged reports that the storage provider became unavailable, or is available again, or
	// that the reason for its unavailability has changed. Data: [ProviderChange].
	StorageProviderChanged Type = "storage.provider-changed"
	// SignupStuck reports that a signup needs a person. Data: [Stuck].
	SignupStuck Type = "signup.stuck"
)

// Route is one row of [Table]: where an event type travels and why.
type Route struct {
	Type     Type    // each type has one row
	Lane     Lane    // see [Lane]
	Producer Service // the service that writes it
	// For is the participant that carries out a command; empty for events, which any service may read.
	For Service
	// Why says why the type is in its lane.
	Why string
	// Undelivered says what happens when it cannot be delivered.
	Undelivered string
}

// Table is the one place where event types are assigned to lanes.
// docs/architecture.md shows it, and a test keeps the two equal.
func Table() []Route {
	return []Route{
		{StorageProvision, Essential, Member, Storage,
			"a signup promises the member their storage",
			"retried for ever; re-driven by timers; after 24 h shown to operators and still retried"},
		{StorageDeprovision, Essential, Member, Storage, "a member who left must leave nothing behind",
			"retried for ever; re-driven by timers; after 24 h shown to operators and still retried"},
		{StorageProvisioned, Essential, Storage, "", "only this reply makes a signup ready",
			"repeated for every repeated command"},
		{StorageRejected, Essential, Storage, "", "an operator has to decide",
			"repeated for every repeated command"},
		{StorageDeprovisioned, Essential, Storage, "", "only this reply closes a withdrawal",
			"repeated for every repeated command"},
		{MemberSignedUp, NonEssential, Member, "", "starts the welcome mail, which is not promised",
			"bounded attempts and age, then dropped and counted"},
		{StorageAttemptFailed, NonEssential, Storage, "", "tells operators why a signup is late",
			"dropped at its stream's age limit; the saga does not depend on it"},
		{StorageProviderChanged, NonEssential, Storage, "", "shows operators that the provider is away",
			"dropped at its stream's age limit; the next change has its own event"},
		{SignupStuck, NonEssential, Member, "", "notifies an operator, who also finds the signup in the console",
			"bounded attempts and age, then dropped and counted"},
	}
}

// RouteOf returns the table row of a type; false if the type is unknown.
func RouteOf(t Type) (Route, bool) {
	for _, r := range Table() {
		if r.Type == t {
			return r, true
		}
	}
	return Route{}, false
}

// SubjectPrefix returns what all subjects of a lane begin with; the event type follows.
func SubjectPrefix(l Lane) string { return "signup." + string(l) + "." }

// Stream names the JetStream stream of one producer and lane. Each stream has
// exactly one writing service, so that the broker can refuse a wrong writer.
func Stream(producer Service, l Lane) string {
	return strings.ToUpper(string(producer) + "_" + string(l))
}

// Source returns the CloudEvents source of a producer's events.
func Source(producer Service) string { return "/" + string(producer) + "-svc" }

// Subject returns the subject to which events of the type are published.
func (r Route) Subject() string { return SubjectPrefix(r.Lane) + string(r.Type) }

// Services lists the producers of the table, each once.
func Services() []Service {
	var all []Service
	for _, r := range Table() {
		if !slices.Contains(all, r.Producer) {
			all = append(all, r.Producer)
		}
	}
	return all
}

// Subjects lists the subjects of one producer and lane: the configuration of
// its [Stream]. A producer without events in a lane has no stream there.
func Subjects(producer Service, l Lane) []string {
	return subjects(func(r Route) bool { return r.Producer == producer && r.Lane == l })
}

// Commands lists the subjects of the commands for a participant. All of them are essential, and Member
// publishes them.
func Commands(participant Service) []string {
	return subjects(func(r Route) bool { return r.For == participant })
}

func subjects(of func(Route) bool) []string {
	var found []string
	for _, r := range Table() {
		if of(r) {
			found = append(found, r.Subject())
		}
	}
	return found
}
